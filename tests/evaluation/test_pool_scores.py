"""Pools ranked once and read for several k: the model's own ranking, recall of documents worked by hand."""

import torch
from clara.data.records import QuestionRecord
from clara.evaluation.benchmarks import build_benchmark
from clara.evaluation.language_models import memory_folder
from clara.evaluation.pool_scores import RECALL, score_pools
from conftest import DOCUMENTS, QUESTIONS

ROWS = [
    ("0", QuestionRecord(QUESTIONS[0], ("1890",), tuple(DOCUMENTS[:4]), (0,))),
    ("1", QuestionRecord(QUESTIONS[1], ("Christiaan Huygens",), tuple(DOCUMENTS[2:]), (0, 3))),
    ("2", QuestionRecord(QUESTIONS[2], ("Leipzig",), tuple(DOCUMENTS[1:3]), ())),
]


def test_ranking_recall_and_one_compression(shared_model, tmp_path, monkeypatch):
    benchmark = build_benchmark("pools", "normal", ROWS)
    folder = memory_folder(tmp_path, shared_model, benchmark.documents)
    ranked, scores = score_pools(shared_model, benchmark, [1, 4], 2, 2, folder)
    for row, (_, record) in zip(ranked, ROWS, strict=True):
        hits = shared_model.retrieve(record.question, shared_model.build_memory(record.documents), len(row))
        assert [benchmark.documents[i] for i in row] == [record.documents[i] for i in hits.indices]
    assert len(ranked[2]) == 2  # a pool smaller than k is read whole
    assert scores[4][RECALL] == [1, 1]
    first = [row[0] in example.positives for row, example in zip(ranked, benchmark.examples, strict=True)]
    assert scores[1][RECALL] == [float(first[0]), first[1] / 2]
    assert scores[1]["loss"] != scores[4]["loss"]
    monkeypatch.setattr(type(shared_model), "compress_passages", None)
    again, _ = score_pools(shared_model, benchmark, [1], 0, 2, folder)
    assert again == [row[:1] for row in ranked]


def test_each_compressor_has_its_own_folder(shared_model, model, tmp_path):
    first = memory_folder(tmp_path, shared_model, DOCUMENTS)
    assert memory_folder(tmp_path, shared_model, DOCUMENTS) == first
    assert memory_folder(tmp_path, shared_model, DOCUMENTS[:2]) != first
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_B.compressor" in n).add_(1)
    assert memory_folder(tmp_path, model, DOCUMENTS) != first
