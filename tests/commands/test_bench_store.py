"""`clara bench store` as a user types it, on a tiny model."""

import argparse
import json

import pytest
from clara.commands import bench
from clara.commands.main import main
from conftest import DOCUMENTS, QUESTIONS


@pytest.fixture
def rows(tmp_path):
    """Files of documents and questions."""
    documents, questions = tmp_path / "documents.jsonl", tmp_path / "questions.jsonl"
    lines = [json.dumps({"id": f"d{row}", "text": text}) for row, text in enumerate(DOCUMENTS)]
    documents.write_text("\n".join(lines) + "\n")
    lines = [json.dumps({"question": text}) for text in [*QUESTIONS, *DOCUMENTS]]
    questions.write_text("\n".join(lines) + "\n")
    return documents, questions


@pytest.mark.slow
def test_measures_and_writes(rows, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("clara.store.indexes.SMALLEST", 6)
    words = ["bench", "store", "--model", checkpoint, "--device", "cpu", "--repeats", "1"]
    words += ["--asked", "2", "--documents", str(rows[0]), "--questions", str(rows[1]), "--sizes", "30", "60"]
    words += ["--folder", str(tmp_path / "stores"), "--output", str(tmp_path / "out"), "--kind", "IVF_FLAT"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "The store, up to 60 passages" in printed
    document = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert document["sections"][0]["facts"]["real passages"] == 6
    assert (tmp_path / "out" / "store.png").is_file()
    assert main(words) == 0  # the real memories are kept, and the largest store


def test_other_documents_in_the_folder(rows, shared_model, tmp_path):
    options = argparse.Namespace(documents=[rows[0]], real=4, stored="float32")
    assert len(bench.real_memory(shared_model, options, tmp_path / "real")) == 4
    assert len(bench.real_memory(shared_model, options, tmp_path / "real")) == 4
    options.real = 5
    with pytest.raises(ValueError, match="holds memories of other documents, or of another format"):
        bench.real_memory(shared_model, options, tmp_path / "real")


def test_some_questions_must_be_left(rows, shared_model, tmp_path, capsys):
    options = argparse.Namespace(questions=rows[1], asked=9, sizes=[30], folder=tmp_path, documents=[rows[0]])
    with pytest.raises(ValueError, match="`--asked` is 9 of 9 questions: leave some"):
        bench.store_section(options, shared_model)
