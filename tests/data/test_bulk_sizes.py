"""What a corpus will take, by hand."""

from types import SimpleNamespace

import torch
from clara.data.bulk import sizes as sizes_module
from clara.data.bulk.plan import survey
from clara.data.bulk.sizes import Count, count_passages, sizes
from test_bulk_plan import write


def model_of(hidden_size, pooling="mean", vectors=16):
    config = SimpleNamespace(
        retrieval_pooling=pooling,
        num_memory_tokens=vectors,
        get_text_config=lambda: SimpleNamespace(hidden_size=hidden_size),
    )
    return SimpleNamespace(config=config)


def test_bytes_of_every_format_by_hand():
    found = {size.name: size for size in sizes(Count(1000, 9000, True), 500_000, model_of(576))}
    assert found["bfloat16"].each == 9 * 576 * 2 and found["bfloat16"].total == 9000 * 1152
    assert found["int8"].each == 9 * (576 + 9 * 2) and found["int4"].each == 9 * (288 + 9 * 2)
    assert found["search vectors"].each == 1152 and found["their index"].each == 72 + 19
    assert found["bfloat16"].texts == 9000 * 1152 / 500_000
    assert "int4" not in {size.name for size in sizes(Count(1, 1, True), 1, model_of(3))}
    flat = {size.name: size for size in sizes(Count(1, 1, True), 1, model_of(8, "flatten"))}
    assert flat["search vectors"].each == 2 * 8 * 16


class Processor:
    """Splits at `x` and gives a vector for every character."""

    def __init__(self):
        self.looked = []

    def split_documents(self, texts, headers):
        self.looked.extend(texts)
        return [text.split("x") for text in texts]

    def encode_documents(self, texts):
        width = max(map(len, texts))
        return {
            "attention_mask": torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
        }

    def memory_counts(self, mask):
        return mask.sum(dim=1).tolist()


def test_passages_are_counted_or_estimated(tmp_path, monkeypatch):
    corpus, processor = survey([write(tmp_path, 30, 70)]), Processor()
    vectors = 100 * len("tet é") + 10 + 2 * 90
    assert count_passages(corpus, processor) == (200, vectors, True)
    monkeypatch.setattr(sizes_module, "SAMPLE", 10)
    processor.looked.clear()
    passages, found, exact = count_passages(corpus, processor)
    assert (passages, exact) == (200, False) and abs(found - vectors) <= 10
    assert processor.looked == [f"text é{row}" for row in range(0, 100, 10)]
