"""Ranking metrics for the `evaluate` library: Recall, Precision and nDCG at k, and MRR.

Offline by its path: `evaluate.load("<checkout>/evaluation/hf_metrics/clara_ranking.py")`; or make a
`ClaraRanking()`.
"""

import datasets
import evaluate
from clara.evaluation.ranking import score_ranking

DESCRIPTION = (
    "Mean Recall@k, Precision@k, nDCG@k and reciprocal rank of retrieved documents, counted by parent."
)
INPUTS = (
    "predictions: B lists of parent document ids, best first. references: B lists of the relevant ids, none "
    "empty. ks: cut-offs, by default 1, 3 and 5."
)


class ClaraRanking(evaluate.Metric):
    """Means of `clara.evaluation.ranking` over the questions, each between 0 and 1."""

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="arXiv 2511.18659",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": ids, "references": ids}),
        )

    def _compute(
        self, predictions: list[list[str]], references: list[list[str]], ks: tuple[int, ...] = (1, 3, 5)
    ) -> dict[str, float]:
        scores = score_ranking(predictions, references, ks)
        return {name: sum(values) / len(values) for name, values in scores.items()}
