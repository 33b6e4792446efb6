"""Memories in every stored format: what a coarse format loses, and only that."""

import argparse
import json

import pytest
import torch
from clara.evaluation.experiments import memory_dtypes
from clara.evaluation.experiments.memory_dtypes import ALL
from clara.memory_clara import CorpusMemory
from conftest import DOCUMENTS, QUESTIONS
from oracle import FACT, WIDTH, OracleModel, document, record
from pictures import assert_shows

ANSWERS = ["1890", "Christiaan Huygens", "Leipzig"]
# Beside a value of 1 int4 has steps of 1/7 and int8 of 1/127.
FAINT = 0.05


class FaintModel(OracleModel):
    """The answer stands faintly beside the key, in one row: a coarse format drops it and keeps the key."""

    def compress(self, passages, folder=None, batch_size=32):
        memory = super().compress(passages, folder)
        values = memory.values
        for row, text in enumerate(passages.texts):
            key, answer = map(int, FACT.search(text).groups())
            values[2 * row, answer] += FAINT
        columns = {"parents": passages.parents, "orders": passages.orders, "vectors": memory.vectors}
        return CorpusMemory(values, passages.texts, **columns, offsets=memory.offsets)

    def answer(self, questions, memories, max_new_tokens):
        answers = []
        for key, rows in zip(self.question_vectors(questions), memories, strict=True):
            first = torch.stack(rows)[:, 0].float()
            rest = first[(first @ key).argmax()] * (1 - key)
            answers.append((f"city{int(rest.argmax())}" if rest.max() > 0 else "unknown", len(rows)))
        return answers


def arguments(tmp_path, **kwargs):
    fields = {"files": None, "limit": 9, "pool_size": 4, "retrieval_top_k": 2, "max_new_tokens": 2}
    return argparse.Namespace(**{**fields, "batch_size": 2, "seed": 0, "runs": tmp_path, **kwargs})


def write_rows(file, keys):
    """Question `key` has three documents, its positive in the second place."""
    rows = [
        record(key, [document(20, 40), document(key, key + 1), document(21, 41)], [1], key + 1)
        for key in keys
    ]
    lines = [
        {"question": r.question, "golden_answers": r.answers, "docs": r.documents, "pos_index": r.positives}
        for r in rows
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


@pytest.fixture
def found(tmp_path):
    files = [write_rows(tmp_path / "one.jsonl", [0, 1, 2]), write_rows(tmp_path / "two.jsonl", [3])]
    options = arguments(tmp_path, files=files)
    benchmark, parts = memory_dtypes.read_files(options)
    return memory_dtypes.compare_formats(options, FaintModel(), benchmark, parts, tmp_path / "memory")


def test_int4_loses_the_faint_answers_and_int8_keeps_them(found):
    pooled = found["files"][ALL]
    assert {name: part["questions"] for name, part in found["files"].items()} == {
        ALL: 4,
        "one.jsonl": 3,
        "two.jsonl": 1,
    }
    f1 = {name: row["token_f1"]["mean"] for name, row in pooled["means"].items()}
    assert f1 == {"bfloat16": 1, "int8": 1, "int4": 0}
    assert pooled["differences"]["int8"]["token_f1"]["difference"] == 0
    assert pooled["differences"]["int4"]["token_f1"]["difference"] == -1
    assert found["same"] == {"int8": 1, "int4": 0}


def test_bytes_are_those_of_the_formats(found):
    # (M, H) = (2, 64): 2 bytes a value; 1 and a bfloat16 scale for 64; half and the same scale
    assert found["bytes"] == {"bfloat16": 2 * 2 * WIDTH, "int8": 2 * WIDTH + 4, "int4": WIDTH + 4}
    assert found["documents"] == 6  # the two strangers are shared by all questions


def test_the_page_judges_by_the_margin(found, tmp_path):
    page = memory_dtypes.render(found)
    assert "int8, F1: the difference is within 0.3 points, its whole interval is too." in page
    assert "int4, F1: the difference is **not** within 0.3 points, its whole interval is not." in page
    assert "## two.jsonl: 1 questions" in page
    rows = [
        part["differences"][name]["token_f1"] for part in found["files"].values() for name in ("int8", "int4")
    ]
    points = [100 * row["difference"] for row in rows]
    assert_shows(memory_dtypes.plot, found, tmp_path / "picture.png", points)


def test_answers_are_kept(tmp_path):
    file = write_rows(tmp_path / "one.jsonl", [0, 1])
    options = arguments(tmp_path / "runs", files=[file])
    benchmark, parts = memory_dtypes.read_files(options)
    first = memory_dtypes.compare_formats(options, FaintModel(), benchmark, parts, tmp_path / "runs/memory")
    silent = FaintModel()
    silent.answer = lambda *_: pytest.fail("a question was answered again")
    again = memory_dtypes.compare_formats(options, silent, benchmark, parts, tmp_path / "runs/memory")
    assert again == first


def test_with_a_model(shared_model, tmp_path):
    lines = [
        {"question": q, "golden_answers": [a], "docs": DOCUMENTS, "pos_index": [p]}
        for q, a, p in zip(QUESTIONS, ANSWERS, [0, 2, 1], strict=True)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = memory_dtypes.measure(arguments(tmp_path / "runs", files=[str(file)]), shared_model)
    assert list(result["files"]) == [ALL]
    assert result["compressed_in"] == "float32"
    assert result["bytes"]["bfloat16"] == 2 * 4 * 32
    assert len(list((tmp_path / "runs").glob("memory-????????????"))) == 1


def test_two_files_of_one_name_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    files = [write_rows(tmp_path / "one.jsonl", [0]), write_rows(tmp_path / "other" / "one.jsonl", [1])]
    with pytest.raises(ValueError, match="one.jsonl twice"):
        memory_dtypes.read_files(arguments(tmp_path, files=files))
