"""What a corpus will take, by hand."""

from clara.data.bulk import sizes as sizes_module
from clara.data.bulk.plan import survey
from clara.data.bulk.sizes import count_passages, sizes
from test_bulk_plan import write


def test_bytes_of_every_mode_by_hand():
    found = {size.mode: size for size in sizes(1000, 500_000, (16, 576))}
    assert found["bfloat16"].each == 16 * 576 * 2 and found["bfloat16"].total == 18_432_000
    assert found["int8"].each == 16 * 576 + 16 * 9 * 2
    assert found["int4"].each == 16 * 288 + 16 * 9 * 2
    assert found["recompute"].total == 0
    assert found["index flat"].each == 1024 and found["index ivf_pq"].total == 312_000
    assert found["bfloat16"].texts == 18_432_000 / 500_000
    assert "int4" not in {size.mode for size in sizes(1, 1, (2, 3))}


def test_passages_are_counted_or_estimated(tmp_path, monkeypatch):
    corpus = survey([write(tmp_path, 30, 70)])
    assert count_passages(corpus, lambda texts: [text.split("x") for text in texts]) == (200, True)
    monkeypatch.setattr(sizes_module, "SAMPLE", 10)
    looked = []

    def split(texts):
        looked.extend(texts)
        return [[text] * 3 for text in texts]

    assert count_passages(corpus, split) == (300, False)
    assert looked == [f"text é{row}" for row in range(0, 100, 10)]
