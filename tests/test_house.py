"""The laws of the house: what the Hub needs lies flat in the root, and importing anything does nothing."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HUB_FILES = sorted(ROOT.glob("*_clara.py"))
ROOMS = (
    "bases", "convert", "store", "data", "train", "evaluation", "serving", "hub", "integrations", "commands",
)  # fmt: skip
MAY_IMPORT = {
    "bases": {"bases"},
    "convert": {"convert", "bases"},
    "store": {"store"},
    "data": {"data", "bases", "store"},
    "train": {"train", "data", "bases"},
    "evaluation": {"evaluation", "data", "train", "store"},
    "serving": {"serving", "data", "store", "convert", "integrations"},
    "hub": {"hub", "bases", "data", "train", "evaluation", "serving", "store"},
    "integrations": {"integrations"},
    "commands": set(ROOMS),
}
SOURCES = sorted([*ROOT.glob("*.py"), *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))])
HUB_PACKAGES = {"torch", "transformers", "peft", "safetensors", "huggingface_hub", "numpy", "pyarrow", "tqdm"}
NO_PLACE = {
    "subprocess",
    "multiprocessing",
    "socket",
    "urllib",
    "http",
    "requests",
    "httpx",
    "runpy",
    "ctypes",
}
THEIR_OWN_NEEDS = {"filelock", "jinja2"}
MAX_FILE, MAX_FUNCTION = 500, 40
RELATIVE = re.compile(r"from \.([a-z_0-9]+_clara) import [A-Za-z_(]")
SAYS_NOTHING = (
    "import sys; before = set(sys.modules); import {name}; print(sorted(set(sys.modules) - before))"
)


def name_of(path):
    return str(path.relative_to(ROOT))


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree):
    """Absolute module names of every import of a file, relative ones with their dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node, "." * node.level + (node.module or "")


OWN_CLASSES = {
    node.name for file in SOURCES for node in ast.walk(tree_of(file)) if isinstance(node, ast.ClassDef)
}


REMOTE = {  # what `trust_remote_code=True` executes
    "adapters", "checkpoint", "configuration", "generation", "memory", "modeling", "pipeline", "processing",
    "prompts", "retrieval",
}  # fmt: skip


def test_the_model_is_ten_files_which_start_no_process_and_open_no_connection():
    assert {file.stem.removesuffix("_clara") for file in HUB_FILES} == REMOTE
    assert len(list(ROOT.glob("*.py"))) <= 13
    for file in HUB_FILES:
        for node, module in imported(tree_of(file)):
            assert module.split(".")[0] not in NO_PLACE, f"{file.name}:{node.lineno} imports {module}"


@pytest.mark.parametrize("path", HUB_FILES, ids=name_of)
def test_hub_files_import_only_siblings_in_the_one_form(path):
    """Anything else is not copied, or breaks loading as remote code."""
    tree = tree_of(path)
    siblings = {file.stem for file in HUB_FILES}
    top = {id(node) for node in tree.body}
    for node, module in imported(tree):
        assert id(node) in top, (
            f"line {node.lineno}: an import that is not at the top is still required at load"
        )
        if module.startswith("."):
            assert module.startswith(".") and not module.startswith(".."), f"line {node.lineno}"
            assert module[1:] in siblings, f"line {node.lineno}: {module} is no root sibling"
        else:
            package = module.split(".")[0]
            assert package in HUB_PACKAGES | THEIR_OWN_NEEDS | sys.stdlib_module_names, (
                f"line {node.lineno}: {module}"
            )


@pytest.mark.parametrize("path", HUB_FILES, ids=name_of)
def test_hub_files_hold_no_line_that_looks_like_an_import(path):
    """transformers reads imports with regular expressions, in docstrings and comments too."""
    tree = tree_of(path)
    real = {node.lineno for node, _ in imported(tree)}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if re.match(r"\s*(from\s+\S+\s+import|import\s+\S)", line.lstrip("#\"' ")):
            assert number in real, f"line {number} looks like an import: {line}"
        if line.startswith("from ."):
            assert RELATIVE.match(line), f"line {number} is not `from .x_clara import name`: {line}"


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room):
    for path in (ROOT / room).rglob("*.py"):
        for node, module in imported(tree_of(path)):
            where = f"{name_of(path)}:{node.lineno} imports {module}"
            assert not re.match(r"(clara\.)?\.*tests\b", module), where
            target = module.lstrip(".").removeprefix("clara.").split(".")[0]
            if module.startswith(("clara", "..")) and target in ROOMS:
                assert target in MAY_IMPORT[room], where


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            text_lines = node.body[0].end_lineno - node.body[0].lineno + 1
            length = node.end_lineno - node.lineno + 1 - (text_lines if ast.get_docstring(node) else 0)
            assert length <= MAX_FUNCTION, f"{node.name} (line {node.lineno}) has {length} lines"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_library_code_neither_prints_nor_asserts_nor_swallows(path):
    tree = tree_of(path)
    library = (
        path.parent == ROOT
        and path.name.endswith("_clara.py")
        or path.relative_to(ROOT).parts[0] in ROOMS[:-1]
    )
    for node in ast.walk(tree):
        where = f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Assert), f"{where} asserts"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert not (library and node.func.id == "print"), f"{where} prints"
            if node.func.id == "isinstance":
                tested = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
                assert not tested & OWN_CLASSES, (
                    f"{where} tests for a class of our own, of which remote code has a copy"
                )
        if isinstance(node, ast.ExceptHandler):
            silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            assert node.type is not None and not silent, f"{where} swallows errors"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_machine_paths(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"[\"'](/home/|/work/|/mnt/|/root/|/Users/|[A-Z]:\\\\)", text)


def test_every_hub_file_has_a_twin():
    missing = [
        file.name for file in HUB_FILES if not (ROOT / "tests" / "model" / f"test_{file.name}").exists()
    ]
    assert not missing


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )


def test_the_package_itself_imports_nothing():
    done = run(SAYS_NOTHING.format(name="clara"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['clara']"


def test_importing_every_hub_file_does_nothing():
    """No output, no file, no thread, no environment, no random state, no global option of torch."""
    modules = [f"clara.{file.stem}" for file in HUB_FILES]
    code = (
        "import os, sys, threading, warnings\n"
        "import torch, transformers, peft, pyarrow, safetensors, huggingface_hub, tqdm.auto\n"
        "from transformers import AutoModel, AutoProcessor\n"
        "import transformers.modeling_utils, transformers.generation, transformers.processing_utils\n"
        "def look():\n"
        "    return (dict(os.environ), threading.active_count(), torch.get_rng_state().sum().item(),\n"
        "            torch.get_default_dtype(), torch.is_grad_enabled(), sorted(os.listdir('.')),\n"
        "            torch.get_num_threads(), list(sys.path), list(warnings.filters))\n"
        "before = look()\n"
        + "".join(f"import {module}\n" for module in modules)
        + "assert look() == before\n"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
