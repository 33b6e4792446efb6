"""Comparing with recorded outputs: a model that is another one is told by name."""

import pytest
import torch
from clara.commands.main import main
from clara.convert.official import convert_official
from clara.convert.official_compare import compare, read_expected
from clara.modeling_clara import ClaraForRetrievalGeneration
from official_helpers import ANSWER_TOKENS, make_official, record


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    made = make_official(folder)
    record(made, folder / "expected")
    return convert_official(made.checkpoint, made.base, folder / "model"), folder / "expected"


@pytest.fixture(scope="module")
def model(recorded):
    return ClaraForRetrievalGeneration.from_pretrained(recorded[0])


def far(model, folder):
    found = compare(model, read_expected(folder), ANSWER_TOKENS)
    return {one.what for one in found if not one.close}


CHANGES = {
    "text_suffix": ("", {"encoder ids", "memory", "alignment loss", "query", "scores"}),
    "encoder_length": (None, {"encoder ids"}),
    "prompt_style": ("clara", {"prompt ids"}),
    "memory_suffix": ("", {"prompt ids"}),
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_that_is_off_is_seen(model, recorded, field, monkeypatch):
    value, seen = CHANGES[field]
    monkeypatch.setattr(model.processor, field, value)
    assert far(model, recorded[1]) >= seen


@pytest.mark.parametrize(
    ("adapter", "seen"),
    [
        ("compressor", {"memory", "alignment loss", "scores"}),
        ("query_reasoner", {"query", "scores"}),
        ("generator", {"answers"}),
    ],
)
def test_an_adapter_that_is_off_is_seen(model, recorded, adapter, seen):
    flipped = [parameter for name, parameter in model.named_parameters() if f"lora_B.{adapter}" in name]
    with torch.no_grad():
        for parameter in flipped:
            parameter.mul_(-1)
        found = far(model, recorded[1])
        for parameter in flipped:
            parameter.mul_(-1)
    assert found >= seen and not (found - seen - {"top-k", "answers"})


def test_the_command_prints_every_difference_and_fails_on_one(recorded, tmp_path, capsys):
    arguments = ["--expected", str(recorded[1]), "--max-new-tokens", str(ANSWER_TOKENS)]
    assert main(["convert", "compare", str(recorded[0]), *arguments]) == 0
    assert capsys.readouterr().out.count(" ok\n") == 8
    model = ClaraForRetrievalGeneration.from_pretrained(recorded[0], memory_suffix="")
    model.save_pretrained(tmp_path / "other")
    assert main(["convert", "compare", str(tmp_path / "other"), *arguments]) == 2
    printed = capsys.readouterr()
    assert "TOO FAR" in printed.out and "prompt ids" in printed.err


def test_recorded_outputs_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="`--expected` takes a folder"):
        read_expected(str(tmp_path))
