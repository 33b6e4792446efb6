"""docs/training.md: the files, options and numbers that it names are those of the code."""

import argparse
import re

from clara.commands import bench
from clara.train.arguments import ClaraTrainingConfig
from clara.train.gpu import prepare
from clara.train.gpu import train as gpu_train
from clara.train.recipe import ScriptArguments
from clara.train.stages import STAGES
from conftest import ROOT
from transformers import HfArgumentParser

PAGE = ROOT / "docs" / "training.md"
LAUNCHING = {"config", "config_file", "plan"}


def test_files_exist():
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:train|tests)/[\w./-]+\.(?:yaml|py)\b", text))
    assert len(named) > 8
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_options_and_fields_exist():
    parsers = [HfArgumentParser((ScriptArguments, ClaraTrainingConfig))]
    parsers.append(argparse.ArgumentParser())
    bench.add_arguments(parsers[-1])
    parsers += [prepare.make_parser(), gpu_train.make_parser()]
    known = {action.dest for parser in parsers for action in parser._actions} | LAUNCHING
    text = PAGE.read_text(encoding="utf-8")
    assert not sorted(set(re.findall(r"--([a-z_]+)", text.replace("attn-i", "attn_i"))) - known)
    table = text.split("## Options that the paper")[1]
    fields = re.findall(r"^\| `([a-z_]+)(?:: [^`]*)?` \|", table, re.MULTILINE)
    assert len(fields) == 10
    assert set(fields) <= known


def test_the_stages_numbers_are_the_tables():
    text = PAGE.read_text(encoding="utf-8")
    for name, stage in STAGES.items():
        (row,) = re.findall(rf"^\| `{name}` .*$", text, re.MULTILINE)
        rate = f"{stage.learning_rate:.0e}".replace("e-0", "e-")
        assert f"| {rate}, {stage.batch_size} " in row
        assert ("alignment" in row) == bool(stage.alignment_weight)
