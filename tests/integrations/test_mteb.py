"""`mteb` itself evaluates a tiny model on a small retrieval task made here."""

import pytest
from conftest import DOCUMENTS, QUESTIONS

mteb = pytest.importorskip("mteb")
from clara.integrations.mteb import ClaraMteb  # noqa: E402
from datasets import Dataset  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402

GOLD = {"q0": {"d0": 1}, "q1": {"d2": 1}, "q2": {"d1": 1}}


class Sights(AbsTaskRetrieval):
    metadata = TaskMetadata(
        name="Sights",
        dataset={"path": "made/here", "revision": "1"},
        description="Six passages.",
        reference=None,
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
    )

    def load_data(self, *args, **kwargs):
        split = dict(
            corpus=Dataset.from_list(
                [{"id": f"d{n}", "title": "", "text": t} for n, t in enumerate(DOCUMENTS)]
            ),
            queries=Dataset.from_list([{"id": f"q{n}", "text": text} for n, text in enumerate(QUESTIONS)]),
            relevant_docs=GOLD,
            top_ranked=None,
        )
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


def test_recall_is_that_of_retrieve(shared_model):
    model = ClaraMteb(shared_model, "org/tiny")
    results = mteb.evaluate(model, Sights(), cache=None, show_progress_bar=False)
    (scores,) = results.task_results[0].scores["test"]
    memory = shared_model.build_memory(DOCUMENTS, show_progress=False)
    hits = shared_model.retrieve(QUESTIONS, memory, retrieval_top_k=3)
    found = [list(GOLD[f"q{n}"])[0][1:] in row for n, row in enumerate(hits.document_ids)]
    assert scores["recall_at_3"] == pytest.approx(sum(found) / 3, abs=1e-3)
    assert model.mteb_model_meta.name == "org/tiny"
