"""With memories that carry the answer, every system, setting and metric gives a known value."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clara.evaluation.benchmarks import build_benchmark
from clara.evaluation.readers import MemoryReader
from clara.evaluation.reports import score_predictions
from clara.evaluation.retrievers import GivenRetriever
from clara.evaluation.systems import SYSTEMS, Recipe, System, Workbench
from clara.memory_clara import CorpusMemory
from oracle import OracleModel, OracleTextModel, document, question, record

NUM_QUESTIONS = 8


def make_records():
    """Question i has 6 documents; its only positive stands at place i % 6."""
    rows = []
    for key in range(NUM_QUESTIONS):
        documents = [document(20 + place, 40 + place, note=f"distractor {place}") for place in range(5)]
        documents.insert(key % 6, document(key, key))
        rows.append((str(key), record(key, documents, [key % 6])))
    return rows


def make_workbench(tokenizer, setting="normal", k=3, rows=None, pool_size=4):
    tuned = OracleTextModel(tokenizer)
    benchmark = build_benchmark("nq", setting, rows or make_records(), pool_size=pool_size)
    model = OracleModel()
    bench = Workbench(benchmark, model, OracleTextModel(tokenizer), retrieval_top_k=k, tuned_model=tuned)
    return benchmark, model, bench


def answers(system, examples):
    return system.read(system.find(examples))


def means(benchmark, bench, name, ks=(1, 3)):
    scores = score_predictions(benchmark.examples, answers(bench.system(name), benchmark.examples), ks)
    return {metric: float(np.mean(values)) for metric, values in scores.items()}


# In the setting normal with pools of 4 the positive is in the pool where i % 6 < 4: for 6 of the 8 questions.
EXPECTED = {
    "clara": {"normal": (0.75, 0.75, 0.75), "oracle": (1, 1, 1)},
    "clara_each": {"normal": (0.75, 0.75, 0.75), "oracle": (1, 1, 1)},
    "clara_corpus": {"normal": (1, 1, 1), "oracle": (1, 1, 1)},
    "clara_each_corpus": {"normal": (1, 1, 1), "oracle": (1, 1, 1)},
    # Order of the pool: places 0, 1, 2 for i = 0, 6, 1, 7, 2 (and in oracle 3 is the last place for 3, 4, 5).
    "clara_given": {"normal": (5 / 8, 2 / 8, 5 / 8), "oracle": (5 / 8, 2 / 8, 5 / 8)},
    "clara_shuffled": {"normal": (0, 0.75, 0.75), "oracle": (0, 1, 1)},
    "text": {"normal": (5 / 8, 2 / 8, 5 / 8), "oracle": (5 / 8, 2 / 8, 5 / 8)},
    "text_clara": {"normal": (0.75, 0.75, 0.75), "oracle": (1, 1, 1)},
    "tuned": {"normal": (5 / 8, 2 / 8, 5 / 8), "oracle": (5 / 8, 2 / 8, 5 / 8)},
    "tuned_clara": {"normal": (0.75, 0.75, 0.75), "oracle": (1, 1, 1)},
    "cut": {"normal": (0, 2 / 8, 5 / 8), "oracle": (0, 2 / 8, 5 / 8)},
    "closed_book": {"normal": (0, None, None), "oracle": (0, None, None)},
}


@pytest.mark.parametrize("setting", ["normal", "oracle"])
@pytest.mark.parametrize("name", EXPECTED)
def test_oracle_values(name, setting, tokenizer):
    benchmark, _, bench = make_workbench(tokenizer, setting)
    values = means(benchmark, bench, name)
    quality, recall_at_1, recall_at_3 = EXPECTED[name][setting]
    for metric in ("exact_match", "token_f1", "cover_exact_match", "cover_bag_of_tokens"):
        assert values[metric] == pytest.approx(quality), metric
    if recall_at_1 is None:
        assert "recall@1" not in values
    else:
        assert values["recall@1"] == pytest.approx(recall_at_1)
        assert values["recall@3"] == pytest.approx(recall_at_3)


def test_bm25_finds_the_key_word(tokenizer):
    pytest.importorskip("bm25s")
    rows = [
        (str(key), record(key, [document(k, k, note=f"{k}") for k in range(12, 18)], [key - 12]))
        for key in (13, 16)
    ]
    benchmark, _, bench = make_workbench(tokenizer, "normal", k=1, rows=rows, pool_size=6)
    assert means(benchmark, bench, "text_bm25", ks=(1,))["exact_match"] == 1
    assert means(benchmark, bench, "clara_bm25", ks=(1,))["exact_match"] == 1
    assert means(benchmark, bench, "cut_bm25", ks=(1,))["recall@1"] == 1


def test_documents_are_compressed_once_for_all_systems(tokenizer):
    benchmark, model, bench = make_workbench(tokenizer)
    for name in ("clara", "clara_corpus", "clara_shuffled", "clara_given", "text_clara"):
        answers(bench.system(name), benchmark.examples)
    assert model.compressed == len(benchmark.documents)


def test_split_documents_are_counted_by_parent(tokenizer):
    long = document(1, 1) + "||" + document(30, 30)
    rows = [("0", record(1, [document(2, 2), long], [1])), ("1", record(30, [document(2, 2), long], [1]))]
    benchmark, _, bench = make_workbench(tokenizer, k=2, rows=rows)
    assert len(bench.passages.texts) == 3
    predictions = answers(bench.system("clara"), benchmark.examples)
    assert [p.answer for p in predictions] == ["city1", "city30"]
    assert all(p.documents[0] == 1 for p in predictions)
    assert means(benchmark, bench, "clara", ks=(1, 2))["recall@1"] == 1


def test_pools_smaller_than_k_read_what_there_is(tokenizer):
    rows = [("0", record(1, [document(1, 1)], [0])), ("1", record(2, [document(3, 3), document(2, 2)], [1]))]
    benchmark, _, bench = make_workbench(tokenizer, k=5, rows=rows)
    for name in ("clara", "clara_given", "text"):
        predictions = answers(bench.system(name), benchmark.examples)
        assert [p.answer for p in predictions] == ["city1", "city2"]
        assert [len(p.documents) for p in predictions] == [1, 2]


def test_settings_name_what_a_system_depends_on(tokenizer):
    _, _, bench = make_workbench(tokenizer)
    _, _, other = make_workbench(tokenizer, "oracle")
    assert bench.settings("clara") != other.settings("clara")
    assert bench.settings("clara") == make_workbench(tokenizer)[2].settings("clara")
    assert "text_model" in bench.settings("text_bm25")
    assert "text_model" not in bench.settings("clara")
    assert bench.settings("cut")["compression_rate"] == 16
    assert "seed" in bench.settings("clara_shuffled")
    assert "encoder" in bench.settings("text_dense")


def test_stored_bytes(tokenizer):
    _, _, bench = make_workbench(tokenizer)
    memory, vector = 2 * 64 * 4, 64 * 4
    text = sum(len(t.encode()) for t in bench.passages.texts) / len(bench.passages.texts)
    assert bench.bytes_per_passage("clara") == memory + vector
    assert bench.bytes_per_passage("clara_given") == memory
    assert bench.bytes_per_passage("text") == pytest.approx(text)
    assert bench.bytes_per_passage("text_clara") == pytest.approx(text + vector)
    assert bench.bytes_per_passage("closed_book") == 0
    assert 0 < bench.bytes_per_passage("cut") < text / 8


@pytest.mark.parametrize(
    ("dtype", "vector"),
    [("float32", 64 * 4), ("bfloat16", 64 * 2), ("int8", 64 + 2), ("int4", 64 // 2 + 2)],  # with a scale
)
def test_stored_bytes_of_a_memory_are_those_of_its_format(dtype, vector):
    """Three vectors of width 64 in two passages."""
    memory = CorpusMemory(torch.ones(3, 64), ["a", "b"], offsets=torch.tensor([0, 2, 3]), dtype=dtype)
    assert MemoryReader(None, memory).bytes_per_passage == 1.5 * vector


def test_tokens_read_are_those_of_the_prompt(tokenizer):
    benchmark, _, bench = make_workbench(tokenizer, k=3)
    clara, text, cut, closed = (
        answers(bench.system(name), benchmark.examples)[0].tokens_read
        for name in ("clara", "text", "cut", "closed_book")
    )
    assert clara == 6
    assert closed < cut < text


def same(first, second):
    return all(map(torch.equal, first, second))


def test_the_control_reads_passages_from_outside_the_pool(tokenizer):
    benchmark, model, bench = make_workbench(tokenizer, "oracle")
    read = []
    model.answer = lambda questions, memories, _: [read.append(memory) or ("", 0) for memory in memories]
    system = bench.system("clara_shuffled")
    answers(system, benchmark.examples)
    together, read[:] = list(read), []
    for example in benchmark.examples:
        answers(system, [example])
    assert all(map(same, together, read))
    for example, memory in zip(benchmark.examples, read, strict=True):
        own = bench.memory.gather(example.pool)
        assert len(memory) == 3
        assert not any(torch.equal(row, other) for row in memory for other in own)


def test_the_control_needs_other_passages(tokenizer):
    rows = [("0", record(1, [document(1, 1), document(2, 2)], [0]))]
    benchmark, _, bench = make_workbench(tokenizer, rows=rows)
    with pytest.raises(ValueError, match="only 0 passages lie outside its pool, 2 are needed"):
        answers(bench.system("clara_shuffled"), benchmark.examples)


def test_unknown_system_and_given_order_of_a_corpus(tokenizer):
    _, _, bench = make_workbench(tokenizer)
    with pytest.raises(ValueError, match="`system` must be one of clara"):
        bench.system("gpt")
    with pytest.raises(ValueError, match="`pools` is missing"):
        GivenRetriever().search([question(1)], 1)


def test_every_recipe_can_be_made(tokenizer):
    pytest.importorskip("bm25s")
    _, _, bench = make_workbench(tokenizer)
    for name, recipe in SYSTEMS.items():
        if recipe.retriever != "dense":
            assert bench.system(name) is not None


def test_strangers_are_drawn_from_outside_by_seed_and_question():
    passages = SimpleNamespace(texts=list("abcdefghij"), parents=[str(i // 2) for i in range(10)])

    def strangers(seed, name):
        example = SimpleNamespace(id=name, pool=(0, 1), positives=(3,))
        bench = Workbench(None, None, None, seed=seed)
        bench.passages = passages
        return System(bench, Recipe("clara", "strangers"), None, None)._to_read(example, [0, 1])

    drawn = {(seed, name): strangers(seed, name) for seed in range(5) for name in "abcde"}
    assert {passage for found in drawn.values() for passage in found} == {4, 5, 8, 9}
    assert drawn == {key: strangers(*key) for key in drawn}
    assert len({tuple(drawn[seed, "a"]) for seed in range(5)}) > 1
    assert len({tuple(drawn[0, name]) for name in "abcde"}) > 1
