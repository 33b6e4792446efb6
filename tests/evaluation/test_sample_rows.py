"""Rows for experiments: of files, and of the samples with pools and long documents."""

import json

import pytest
from clara.data.sample_corpus import sample_texts
from clara.evaluation.sample_rows import (
    SAMPLE_NAME,
    question_rows,
    sample_questions,
)


def test_sample_pools_hold_the_gold_documents_in_the_order_of_the_corpus():
    corpus = sample_texts()
    records = sample_questions(pool_size=6)
    assert len(records) > 80
    for record in records:
        assert len(set(record.documents)) == 6
        places = [corpus.index(text) for text in record.documents]
        assert places == sorted(places)
        gold = " ".join(record.documents[place] for place in record.positives)
        assert record.answers[0].lower() in gold.lower()
    assert any(record.positives != (0,) for record in records)


def test_rows_of_files_or_of_the_samples(tmp_path):
    records, name = question_rows(None, 3, 4)
    assert (len(records), len(records[0].documents), name) == (3, 4, SAMPLE_NAME)
    row = {"question": "who", "golden_answers": ["Ada"], "docs": ["Ada wrote."], "pos_index": [0]}
    for number in (1, 2):
        (tmp_path / f"{number}.jsonl").write_text((json.dumps(row) + "\n") * 3)
    files = [str(tmp_path / "1.jsonl"), str(tmp_path / "2.jsonl")]
    records, name = question_rows(files, 2)
    assert (len(records), name) == (4, "1.jsonl, 2.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="hold no question"):
        question_rows([str(tmp_path / "empty.jsonl")])
