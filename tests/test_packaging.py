"""Tests of setup.py: what a wheel holds, and that `clara` imports from anywhere, plain and editable."""

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import clara
import pytest

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = ("setup",)
FOR_PUBLISHING = {"clara/model_card.md", "clara/LICENSE", "clara/py.typed"}
IGNORED = (
    ".git",
    ".venv",
    "build",
    "dist",
    "outputs",
    "checkpoints",
    "__pycache__",
    "*.egg-info",
    ".*_cache",
)
REPORT = "import clara, clara.modeling_clara, clara.data.documents as d; print(clara.__file__, d.__file__)"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the checkout, so that building leaves nothing in it."""
    folder = tmp_path_factory.mktemp("copy") / "checkout"
    return shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*IGNORED))


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture
def python(tmp_path):
    """The interpreter of a new environment that sees our third-party packages, but not this checkout."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    (packages / "third_party.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return str(folder / "bin" / "python")


def pip(python, *arguments):
    command = [sys.executable, "-m", "pip", "--python", python, *arguments, "--quiet"]
    subprocess.run([*command, "--disable-pip-version-check", "--no-cache-dir"], check=True)


def run(python, *arguments):
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, *arguments], cwd="/", capture_output=True, text=True, check=True, env=alone
    )
    return done.stdout


@pytest.mark.slow
def test_wheel_holds_every_module_and_the_samples_but_no_script(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        notices = [name for name in archive.namelist() if name.endswith("LICENSE")]
    root = {f"clara/{file.name}" for file in ROOT.glob("*.py") if file.stem not in LEFT_OUT}
    assert {name for name in names if name.count("/") == 1} == root | FOR_PUBLISHING
    rooms = [file.parent.name for file in ROOT.glob("*/__init__.py")]
    modules = {f"clara/{file.relative_to(ROOT)}" for room in rooms for file in (ROOT / room).rglob("*.py")}
    assert modules <= names
    assert {"clara/data/samples/corpus.jsonl", "clara/data/samples/questions.jsonl"} <= names
    assert {name.split("/")[0] for name in names} == {"clara"}
    assert not [name for name in names if name.startswith("clara/tests")]
    assert len(notices) == 2


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        text = archive.read(name).decode()
    fields = email.message_from_string(text)
    assert (fields["Name"], fields["Version"]) == ("clara-rag", clara.__version__)
    assert "Typing :: Typed" in fields.get_all("Classifier") and "Paper" in fields["Project-URL"]
    page = fields.get_payload()
    assert page.startswith("# CLaRa") and "](docs/" not in page and "](https://arxiv.org" in page
    assert wheel.stat().st_size < 40_000_000


@pytest.mark.slow
def test_plain_install_imports_from_anywhere(wheel, python):
    pip(python, "install", "--no-deps", "--no-index", "--ignore-installed", str(wheel))
    folder = Path(python).parents[1]
    assert all(Path(file).is_relative_to(folder) for file in run(python, "-c", REPORT).split())
    assert "build-memory" in run(str(folder / "bin" / "clara"), "--help")


@pytest.mark.slow
def test_editable_install_imports_from_anywhere(source, python):
    pip(
        python,
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--ignore-installed",
        "--editable",
        str(source),
    )
    assert all(Path(file).is_relative_to(source) for file in run(python, "-c", REPORT).split())
    assert "build-memory" in run(str(Path(python).parent / "clara"), "--help")
