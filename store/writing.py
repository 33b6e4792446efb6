"""Writers of a store: one at a time on this machine; what a dead one left goes; errors say what they mean."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
from filelock import FileLock, Timeout

LOCK, AT_WORK, BUILD = ".clara.lock", ".clara.writing", "_build"
PLAN = "plan.json"
EVER = timedelta(days=36_500)


def local_folder(uri: str) -> Path | None:
    """The folder of a store on this machine; None for object storage."""
    if uri.startswith("file://"):
        return Path(uri.removeprefix("file://"))
    return None if "://" in uri else Path(uri)


@contextmanager
def writing(uri: str, options: dict[str, str] | None) -> Iterator[None]:
    """Holds other writers of this machine off while the block runs, and cleans up after one that died.

    Raises:
        NotADirectoryError: If the folder is a file.
        RuntimeError: If another process writes to the store.
    """
    folder = local_folder(uri)
    if folder is None:
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: give the path of a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / BUILD / PLAN).is_file():
        raise RuntimeError(
            f"A build in {uri} is not finished: run it again, or discard it, before you write."
        )
    try:
        with FileLock(folder / LOCK, timeout=0, thread_local=False):
            shutil.rmtree(folder / BUILD, ignore_errors=True)  # of a build that was killed at its very end
            mark = folder / AT_WORK
            if mark.exists():
                clean(uri, options)
            mark.touch()
            yield
            mark.unlink()
    except Timeout as error:
        raise RuntimeError(
            f"Another process writes to {uri}: wait until it is done, or write to another store."
        ) from error


def clean(uri: str, options: dict[str, str] | None) -> None:
    """Removes files that no version names; the caller knows that no writer is at work."""
    try:
        dataset = lance.dataset(uri, storage_options=options)
    except ValueError:
        return  # the dead writer had not made the table yet
    for name in ("data", "_deletions", "_indices"):
        for path in (local_folder(uri) / name).rglob("*"):
            if path.is_file():
                os.utime(path, (0, 0))  # Lance spares young files, whose writer may be at work
    dataset.cleanup_old_versions(EVER, delete_unverified=True)
    if half := half_removed(dataset, local_folder(uri)):
        dataset.cleanup_old_versions(versions=half, error_if_tagged_old_versions=False)


def half_removed(dataset: Any, folder: Path) -> list[int]:
    """Numbers of the versions that lack files: an `optimize` that died had begun to remove them."""
    found = []
    for entry in dataset.versions()[:-1]:
        fragments = dataset.checkout_version(entry["version"]).get_fragments()
        files = (folder / "data" / file.path for fragment in fragments for file in fragment.data_files())
        if not all(file.is_file() for file in files):
            found.append(entry["version"])
    return found


@contextmanager
def reported(uri: str, where: Any = None) -> Iterator[None]:
    """Turns what Lance raises into errors that name the store and the way out.

    Raises:
        OSError: If the disk is full or the storage fails.
        ValueError: If a filter is malformed, or the store is damaged.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except (FileExistsError, FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise OSError(error.errno, f"The store {uri} cannot be read or written: {error}") from error
    except ValueError as error:
        if where is not None and "Invalid user input" in str(error):
            raise ValueError(f"`where` {where!r} is no filter of this store: {error}") from error
        raise
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(
            f"The store {uri} is damaged ({error}): restore an earlier version, or build it again."
        ) from error
