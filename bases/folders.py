"""Folders that appear when they are complete, and what lies in one."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def complete_folder(target: Path) -> Iterator[Path]:
    """A folder that takes the name `target` when the block has ended; after an error nothing is left.

    Raises:
        FileExistsError: If `target` holds something already.
    """
    check_free(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    folder.mkdir()
    try:
        yield folder
        os.replace(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_free(target: Path) -> None:
    """Raises a `FileExistsError` if `target` holds something already."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"`output` {target} is there already: remove it or choose another folder.")


def list_files(folder: Path) -> dict[str, int]:
    """Every file below a folder and its bytes, by its path from there, in order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def copy_or_link(source: str, target: str) -> None:
    """Copies a file; large ones share their bytes where the file system allows it."""
    if os.path.getsize(source) > 1_000_000:
        try:
            os.link(source, target)
            return
        except OSError as error:
            if os.path.exists(target):
                raise FileExistsError(target) from error
    shutil.copyfile(source, target)
