"""The help of the command line: groups, defaults, and examples that can be parsed."""

import argparse
import shlex
import subprocess
import sys

import clara
import pytest
from clara.commands.help import EXAMPLES, GROUPS, HelpFormatter
from clara.commands.main import find_commands, main, make_parser


def shown(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([*words])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_every_command_has_a_group_a_summary_and_examples(capsys):
    commands = set(find_commands())
    assert {name for names in GROUPS.values() for name in names} == commands == set(EXAMPLES)
    text = shown(capsys, "--help")
    for name in commands:
        assert f"\n  {name} " in text
    assert "exit codes:" in text and "examples:" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("columns", ["60", "200"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_can_be_parsed_and_stand_at_the_end(name, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    text = shown(capsys, name, "--help")
    assert text.rstrip().endswith(EXAMPLES[name][-1]) and text.count("\nexamples:\n") == 1
    assert max(map(len, text.splitlines())) <= 100 and "exit codes: 0 done" in text
    for example in EXAMPLES[name]:
        program, *words = shlex.split(example)
        assert program == "clara" and make_parser().parse_args(words).command == name


def test_kinds_of_conversion_have_the_same_style(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = shown(capsys, "convert", "from-text-generation", "--help")
    assert 80 < max(map(len, text.splitlines())) <= 100


def test_defaults_are_shown_once():
    parser = argparse.ArgumentParser(formatter_class=HelpFormatter)
    parser.add_argument("--one", default=3, help="a number")
    parser.add_argument("--two", default=4, help="a number (default: by size)")
    parser.add_argument("--three", help="nothing by default")
    text = parser.format_help()
    assert "a number (default: 3)" in text and "by size)" in text and text.count("default") == 3


def test_version_and_module(capsys):
    assert shown(capsys, "--version") == f"clara {clara.__version__}\n"
    done = subprocess.run([sys.executable, "-m", "clara", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"clara {clara.__version__}\n")


def test_a_memory_that_is_not_there_is_told_before_a_model_is_loaded(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("clara.commands.ask.load_model", None)
    assert main(["ask", str(tmp_path / "none"), "Who?"]) == 2
    told = capsys.readouterr().err
    assert "none is no folder, nor a dataset repository" in told and "clara build-memory" in told
