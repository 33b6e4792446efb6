"""README: its Python blocks run in order, its commands and links exist.

A block opened with "```python" runs; one opened with "```python fragment" is only compiled.
"""

import os
import re
from pathlib import Path

import pytest
from clara.commands.models import SHIPPED
from conftest import ROOT
from transformers import AutoModel

README = ROOT / "README.md"
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```\s*$", re.DOTALL | re.MULTILINE)


def blocks(language):
    """(number of the line, words after the language, code) of each block."""
    text = README.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        if match[1] in language:
            yield text[: match.start()].count("\n") + 1, match[2].split(), match[3]


def run_python():
    """Runs the blocks one after the other in one namespace, as a reader would."""
    namespace = {"__name__": "__main__"}
    for line, words, code in blocks({"python"}):
        program = compile("\n" * line + code, str(README), "exec")
        if "fragment" not in words:
            exec(program, namespace)
    return namespace


def commands(program):
    """First word after a program in the shell blocks, with its line."""
    for line, _, code in blocks({"bash", "sh", "shell", "console"}):
        for offset, text in enumerate(code.splitlines()):
            match = re.match(rf"(?:\$ )?{program} ([a-z][a-z-]*)", text.strip())
            if match:
                yield line + 1 + offset, match[1]


def test_there_is_a_quickstart():
    assert list(blocks({"python"})), "README.md has no python block"


def test_blocks_run_on_a_tiny_model(base, checkpoint, tmp_path, monkeypatch):
    """Every base is the tiny one here; the shipped checkpoint, and one of no folder, the tiny checkpoint."""
    load = AutoModel.from_pretrained

    def load_tiny(name, *args, **kwargs):
        return load(name if os.path.isdir(name) else checkpoint, *args, **kwargs)

    monkeypatch.setattr("clara.checkpoint_clara.base_path", lambda name: base)
    monkeypatch.setattr(AutoModel, "from_pretrained", load_tiny)
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").mkdir()
    Path("checkpoints", SHIPPED.name).symlink_to(checkpoint)
    run_python()


@pytest.mark.slow
def test_blocks_run_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").symlink_to(ROOT / "checkpoints")
    found = run_python()
    assert found["answer"] == "1890" and found["hits"].document_ids == ["forth"]


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for line, target in commands("make"):
        assert target in targets, f"README.md:{line}: make {target}"


def test_clara_commands_exist():
    folder = ROOT / "commands"
    known = {file.stem.replace("_", "-") for file in folder.glob("*.py")}
    for line, command in commands("clara"):
        assert command in known, f"README.md:{line}: clara {command}"


def test_links_lead_somewhere():
    text = README.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (README.parent / Path(target)).exists(), f"README.md links to {target}"
