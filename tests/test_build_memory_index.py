"""`clara build-memory --index`."""

import argparse
import json

import pytest
from clara.commands import build_memory
from clara.commands.main import main
from clara.memory_clara import CorpusMemory
from conftest import DOCUMENTS

pytest.importorskip("faiss")


def notes(tmp_path):
    (tmp_path / "notes").mkdir()
    for number, text in enumerate(DOCUMENTS):
        (tmp_path / "notes" / f"{number}.txt").write_text(text)
    return ["build-memory", str(tmp_path / "notes"), "--output", str(tmp_path / "out"), "--device", "cpu"]


@pytest.mark.parametrize("dtype", ["float32", "recompute"])
def test_the_command_builds_an_index(checkpoint, tmp_path, capsys, dtype):
    words = [*notes(tmp_path), "--model", checkpoint, "--dtype", dtype]
    assert main([*words, "--index", "flat"]) == 0
    assert "Its index (flat): recall" in capsys.readouterr().out
    index = CorpusMemory.from_pretrained(tmp_path / "out").index
    assert len(index) == 6 and index.recall["questions"] == 3


def test_real_questions_test_it(checkpoint, tmp_path, capsys):
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps({"question": f"What is {n}?"}) + "\n" for n in range(12)))
    words = [*notes(tmp_path), "--model", checkpoint, "--index", "flat", "--questions", str(file)]
    assert main(words) == 0
    assert CorpusMemory.from_pretrained(tmp_path / "out").index.recall["questions"] == 3
    file.write_text('{"q": "What?"}\n')
    assert main(words) == 2
    assert "a row with a text `question` is needed, got ['q']" in capsys.readouterr().err


def test_by_size():
    def wanted(index, passages, dtype=None):
        return build_memory.wants_index(passages, argparse.Namespace(index=index, dtype=dtype))

    assert not wanted("none", 200_000) and not wanted("auto", 99_999) and wanted("flat", 3)
    assert wanted("auto", 100_000) and not wanted("auto", 100_000, "recompute")
    assert wanted("flat", 3, "recompute")
