"""Reads a user's own documents from files of many kinds, one at a time, in a fixed order."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .document_rows import ROWS, TABLES, has_rows, plain, row_documents, table_as_document
from .loaders import CONVERTED, MARKDOWN, SHEETS, TEXT, UnreadableError, load_document
from .skipped import Skipped

SUFFIXES = (*TEXT, *MARKDOWN, *ROWS, *TABLES, *CONVERTED, *SHEETS)

PathLike = str | os.PathLike[str]


def read_documents(
    paths: PathLike | Sequence[PathLike], strict: bool = False, skipped: Skipped | None = None
) -> Iterator[dict[str, Any]]:
    """Reads documents as mappings with `id`, `text`, `title` where there is one, and metadata.

    A .txt, .md, .rst, .html, .pdf, .docx, .pptx or .xlsx file is one document; its id is its path below the
    folder that all `paths` share. All but .txt are read as Markdown (`markdown_document`): headings make the
    title and the sections, front matter is metadata. A .jsonl, .json or .parquet file holds a document in
    each row: `text`, and optionally `id` (else the file's path and the row's number: `news.jsonl:12`) and
    `title`; other columns are metadata, kept unless they are empty; `read_fields` knows other names. So does
    a .csv or .tsv file with a column `text`; without one it is a document with a section for each row.
    Folders are searched through, sorted by name; files and folders whose names start with a dot are passed
    over, and a file met twice is read once. Files and rows that give no text are left out and listed.

    Args:
        paths: files and folders.
        strict: raise an error instead of leaving anything out.
        skipped: takes what is left out; by default it is logged only.

    Returns:
        An iterator that holds one document (for .parquet, a batch of 1024 rows) at a time.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a named file has another suffix, a folder holds nothing to read, or (while reading) a row
            is malformed, nothing at all was read, or with `strict` something would be left out; the message
            says file and line.
    """
    skipped = Skipped(strict) if skipped is None else skipped
    return _checked(read_files(find_files(paths, skipped), skipped), skipped)


def _checked(documents: Iterator[dict[str, Any]], skipped: Skipped) -> Iterator[dict[str, Any]]:
    found = False
    for document in documents:
        found = True
        yield document
    if not found:
        raise ValueError(f"No document was read: {skipped.told() or 'the files hold none'}.")


def find_files(
    paths: PathLike | Sequence[PathLike], skipped: Skipped | None = None
) -> list[tuple[Path, str]]:
    """Every file to read with its name: the path below the folder that all `paths` share.

    Args:
        paths: files and folders.
        skipped: takes the files of folders that have another suffix.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: no path, an unknown suffix, or a folder without a readable file.
    """
    skipped = Skipped() if skipped is None else skipped
    given = [Path(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    if not given:
        raise ValueError("`paths` is empty: name at least one file or folder.")
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist.")
    root = os.path.commonpath([os.path.abspath(path if path.is_dir() else path.parent) for path in given])
    found = {}
    for file in (file for path in given for file in _files_of(path, skipped)):
        found.setdefault(file.resolve(), (file, _name(os.path.relpath(file, root))))
    return list(found.values())


def _name(path: str) -> str:
    """A path as a text; bytes that are not UTF-8, which file names may hold, become escapes."""
    return os.fsencode(Path(path).as_posix()).decode("utf-8", "backslashreplace")


def _files_of(path: Path, skipped: Skipped) -> list[Path]:
    if not path.is_dir():
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{path} has the suffix {path.suffix!r}; readable are {', '.join(SUFFIXES)}.")
        return [path]
    files = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
            if file.suffix.lower() in SUFFIXES:
                files.append(file)
            else:
                skipped.add(file, f"has the suffix {file.suffix!r}, which is not readable")
    if not files:
        raise ValueError(f"{path} holds no file with one of the suffixes {', '.join(SUFFIXES)}.")
    return files


def read_files(files: Iterable[tuple[Path, str]], skipped: Skipped | None = None) -> Iterator[dict[str, Any]]:
    """Reads documents as `read_documents`, from files and names as of `find_files`.

    What is left out goes into `skipped`; by default nobody is told.
    """
    skipped = Skipped(quiet=True) if skipped is None else skipped
    for file, name in files:
        try:
            if has_rows(file):
                yield from row_documents(file, name, skipped)
                continue
            fields = read_file(file)
        except UnreadableError as error:
            skipped.add(file, str(error))
            continue
        if fields["text"].strip():
            yield {"id": name, **fields}
        else:
            skipped.add(file, "holds no text")


def read_file(file: Path) -> dict[str, Any]:
    """The fields of a file that is one document, without an id; its text may be empty.

    Raises:
        UnreadableError: It cannot be read.
        ValueError: It holds metadata that JSON cannot hold.
    """
    fields = table_as_document(file) if file.suffix.lower() in TABLES else load_document(file)
    kept = {key: plain(value, f"{file}: `{key}`") for key, value in fields.items()}
    return {key: value for key, value in kept.items() if value not in (None, "") or key == "text"}
