"""Neighbour overlap and rank correlation by hand; the experiment on a tiny model and a toy encoder."""

import argparse
import json

import numpy as np
import pytest
import torch
from clara.evaluation.experiments import similarity as experiment

from .conftest import DOCUMENTS


def test_neighbour_overlap_by_hand():
    first = np.array([[1, 0.9, 0.1, 0.2], [0.9, 1, 0.5, 0.1], [0.1, 0.5, 1, 0.3], [0.2, 0.1, 0.3, 1]])
    second = np.array([[1, 0.9, 0.8, 0.0], [0.9, 1, 0.1, 0.5], [0.8, 0.1, 1, 0.9], [0.0, 0.5, 0.9, 1]])
    assert experiment.neighbour_overlap(first, second, 1) == [1, 1, 0, 1]
    assert experiment.neighbour_overlap(first, second, 2) == [0.5, 0.5, 0.5, 0.5]
    assert experiment.neighbour_overlap(first, second, 3) == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="`k` must be between 1 and the 3 other documents, got 4"):
        experiment.neighbour_overlap(first, second, 4)


def test_rank_correlation_by_hand():
    assert experiment.rank_correlation(np.array([1, 2, 3.0]), np.array([10, 20, 100.0])) == pytest.approx(1)
    # ranks 0 1 2 3 against 1 0 3 2: 1 - 6 * 4 / (4 * 15) = 0.6
    assert experiment.rank_correlation(np.array([1, 2, 3, 4.0]), np.array([2, 1, 4, 3.0])) == pytest.approx(
        0.6
    )


def test_readings_by_hand():
    vectors = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    assert experiment.similarities(vectors, "own")[0].tolist() == pytest.approx([1, 0, 0.5**0.5])
    centred = vectors - vectors.mean(0)
    expected = torch.cosine_similarity(centred[0], centred[1], dim=0)
    assert experiment.similarities(vectors, "centred")[0, 1].item() == pytest.approx(expected.item())


class LetterEncoder:
    def encode(self, texts, **_):
        counts = np.array(
            [[text.lower().count(letter) for letter in "abcdefgh"] for text in texts], dtype=float
        )
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_the_whole_experiment(shared_model, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "load_sentence_encoder", lambda path: LetterEncoder())
    file = tmp_path / "rows.jsonl"
    row = {"question": "q", "golden_answers": ["a"], "docs": [*DOCUMENTS, DOCUMENTS[0]], "pos_index": [0]}
    file.write_text(json.dumps(row) + "\n")
    parser = argparse.ArgumentParser()
    experiment.add_arguments(parser)
    result = experiment.measure(parser.parse_args(["--file", str(file), "--ks", "1", "5"]), shared_model)
    assert result["documents"] == len(DOCUMENTS)
    assert result["chance"] == {"1": 0.2, "5": 1.0}
    assert all(row["overlap"]["5"]["mean"] == 1 for row in result["readings"].values())
    assert -1 <= result["readings"]["own"]["rank_correlation"] <= 1
    assert "| by chance | 0 |  | 20.0 | 100.0 |" in experiment.render(result)
    pytest.importorskip("matplotlib")
    experiment.plot(json.loads(json.dumps(result)), tmp_path / "x.png")
    assert (tmp_path / "x.png").is_file()


def test_too_few_documents(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(
        json.dumps({"question": "q", "golden_answers": ["a"], "docs": ["x"], "pos_index": [0]}) + "\n"
    )
    with pytest.raises(ValueError, match="at least two are needed"):
        experiment.drawn_documents(str(file), 5, 0)
