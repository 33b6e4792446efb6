"""Files that hold one document: text, Markdown and what a converter turns into Markdown, spreadsheets."""

import codecs
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .markdown import BETWEEN, markdown_document

EXTRA = "pip install 'clara-rag[documents]'"
TEXT, MARKDOWN, SHEETS = (".txt",), (".md", ".markdown"), (".xlsx",)
CONVERTED = (".pdf", ".docx", ".pptx", ".html", ".htm", ".rst")
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class UnreadableError(ValueError):
    """A file that gives no text; the message goes on after its name."""


def load_document(file: Path) -> dict[str, Any]:
    """The fields of the document in a file: `text` (empty if there is none), and what else it says.

    Args:
        file: One with a suffix of `TEXT`, `MARKDOWN`, `CONVERTED` or `SHEETS`.

    Raises:
        UnreadableError: If it is not UTF-8 text, damaged or locked, or the converter is not installed.
    """
    suffix = file.suffix.lower()
    if suffix in TEXT:
        return {"text": read_text(file)}
    if suffix in MARKDOWN:
        return markdown_document(read_text(file))
    if suffix in SHEETS:
        return _sheets(file)
    content = file.read_bytes()
    if not content.strip():
        return {"text": ""}
    if suffix == ".rst":
        suffix, content = ".html", _rst_to_html(read_text(file))
    return _converted(content, suffix)


def read_text(file: Path) -> str:
    """The text of a UTF-8 file, or of UTF-16 with a byte order mark; an UnreadableError names the byte."""
    content = file.read_bytes()
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        told = f"is not {encoding.upper().removesuffix('-SIG')} ({error.reason} at byte {error.start})"
        raise UnreadableError(f"{told}: convert it to UTF-8") from error


def table_document(tables: Iterable[tuple[str, Sequence[str], Iterable[Sequence[str]]]]) -> dict[str, Any]:
    """Tables as a document with a section for each row: "name: Rope; price: 3".

    A table is a title, the names of its columns, and its rows.
    """
    text, sections = "", []
    for title, names, rows in tables:
        for row in rows:
            cells = [
                f"{name.strip()}: {cell.strip()}" if name.strip() else cell.strip()
                for name, cell in zip(names, row, strict=False)
                if cell.strip()
            ]
            if cells:
                line = "; ".join(cells)
                sections.append({"title": title, "start": len(text), "end": len(text) + len(line)})
                text += f"{line}\n"
    return {"text": text, "sections": sections} if sections else {"text": ""}


def _sheets(file: Path) -> dict[str, Any]:
    pandas = _needed("pandas")
    _needed("openpyxl")
    try:
        found = pandas.read_excel(file, sheet_name=None, dtype=str, keep_default_na=False, engine="openpyxl")
    except Exception as error:
        raise UnreadableError(f"cannot be read as .xlsx: {_first_line(error)}") from error
    sheets = [(name, sheet) for name, sheet in found.items() if len(sheet)]
    titled = [
        (BETWEEN.join([file.stem, name]) if len(sheets) > 1 else file.stem, sheet) for name, sheet in sheets
    ]
    return table_document(
        (title, [_column(name) for name in sheet.columns], sheet.itertuples(index=False))
        for title, sheet in titled
    )


def _column(name: Any) -> str:
    return "" if str(name).startswith("Unnamed: ") else str(name)


def _rst_to_html(text: str) -> bytes:
    core = _needed("docutils.core")
    settings = {
        "report_level": 5,
        "halt_level": 5,
        "file_insertion_enabled": False,
        "raw_enabled": False,
        "embed_stylesheet": False,
        "output_encoding": "unicode",
    }
    return core.publish_string(text, writer="html5", settings_overrides=settings).encode()


def _converted(content: bytes, suffix: str) -> dict[str, Any]:
    markitdown = _needed("markitdown")
    for noisy in ("pdfminer", "pdfplumber"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    is_utf8 = content == content.decode(errors="ignore").encode()
    charset = "utf-8" if suffix == ".html" and is_utf8 else None
    info = markitdown.StreamInfo(extension=suffix, charset=charset)
    try:
        found = markitdown.MarkItDown(enable_plugins=False).convert_stream(
            io.BytesIO(content), stream_info=info
        )
    except markitdown.MissingDependencyException as error:
        raise UnreadableError(f"needs a converter that is not installed: {EXTRA}") from error
    except Exception as error:
        raise UnreadableError(f"cannot be read as {suffix}: {_first_line(error)}") from error
    return markdown_document(found.markdown, found.title)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _needed(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnreadableError(f"needs a converter that is not installed: {EXTRA}") from error
