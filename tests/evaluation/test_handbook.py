"""The handbook: thirty files, all read; sixty questions, whose answers stand where they should."""

import argparse
from collections import Counter

import pytest
from clara.data.documents import find_files, read_documents
from clara.data.readers import read_rows
from clara.data.skipped import Skipped
from clara.evaluation.experiments import handbook

pytest.importorskip("markitdown")
pytest.importorskip("bm25s")


@pytest.fixture(scope="module")
def documents():
    return {document["id"]: document["text"] for document in read_documents(handbook.FOLDER / "files")}


@pytest.fixture(scope="module")
def rows():
    return [row for _, row in read_rows(handbook.FOLDER / "questions.jsonl")]


def test_every_file_of_every_kind_is_read(documents):
    skipped = Skipped(quiet=True)
    files = find_files(handbook.FOLDER / "files", skipped)
    assert len(files) == 30 and len({file.suffix for file, _ in files}) == 9 and not skipped
    assert len(documents) == 32  # the .jsonl file holds three


def test_answers_stand_in_the_document_that_is_named_and_nowhere_where_there_is_none(documents, rows):
    assert Counter(bool(row["answers"]) for row in rows) == {True: 45, False: 15}
    for row in rows:
        if row["answers"]:
            assert any(answer in documents[row["document"]] for answer in row["answers"]), row


def test_the_experiment_on_a_tiny_model(shared_model, tmp_path):
    arguments = argparse.Namespace(folder=handbook.FOLDER, limit=3, max_new_tokens=2, seed=0, reading=None)
    result = handbook.measure(arguments, shared_model)
    assert (result["files"], result["questions"], result["unanswerable"]) == (30, 3, 3)
    recall = {name: values["recall@5"]["mean"] for name, values in result["recall"].items()}
    assert recall["words"] == 1 and len(result["told"]) == 6
    assert sum(row["refused"] for row in result["told"][3:]) / 3 == pytest.approx(
        result["answers"]["refused, of the unanswerable"]["mean"]
    )
    assert "| words | " in handbook.render(result)
    handbook.plot(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
