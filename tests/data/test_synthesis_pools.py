import asyncio
import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("bm25s")
pytest.importorskip("datatrove")

from clara.data.readers import read_questions
from clara.data.synthesis.finish import finish_distillation, write_end_to_end
from clara.data.synthesis.questions import (
    SeedQuestion,
    agrees,
    build_pools,
    distil,
    distillation_items,
    read_seeds,
)
from clara.data.synthesis.rank import run_rank
from clara.data.synthesis.retrievers import BM25Retriever, ClaraRetriever, DenseRetriever, InTurns
from clara.data.synthesis.teacher import Reply

CORPUS = [
    "The Forth Bridge in Scotland was opened in 1890.",
    "Titan is a moon of Saturn.",
    "Basalt is a dark volcanic rock.",
    "The Rhine rises in the Alps.",
    "Ada Lovelace wrote notes in 1843.",
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_bm25_finds_the_documents_with_the_question_s_words():
    found = BM25Retriever(CORPUS).search(["When was the Forth Bridge opened?", "dark rock"], 2)
    assert [texts[0] for texts in found] == [CORPUS[0], CORPUS[2]]
    assert [len(texts) for texts in BM25Retriever(CORPUS).search(["zebra"], 50)] == [5]


def test_dense_ranks_by_cosine():
    vectors = {"a": [9, 0], "b": [1, 1], "c": [0, 0.1], "q": [0, 5]}
    retriever = DenseRetriever(["a", "b", "c"], lambda texts: np.array([vectors[text] for text in texts]))
    assert retriever.search(["q"], 2) == [["c", "b"]]


def test_clara_ranks_by_its_memory():
    class Model:
        def retrieve(self, questions, memory, retrieval_top_k):
            assert retrieval_top_k == 3
            return SimpleNamespace(indices=[[2, 0, 1] for _ in questions])

    class Memory:
        texts = ["a", "b", "c"]

        def __len__(self):
            return 3

    assert ClaraRetriever(Model(), Memory()).search(["q", "r"], 20) == [["c", "a", "b"]] * 2


def test_retrievers_take_turns():
    class Fixed:
        def __init__(self, *texts):
            self.texts = list(texts)

        def search(self, questions, k):
            return [self.texts[:k] for _ in questions]

    found = InTurns(Fixed("a", "b", "c", "d"), Fixed("b", "x", "a", "y")).search(["q", "r"], 4)
    assert found == [["a", "b", "x", "c"]] * 2


def test_candidates_with_an_answer_are_left_out_unless_known():
    seed = SeedQuestion("q", ("volcanic rock", "in"), (CORPUS[2],))
    assert _documents([seed], without_answers=True) == set(CORPUS)  # "in" is too short to count
    seed = SeedQuestion("q", ("Saturn",), (CORPUS[2],))
    assert _documents([seed], size=4, without_answers=True) == {*CORPUS} - {CORPUS[1]}
    with pytest.raises(ValueError, match="only 4 different documents"):
        _documents([seed], without_answers=True)


def _documents(seeds, size=5, **options):
    (record,) = build_pools(seeds, InOrder(), size, **options)
    return set(record.documents)


@pytest.mark.parametrize("make", [BM25Retriever, lambda documents: DenseRetriever(documents, np.array)])
def test_empty_corpus_is_refused(make):
    with pytest.raises(ValueError, match="`documents` is empty"):
        make([])


class InOrder:
    """Finds the corpus in its order."""

    def search(self, questions, k):
        return [CORPUS[:k] for _ in questions]


def test_forced_positives_are_always_in_the_pool():
    seed = SeedQuestion("q", ("a",), (CORPUS[4], "a text outside the corpus"))
    (record,) = build_pools([seed], InOrder(), size=4)
    assert {record.documents[i] for i in record.positives} == set(seed.positives)
    assert set(record.documents) == {*seed.positives, *CORPUS[:2]}
    assert len(record.documents) == 4


def test_places_of_forced_positives_vary_with_the_seed_only():
    seeds = [SeedQuestion(f"q{n}", ("a",), (CORPUS[4],)) for n in range(30)]
    places = [record.positives for record in build_pools(seeds, InOrder(), size=4, seed=1)]
    assert len(set(places)) > 1
    assert places == [record.positives for record in build_pools(seeds, InOrder(), size=4, seed=1)]


def test_pools_as_retrieved_mark_positives_where_they_occur():
    seeds = [SeedQuestion("q", ("a",), (CORPUS[1],)), SeedQuestion("r", ("a",), (CORPUS[4],))]
    first, second = build_pools(seeds, InOrder(), size=3, force_positives=False)
    assert (first.documents, first.positives) == (tuple(CORPUS[:3]), (1,))
    assert second.positives == ()


def test_texts_that_differ_in_marks_only_are_one_candidate():
    seed = SeedQuestion("q", ("a",), (CORPUS[0].upper() + "!",))
    (record,) = build_pools([seed], InOrder(), size=3)
    assert sorted(text.lower().rstrip("!") for text in record.documents) == sorted(
        t.lower() for t in CORPUS[:3]
    )


@pytest.mark.parametrize(
    ("seed", "size", "message"),
    [
        (SeedQuestion("q"), 2, "no answers for the question 'q'"),
        (SeedQuestion("q", ("a",), ("x", "y", "z")), 2, "3 positives do not fit into a pool of `size` 2"),
        (SeedQuestion("q", ("a",)), 6, "only 5 different documents for 'q', but `size` is 6"),
        (SeedQuestion("q", ("a",)), 0, "`size` must be at least 1"),
    ],
)
def test_impossible_pools_are_refused(seed, size, message):
    with pytest.raises(ValueError, match=message):
        list(build_pools([seed], InOrder(), size=size))


def test_seeds_of_all_kinds_of_rows(tmp_path):
    rows = [
        {"question": ["q1", "q2"], "answers": ["a1", "a2"], "docs": ["d"], "id": "x"},
        {"data_type": "paraphrase", "question": "", "answers": ["p"], "docs": ["d"]},
        {"question": "q3", "golden_answers": ["a3", "b3"], "docs": ["d", "e"], "pos_index": [1]},
        {"question": "q4", "answer": "a4", "positives": [0]},
        {"question": "q5"},
    ]
    assert list(read_seeds(write(tmp_path / "a.jsonl", rows))) == [
        SeedQuestion("q1", ("a1",), ("d",), "x-0"),
        SeedQuestion("q2", ("a2",), ("d",), "x-1"),
        SeedQuestion("q3", ("a3", "b3"), ("e",)),
        SeedQuestion("q4", ("a4",)),
        SeedQuestion("q5"),
    ]
    with pytest.raises(ValueError, match="a.jsonl:1: `question` must be a text"):
        list(read_seeds(write(tmp_path / "a.jsonl", [{"text": "x"}])))


def test_end_to_end_rows_are_written_and_read(tmp_path):
    corpus = write(tmp_path / "corpus.jsonl", [{"id": str(n), "text": text} for n, text in enumerate(CORPUS)])
    seeds = write(
        tmp_path / "q.jsonl",
        [{"question": "Titan?", "answer": "moon", "docs": [CORPUS[1]], "pos_index": [0]}],
    )
    assert write_end_to_end([corpus], seeds, tmp_path / "out", pool_size=3, form="parquet") == 1
    (record,) = read_questions(tmp_path / "out" / "data")
    assert record.documents[record.positives[0]] == CORPUS[1]
    assert "100.0% of the pools" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("It was 1890.", ["1890"], True),
        ("Curie", ["Marie Curie"], True),
        ("art", ["Bart"], False),
        ("Paris", ["London", "PARIS!"], True),
        ("...", ["a"], False),
        ("a", [], False),
    ],
)
def test_agreement_with_gold(answer, gold, expected):
    assert agrees(answer, gold) is expected


