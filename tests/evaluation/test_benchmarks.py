"""Pools in both settings, deduplication, left-out rows and bad arguments."""

import json
import os
from pathlib import Path

import pytest
import torch
from clara.data.records import QuestionRecord
from clara.evaluation.benchmarks import (
    BENCHMARKS,
    build_benchmark,
    choose_pool,
    load_benchmark,
    whole_documents,
    with_documents,
)
from clara.memory_clara import CorpusMemory

SHARED = Path(os.environ.get("CLARA_SHARED", Path(__file__).resolve().parents[3] / "shared"))
ROWS = [
    {"question": "q0", "golden_answers": ["x"], "docs": ["a", "b", "c", "d"], "pos_index": [3]},
    {"question": "q1", "golden_answers": ["*", "y"], "docs": ["b", "e", "a", "b"], "pos_index": [1, 2]},
    {"question": "q2", "golden_answers": ["*"], "docs": ["f", "a", "b", "c"], "pos_index": [0]},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def texts(benchmark, indices):
    return [benchmark.documents[index] for index in indices]


def test_normal_takes_the_first_documents(file):
    benchmark = load_benchmark("nq", "normal", file, pool_size=2)
    first, second = benchmark.examples
    assert texts(benchmark, first.pool) == ["a", "b"]
    assert texts(benchmark, first.positives) == ["d"]
    assert texts(benchmark, second.pool) == ["b", "e"]


def test_oracle_forces_the_positives_in(file):
    benchmark = load_benchmark("nq", "oracle", file, pool_size=2)
    first, second = benchmark.examples
    assert texts(benchmark, first.pool) == ["a", "d"]
    assert texts(benchmark, second.pool) == ["e", "a"]


def test_documents_are_listed_once_and_rows_without_a_scorable_answer_are_left_out(file):
    benchmark = load_benchmark("nq", "normal", file)
    assert sorted(benchmark.documents) == ["a", "b", "c", "d", "e", "f"]
    assert [example.id for example in benchmark.examples] == ["0", "1"]
    assert benchmark.examples[1].answers == ("y",)
    assert texts(benchmark, benchmark.examples[1].pool) == ["b", "e", "a"]
    assert benchmark.skipped == ("2",)


def test_limit_and_fingerprint(file):
    whole = load_benchmark("nq", "normal", file)
    assert len(load_benchmark("nq", "normal", file, limit=1).examples) == 1
    assert load_benchmark("nq", "normal", file).fingerprint() == whole.fingerprint()
    assert load_benchmark("nq", "oracle", file).fingerprint() != whole.fingerprint()


def test_more_documents_come_last_and_none_twice(file):
    benchmark = load_benchmark("nq", "normal", file)
    longer = with_documents(benchmark, ["a", "g h", "g\nh", " b"])
    assert longer.documents == (*benchmark.documents, "g h")
    assert longer.examples == benchmark.examples and longer.fingerprint() != benchmark.fingerprint()


def test_documents_of_a_memory_are_whole():
    columns = {"texts": ["x", "one", "two", "y"], "document_ids": ["0", "1#0", "1#1", "2"]}
    memory = CorpusMemory(
        torch.ones(4, 2),
        **columns,
        parents=["0", "1", "1", "2"],
        orders=[0, 0, 1, 0],
        offsets=torch.arange(5),
    )
    assert list(whole_documents(memory)) == ["x", "one two", "y"]


def test_fill_pools_adds_the_best_documents_of_others():
    pytest.importorskip("bm25s")
    rows = [
        ("0", QuestionRecord("river of Egypt", ("Nile",), ("Rome lies on the Tiber",))),
        (
            "1",
            QuestionRecord("capital", ("Paris",), ("The river of Egypt is the Nile", "Paris is a capital")),
        ),
    ]
    benchmark = build_benchmark("nq", "normal", rows, pool_size=2, fill=True)
    assert texts(benchmark, benchmark.examples[0].pool) == [
        "Rome lies on the Tiber",
        "The river of Egypt is the Nile",
    ]
    assert len(benchmark.examples[1].pool) == 2


def test_bad_input(file, tmp_path):
    with pytest.raises(
        ValueError, match="`benchmark` must be one of nq, hotpotqa, musique, 2wiki, got 'squad'"
    ):
        load_benchmark("squad", source=file)
    with pytest.raises(ValueError, match="`setting` must be one of normal, oracle, got 'gold'"):
        load_benchmark("nq", "gold", file)
    with pytest.raises(ValueError, match="`limit` must be at least 1, got 0"):
        load_benchmark("nq", source=file, limit=0)
    with pytest.raises(ValueError, match="`pool_size` must be 5 or 20"):
        load_benchmark("nq", pool_size=7)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(ValueError, match="holds no question"):
        load_benchmark("nq", source=empty)


def test_oracle_needs_positives():
    record = QuestionRecord("q", ("x",), ("a", "b", "c"), ())
    with pytest.raises(ValueError, match="row 4: the setting 'oracle' needs between 1 and `pool_size` = 2"):
        choose_pool(record, "oracle", 2, row="4")
    with pytest.raises(ValueError, match="got 3"):
        choose_pool(QuestionRecord("q", ("x",), ("a", "b", "c"), (0, 1, 2)), "oracle", 2)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_real_rows_are_read(name):
    path = SHARED / "data" / "dev" / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip("the shared data is not here")
    benchmark = load_benchmark(name, "oracle", path, pool_size=10, limit=60)
    assert all(set(example.positives) <= set(example.pool) for example in benchmark.examples)
