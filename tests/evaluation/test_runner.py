"""A predictions file is continued after an interruption, and another run's is refused."""

import json

import pytest
from clara.evaluation.benchmarks import Example
from clara.evaluation.runner import read_predictions, run_system
from clara.evaluation.systems import Found, Prediction

EXAMPLES = [Example(str(i), f"question {i}", ("x",), (0,), ()) for i in range(7)]
SETTINGS = {"system": "clara", "retrieval_top_k": 5}


class CountingSystem:
    """Answers with the example's id; stops like an interruption after `limit` questions."""

    def __init__(self, limit=100, sizes=None):
        self.answered, self.limit, self.sizes = [], limit, sizes or {}

    def find(self, examples):
        return [Found(e, (0.5, 0.25), (3, 1), (1, 3), self.sizes.get(e.id, 10)) for e in examples]

    def read(self, found):
        if len(self.answered) + len(found) > self.limit:
            raise KeyboardInterrupt
        ids = [item.example.id for item in found]
        self.answered += ids
        return [Prediction(name, f"answer {name} é", (3, 1), (0.5, 0.25), 12) for name in ids]


def run(system, path, settings=SETTINGS, batch_size=2):
    return run_system(system, EXAMPLES, path, settings, batch_size)


def test_all_questions_are_answered_and_kept(tmp_path):
    path = tmp_path / "new" / "clara.jsonl"
    predictions = run(CountingSystem(), path)
    assert [p.id for p in predictions] == [str(i) for i in range(7)]
    head, stored = read_predictions(path)
    assert json.loads(path.read_text().splitlines()[1])["question"] == "question 0"
    assert stored == predictions
    assert head == SETTINGS


def test_an_interrupted_run_continues_without_repeating(tmp_path):
    path = tmp_path / "clara.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(CountingSystem(limit=5), path)
    assert len(read_predictions(path)[1]) == 4
    again = CountingSystem()
    predictions = run(again, path)
    assert again.answered == ["4", "5", "6"]
    assert predictions == run(CountingSystem(), tmp_path / "whole.jsonl")
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    finished = CountingSystem()
    run(finished, path)
    assert finished.answered == []


def test_similar_sizes_are_answered_together_and_come_back_in_order(tmp_path):
    path = tmp_path / "clara.jsonl"
    sizes = {"1": 90, "4": 70, "6": 80, "0": 5}
    with pytest.raises(KeyboardInterrupt):
        run(CountingSystem(limit=2, sizes=sizes), path)
    system = CountingSystem(sizes=sizes)
    predictions = run(system, path)
    assert system.answered == ["4", "2", "3", "5", "0"]  # 1 and 6 were answered before
    assert [p.id for p in predictions] == [str(i) for i in range(7)]
    assert [p.id for p in read_predictions(path)[1]] == ["1", "6", "4", "2", "3", "5", "0"]


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_line_cut_short_is_answered_again(tmp_path, cut):
    path = tmp_path / "clara.jsonl"
    whole = run(CountingSystem(), path)
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    again = CountingSystem()
    assert run(again, path) == whole
    assert again.answered
    assert path.read_bytes() == content


def test_a_head_cut_short_starts_anew(tmp_path):
    path = tmp_path / "clara.jsonl"
    path.write_text('{"settings": {"ab')
    assert len(run(CountingSystem(), path)) == 7


def test_the_file_of_another_run_is_refused(tmp_path):
    path = tmp_path / "clara.jsonl"
    run(CountingSystem(), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="another run .it differs in retrieval_top_k"):
        run(CountingSystem(), path, {**SETTINGS, "retrieval_top_k": 3})
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["not json\n", '{"id": "9"}\n', '["list"]\n'])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "clara.jsonl"
    run(CountingSystem(), path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], damage, *lines[1:]]))
    with pytest.raises(ValueError, match="is damaged"):
        run(CountingSystem(), path)


def test_other_questions_are_refused(tmp_path):
    path = tmp_path / "clara.jsonl"
    row = {"id": "9", "answer": "", "documents": [], "scores": [], "tokens_read": 0}
    path.write_text(json.dumps({"settings": SETTINGS}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="other questions"):
        run(CountingSystem(), path)


def test_bad_batch_size(tmp_path):
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        run(CountingSystem(), tmp_path / "x.jsonl", batch_size=0)