class Answers:
    """Answers by question."""

    def __init__(self, **answers):
        self.answers = answers

    async def complete(self, request):
        return Reply(self.answers[request.messages[-1]["content"].rsplit("Question: ")[-1]])


def test_distilled_rows_keep_what_agrees_and_count_the_rest(tmp_path):
    from contextlib import asynccontextmanager

    seeds = [
        SeedQuestion("good", ("1890",), (CORPUS[0],), "g"),
        SeedQuestion("bad", ("1890",)),
        SeedQuestion("open"),
        SeedQuestion("none", ("x",)),
        SeedQuestion("mad", ("x",)),
    ]
    replies = {
        "good": '{"answer": "in 1890"}',
        "bad": '{"answer": "in 1900"}',
        "open": '{"answer": "free"}',
        "none": '{"answerable": false, "answer": ""}',
        "mad": "I'm sorry, I cannot.",
    }

    @asynccontextmanager
    async def teacher():
        yield Answers(**replies)

    run_rank(distillation_items(seeds, InOrder(), 3), distil, teacher, tmp_path)
    counts = finish_distillation(tmp_path)
    assert counts == {"accepted": 2, "disagrees_with_gold": 1, "unanswerable": 1, "refusal": 1}
    rows = {record.question: record for record in read_questions(tmp_path / "data")}
    assert (rows["good"].target, rows["good"].answers, rows["good"].positives) == ("in 1890", ("1890",), (0,))
    assert (rows["open"].target, rows["open"].positives) == ("free", ())
    assert len(rows["good"].documents) == 3
    assert "| accepted | 2 |" in (tmp_path / "report.md").read_text()


def test_distillation_prompt_holds_all_documents():
    seen = []

    class Watching:
        async def complete(self, request):
            seen.append(request.messages[-1]["content"])
            return Reply('{"answer": "x"}')

    (item,) = distillation_items([SeedQuestion("q")], InOrder(), 5)
    asyncio.run(distil(item, Watching()))
    assert all(text in seen[0] for text in CORPUS)
    with pytest.raises(ValueError, match="holds no raw outcomes"):
        finish_distillation("/nonexistent")
