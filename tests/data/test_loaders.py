"""Files of the kinds that people have: what the converters give, and what is said where they give nothing."""

import sys

import pytest
from clara.data.documents import read_documents
from clara.data.loaders import UnreadableError, load_document, read_text, table_document
from clara.data.skipped import Skipped
from office_files import HTML, RST, write_docx, write_pdf, write_pptx, write_xlsx

pytest.importorskip("markitdown")


def sections(document):
    return [(s["title"], document["text"][s["start"] : s["end"]].strip()) for s in document["sections"]]


def test_a_page_of_the_web(tmp_path):
    (tmp_path / "a.HTML").write_text(HTML)
    document = load_document(tmp_path / "a.HTML")
    assert document["title"] == "Opening hours" and "var x" not in document["text"]
    first, second = sections(document)
    assert first == ("Opening hours", "We open at **nine**.")
    assert second[0] == "Opening hours > Prices" and "| Rope | 3 |" in second[1]


def test_restructured_text(tmp_path):
    (tmp_path / "a.rst").write_text(RST)
    document = load_document(tmp_path / "a.rst")
    assert sections(document)[0] == ("Opening hours", "We open at nine.")
    assert sections(document)[1][0] == "Opening hours > Prices" and "pay 3" in sections(document)[1][1]
    assert "root:" not in document["text"]  # files are not included


@pytest.mark.parametrize(("write", "name"), [(write_docx, "a.docx"), (write_pptx, "a.pptx")])
def test_office_files_with_headings(tmp_path, write, name):
    write(tmp_path / name)
    document = load_document(tmp_path / name)
    assert document["title"] == "Opening hours"
    assert sections(document) == [
        ("Opening hours", "We open at nine."),
        ("Opening hours > Prices", "A rope is 3."),
    ]


def test_a_pdf_and_one_without_text(tmp_path):
    write_pdf(tmp_path / "a.pdf")
    write_pdf(tmp_path / "scan.pdf", text="")
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.4 nonsense")
    (tmp_path / "none.pdf").write_bytes(b"")
    skipped = Skipped()
    (document,) = read_documents(tmp_path, skipped=skipped)
    assert document["id"] == "a.pdf" and document["text"].strip() == "We open at nine."
    told = {place.rpartition("/")[2]: reason for place, reason in skipped}
    assert told["none.pdf"] == told["scan.pdf"] == "holds no text"
    assert told["bad.pdf"].startswith("cannot be read as .pdf: ")


def test_spreadsheets_are_rows(tmp_path):
    write_xlsx(tmp_path / "shop.xlsx")
    assert sections(load_document(tmp_path / "shop.xlsx")) == [
        ("shop > Prices", "Item: Rope; Price: 3"),
        ("shop > Prices", "Item: Hook"),
        ("shop > Hours", "Day: Monday; Opens: nine"),
    ]
    (tmp_path / "bad.xlsx").write_bytes(b"no archive")
    with pytest.raises(UnreadableError, match=r"cannot be read as \.xlsx"):
        load_document(tmp_path / "bad.xlsx")


def test_without_the_converter_the_way_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "markitdown", None)
    write_pdf(tmp_path / "a.pdf")
    (tmp_path / "b.txt").write_text("text")
    skipped = Skipped()
    assert [row["id"] for row in read_documents(tmp_path, skipped=skipped)] == ["b.txt"]
    assert "pip install 'clara-rag[documents]'" in skipped.told()
    with pytest.raises(ValueError, match=r"a\.pdf needs a converter that is not installed"):
        list(read_documents(tmp_path / "a.pdf"))


def test_texts_name_the_byte_that_is_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UnreadableError, match=r"is not UTF-8 \(.* at byte 3\): convert it to UTF-8"):
        read_text(tmp_path / "a.txt")


def test_rows_without_a_cell_are_no_sections():
    document = table_document([("t", ["a", ""], [["1", "2"], [" ", ""]])])
    assert sections(document) == [("t", "a: 1; 2")]
    assert table_document([("t", ["a"], [])]) == {"text": ""}
