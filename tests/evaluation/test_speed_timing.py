"""Turns, marks, ratios and the line that names the machine."""

import json
import socket

import pytest
import torch
from clara.evaluation.speed.timing import environment, measure

CPU = torch.device("cpu")


def test_variants_take_turns_and_the_warm_up_does_not_count():
    calls = []
    runs = {"a": lambda number: calls.append(("a", number)), "b": lambda number: calls.append(("b", number))}
    seconds = measure(runs, 2, CPU)
    warm_up = [("b", 0), ("a", 0)]
    assert calls == [*warm_up, ("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    assert list(seconds) == ["a", "b"]
    assert all(len(rounds) == 2 for rounds in seconds.values())


def test_marks_of_a_variant_are_kept_beside_its_wall_time():
    seconds = measure({"a": lambda number: {"first": float(number)}}, 3, CPU)
    assert seconds["first"] == [0.0, 1.0, 2.0]
    assert len(seconds["a"]) == 3 and min(seconds["a"]) > 0


def test_refuses_no_round():
    with pytest.raises(ValueError, match="`repeats` must be at least 1, got 0"):
        measure({"a": lambda number: None}, 0, CPU)


def test_environment_names_the_machine_but_no_host(shared_model):
    facts = environment(shared_model)
    assert facts["dtype"] == "float32" and facts["device"] == "cpu" and facts["threads"] >= 1
    assert facts["contended"] in (True, False)
    assert facts["torch"] == torch.__version__
    assert socket.gethostname() not in json.dumps(facts)
