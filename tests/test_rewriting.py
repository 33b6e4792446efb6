"""What survives rewriting, counted on texts known beforehand."""

from clara.evaluation import rewriting
from conftest import DOCUMENTS


def test_shares_of_what_was_said_again(shared_model, monkeypatch):
    said = ["The Forth Bridge was opened in 1890.", "Nothing of it."]
    monkeypatch.setattr(rewriting, "rewritten", lambda model, passages, factor: said)
    kept = rewriting.kept_in_rewriting(shared_model, [DOCUMENTS[0], DOCUMENTS[5]])
    assert kept["dates"]["mean"] == 0.5  # 1890 is kept, 1843 is not
    assert kept["dates"]["documents"] == 2
    assert 0 < kept["rouge_l"]["mean"] < 1
    assert "numbers" not in kept
    assert rewriting.kept_in_rewriting(shared_model, []) == {}


def test_texts_come_in_the_order_of_the_passages(shared_model, monkeypatch):
    passages = [DOCUMENTS[3], DOCUMENTS[0][:40], DOCUMENTS[1][:41]]
    said = []

    def write(self, embeds, mask, max_new_tokens):
        said.append(len(embeds))
        return [str(float(row[own.bool()].sum())) for row, own in zip(embeds, mask, strict=True)]

    monkeypatch.setattr(rewriting.ClaraModel, "write", write)
    together = rewriting.rewritten(shared_model, passages)
    apart = [rewriting.rewritten(shared_model, [text])[0] for text in passages]
    assert said == [3, 1, 1, 1]
    for one, other in zip(together, apart, strict=True):
        assert abs(float(one) - float(other)) < 1e-2
    assert len(set(together)) == 3
