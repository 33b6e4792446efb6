"""Order of passages and recall over length, with numbers worked by hand."""

import argparse

import pytest
from clara.data.records import QuestionRecord
from clara.evaluation.experiments import passage_order
from clara.evaluation.experiments.passage_order import LongDocuments, chance, ordered
from conftest import DOCUMENTS
from pictures import assert_shows

LONG = " ".join(DOCUMENTS)
RECORDS = [
    QuestionRecord("When was the Forth Bridge opened?", ("1890",), (LONG,), (0,)),
    QuestionRecord("Where was she born?", ("Leipzig",), (LONG,), (0,)),
    QuestionRecord("Who?", ("nobody",), (" ".join(DOCUMENTS[::-1]),), (0,)),
    QuestionRecord("Short?", ("Ada",), ("Ada wrote.",), (0,)),
]


def arguments(**kwargs):
    fields = {"files": None, "limit": 3, "retrieval_top_k": 2, "max_passages": 80, "max_new_tokens": 2}
    return argparse.Namespace(
        **{**fields, "per_document": None, "batch_size": 2, "no_text": False, "seed": 0, **kwargs}
    )


def test_chance_is_hypergeometric():
    assert chance(4, 1, 2) == pytest.approx(0.5)
    assert chance(5, 2, 2) == pytest.approx(1 - 3 / 5 * 2 / 4)
    assert chance(3, 1, 5) == 1
    assert chance(3, 0, 2) == 0


def test_orders():
    rows = [[5, 3, 4], [9, 8]]
    assert ordered(rows, "in order", 0) == [[3, 4, 5], [8, 9]]
    assert ordered(rows, "backwards", 0) == [[5, 4, 3], [9, 8]]
    shuffled = ordered(rows, "shuffled", 0)
    assert [sorted(row) for row in shuffled] == [[3, 4, 5], [8, 9]]
    assert shuffled == ordered(rows, "shuffled", 0)


def test_documents_of_one_passage_are_left_out(shared_model):
    long = LongDocuments(shared_model, RECORDS, max_passages=40)
    assert len(long.records) == 3
    assert len(long.documents) == 2
    assert long.parts[0] == long.parts[1] != long.parts[2]
    first, second, third = long.holders()
    assert all("1890" in long.passages.texts[passage] for passage in first) and first
    assert all("Leipzig" in long.passages.texts[passage] for passage in second) and second
    assert third == []
    lines = passage_order.recall_by_length(long, {"memories": [first, [], []]}, 2, 0)
    assert sum(line["questions"] for line in lines) == 2
    hits = [line["recall"]["memories"]["mean"] * line["questions"] for line in lines]
    assert sum(hits) == 1


def test_measure_page_and_picture(shared_model, tmp_path):
    result = passage_order.measure(arguments(), shared_model)
    assert result["questions"] == 3
    assert len(result["means"]) == 9
    assert len(result["differences"]) == 8
    page = passage_order.render(result)
    assert "| whole document, shuffled |" in page
    scores = [100 * row["token_f1"]["mean"] for row in result["means"].values()]
    assert_shows(passage_order.plot, result, tmp_path / "picture.png", scores)
    short = passage_order.measure(arguments(no_text=True), shared_model)
    assert len(short["means"]) == 6


def test_no_long_document_is_an_error(shared_model):
    with pytest.raises(ValueError, match="order needs two"):
        passage_order.measure(arguments(max_passages=1), shared_model)


def test_questions_of_a_document_are_limited():
    kept = passage_order.first_of_documents(RECORDS, 1)
    assert [record.question for record in kept] == [RECORDS[0].question, RECORDS[2].question, "Short?"]
    assert (
        passage_order.first_of_documents(RECORDS, 2)
        == passage_order.first_of_documents(RECORDS, None)
        == RECORDS
    )
    with pytest.raises(ValueError, match="`--per-document`"):
        passage_order.first_of_documents(RECORDS, 0)


def test_the_limit_counts_the_questions_that_are_left_of_each_file(tmp_path):
    asked = '[{"question": "a%d?", "answers": ["x"]}, {"question": "b?", "answers": ["y"]}]'
    row = f'{{"document": "%s", "qa": {asked}}}'
    for name in ("one", "two"):
        lines = [row % (f"{name} text {number}", number) for number in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    files = [str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")]
    records, source = passage_order.long_rows(arguments(files=files, limit=2, per_document=1))
    assert [record.question for record in records] == ["a0?", "a1?"] * 2
    assert source == "one.jsonl, two.jsonl"
    assert len(passage_order.long_rows(arguments(files=files, limit=5))[0]) == 10
