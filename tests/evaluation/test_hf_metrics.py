"""The `evaluate` wrappers, loaded by path offline or made directly, give the pure functions' means."""

from pathlib import Path

import pytest

evaluate = pytest.importorskip("evaluate")

import clara.evaluation.hf_metrics as hf_metrics  # noqa: E402
from clara.evaluation.hf_metrics.clara_answers import ClaraAnswers  # noqa: E402
from clara.evaluation.hf_metrics.clara_ranking import ClaraRanking  # noqa: E402

FOLDER = Path(hf_metrics.__file__).parent
ANSWERS = {"predictions": ["Paris", "york new"], "references": [["Paris"], ["New York", "NYC"]]}
RANKINGS = {"predictions": [["a", "b"], ["b", "c"]], "references": [["a"], ["c", "d"]]}


@pytest.fixture(autouse=True, scope="module")
def private_cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate_cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.config.HF_MODULES_CACHE", str(folder))
        patch.setattr("evaluate.config.HF_METRICS_CACHE", str(folder / "metrics"))
        yield


def load(name, by_path):
    if by_path:
        return evaluate.load(str(FOLDER / f"{name}.py"))
    return {"clara_answers": ClaraAnswers, "clara_ranking": ClaraRanking}[name]()


@pytest.mark.parametrize("by_path", [True, False])
def test_answers(by_path):
    assert load("clara_answers", by_path).compute(**ANSWERS) == {
        "exact_match": 0.5,
        "token_f1": 1.0,
        "cover_exact_match": 0.5,
        "cover_bag_of_tokens": 1.0,
    }


@pytest.mark.parametrize("by_path", [True, False])
def test_ranking(by_path):
    scores = load("clara_ranking", by_path).compute(**RANKINGS, ks=(1, 2))
    assert scores["recall@1"] == 0.5
    assert scores["recall@2"] == 0.75
    assert scores["precision@2"] == 0.5
    assert scores["mrr"] == 0.75


def test_batches_add_up():
    metric = ClaraAnswers()
    for prediction, reference in zip(*ANSWERS.values(), strict=True):
        metric.add(predictions=prediction, references=reference)
    assert metric.compute()["exact_match"] == 0.5
