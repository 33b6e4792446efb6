"""Answer metrics for the `evaluate` library: exact match, token F1 and both kinds of cover exact match.

Offline by its path: `evaluate.load("<checkout>/evaluation/hf_metrics/clara_answers.py")`; or make a
`ClaraAnswers()`.
"""

import datasets
import evaluate
from clara.evaluation.metrics import score_answers

DESCRIPTION = "Mean exact match, token F1 and cover exact match (two conventions) of answers to questions."
INPUTS = "predictions: list of B strings. references: list of B lists of gold answers, none empty."


class ClaraAnswers(evaluate.Metric):
    """Means of `clara.evaluation.metrics` over the questions, each between 0 and 1."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": datasets.Sequence(text)})
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="arXiv 2511.18659", inputs_description=INPUTS, features=features
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        scores = score_answers(predictions, references)
        return {name: sum(values) / len(values) for name, values in scores.items()}
