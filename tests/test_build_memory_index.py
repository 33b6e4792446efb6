"""`clara build-memory --index`."""

import pytest
from clara.commands import build_memory
from clara.commands.main import main
from clara.memory_clara import CorpusMemory
from conftest import DOCUMENTS
from store_helpers import make_memory

pytest.importorskip("faiss")


def test_the_command_builds_an_index(checkpoint, tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    for number, text in enumerate(DOCUMENTS):
        (tmp_path / "notes" / f"{number}.txt").write_text(text)
    words = ["build-memory", str(tmp_path / "notes"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--model", checkpoint, "--index", "flat"]) == 0
    assert "Its index (flat): recall" in capsys.readouterr().out
    assert len(CorpusMemory.from_pretrained(tmp_path / "out").index) == 6


def test_by_size(tmp_path, capsys):
    make_memory(20).save_pretrained(tmp_path)
    for kind, passages in (("none", 200_000), ("auto", 99_999)):
        build_memory.build_index(tmp_path, passages, kind)
        assert CorpusMemory.from_pretrained(tmp_path).index is None
    build_memory.build_index(tmp_path, 100_000, "auto")
    assert CorpusMemory.from_pretrained(tmp_path).index.kind == "flat"
