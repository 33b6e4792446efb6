"""The set of ids: nothing is forgotten, nothing is made up."""

import pytest
from clara.data import document_ids
from clara.data.document_ids import IdSet


@pytest.mark.parametrize("recent", [1, 7, 64, 1 << 16])
def test_holds_what_was_added_and_nothing_else(monkeypatch, recent):
    monkeypatch.setattr(document_ids, "RECENT", recent)
    seen = IdSet()
    for start in range(0, 1000, 100):
        values = [f"d{row}" for row in range(start, start + 100)]
        assert not any(value in seen for value in values)
        seen.update(values)
        assert all(value in seen for value in values)
    assert len(seen) == 1000 and len(seen._sorted) <= 10
    assert "d0" in seen and "d999" in seen and "" not in seen and "d1000" not in seen


def test_digests_that_end_with_zeros(monkeypatch):
    monkeypatch.setattr(document_ids, "RECENT", 2)
    monkeypatch.setattr(document_ids, "_digest", lambda value: value.encode().ljust(16, b"\0"))
    seen = IdSet()
    seen.update(["a", "a\0b", "c"])
    assert "a" in seen and "a\0b" in seen and "b" not in seen and "a\0c" not in seen
