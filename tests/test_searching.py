"""`--where`, `--hybrid` and `--milvus` as a user types them, on a tiny model."""

import argparse
import json

import pytest
from clara import milvus_clara
from clara.commands import searching
from clara.commands.main import main
from clara.commands.searching import read_where
from conftest import DOCUMENTS, QUESTIONS

YEARS = [1890, 1819, 1655, None, None, 1843]


def write_documents(folder):
    """A file of the documents; some have a year."""
    rows = [
        {"id": f"d{row}", "text": text, "place": "sea" if row == 4 else "land", "year": year}
        for row, (text, year) in enumerate(zip(DOCUMENTS, YEARS, strict=True))
    ]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture
def store(checkpoint, tmp_path):
    words = ["build-memory", write_documents(tmp_path), "--output", str(tmp_path / "store")]
    assert main([*words, "--model", checkpoint, "--device", "cpu"]) == 0
    return str(tmp_path / "store")


def ask(store, checkpoint, capsys, question, *extra):
    """Ids of the two documents answered from."""
    words = ["ask", store, question, "--model", checkpoint, "--device", "cpu", "--json"]
    capsys.readouterr()
    assert main([*words, "--retrieval-top-k", "2", "--max-new-tokens", "2", *extra]) == 0
    return [document["id"] for document in json.loads(capsys.readouterr().out)["documents"]]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["language=en"], {"language": "en"}),
        (["year=1890", "open=true"], {"year": 1890, "open": True}),
        (['year="1890"'], {"year": "1890"}),
        (['year={">=": 1890, "<": 1900}'], {"year": {">=": 1890, "<": 1900}}),
        (['language=["en", "de"]'], {"language": ["en", "de"]}),
        (
            ['{"language": "en", "year": {"!=": 3}}', "a=b=c"],
            {"language": "en", "year": {"!=": 3}, "a": "b=c"},
        ),
        (["title="], {"title": ""}),
        (["document_id=100", "parent=7", "order=2"], {"document_id": "100", "parent": "7", "order": 2}),
        (['document_id=["1", "2"]'], {"document_id": ["1", "2"]}),
    ],
)
def test_filters_that_are_read(entries, expected):
    assert read_where(entries) == expected


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["language"], "must be NAME=VALUE or a JSON object, got 'language': write language=en"),
        (["=en"], "must be NAME=VALUE"),
        (['{"language": '], "begins as a JSON object but is none"),
        (["a=1", '{"a": 2}'], "names 'a' twice"),
        (["year=null"], "must hold strings, numbers, True or False, got None"),
        (['year={"=": 3}'], "must compare with >, >=, <, <=, !="),
        (["year=[]"], "is an empty list"),
        (["{}"], "must map names of fields to conditions"),
    ],
)
def test_filters_that_are_refused(entries, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        read_where(entries)


def test_nothing_is_told_that_was_not_asked():
    parser = argparse.ArgumentParser()
    searching.add_search_arguments(parser)
    assert searching.search_options(parser.parse_args([])) == {}
    assert searching.search_options(parser.parse_args(["--hybrid"])) == {"hybrid": 0.5}
    assert searching.search_options(parser.parse_args(["--hybrid", "1"])) == {"hybrid": 1.0}
    with pytest.raises(ValueError, match="from 0 to 1"):
        searching.search_options(parser.parse_args(["--hybrid", "2"]))


def test_ask_with_a_filter(store, checkpoint, capsys):
    where = ["--where", 'year={">=": 1843}', "--where", "place=land"]
    assert sorted(ask(store, checkpoint, capsys, QUESTIONS[1], *where)) == ["d0", "d5"]
    assert ask(store, checkpoint, capsys, QUESTIONS[1], "--where", "place=sea") == ["d4"]
    words = ["ask", store, QUESTIONS[1], "--model", checkpoint, "--device", "cpu"]
    assert main([*words, "--where", "place=moon"]) == 2
    assert "lets no passage through" in capsys.readouterr().err
    assert main([*words, "--where", "place"]) == 2
    assert "`--where` must be NAME=VALUE" in capsys.readouterr().err


def test_ask_by_words_too(store, checkpoint, capsys):
    pytest.importorskip("bm25s")
    assert ask(store, checkpoint, capsys, QUESTIONS[1], "--hybrid", "1")[0] == "d2"
    alone = ask(store, checkpoint, capsys, QUESTIONS[1])
    assert ask(store, checkpoint, capsys, QUESTIONS[1], "--hybrid", "0") == alone


def test_a_milvus_that_does_not_answer(monkeypatch, tmp_path, checkpoint, capsys):
    pymilvus = pytest.importorskip("pymilvus")

    def refuse(**_):
        raise pymilvus.MilvusException(message="no server")

    monkeypatch.setattr(pymilvus, "MilvusClient", refuse)
    with pytest.raises(ConnectionError, match="no server.*give another address or token"):
        milvus_clara.connect("http://nowhere:19530")
    words = ["build-memory", write_documents(tmp_path), "--output", str(tmp_path / "out")]
    assert main([*words, "--model", checkpoint, "--milvus", "http://nowhere:19530"]) == 2
    assert "clara build-memory: Milvus at http://nowhere:19530 cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("other", [["--dtype", "recompute"], ["--executor", "slurm"]])
def test_milvus_needs_memories_that_are_here(other, tmp_path, capsys):
    words = ["build-memory", write_documents(tmp_path), "--output", str(tmp_path / "out"), "--milvus", "a.db"]
    assert main([*words, *other]) == 2
    assert "`--milvus` reads the memories of a store that this machine has built" in capsys.readouterr().err


def test_the_token_is_taken_from_the_environment(monkeypatch):
    monkeypatch.delenv("MILVUS_TOKEN", raising=False)
    assert searching.milvus_token() == ""
    monkeypatch.setenv("MILVUS_TOKEN", "secret")
    assert searching.milvus_token() == "secret"


def test_milvus_answers_as_the_local_memory_does(checkpoint, tmp_path, capsys):
    pytest.importorskip("milvus_lite")
    store, uri = str(tmp_path / "store"), str(tmp_path / "sketches.db")
    words = ["build-memory", write_documents(tmp_path), "--output", store, "--model", checkpoint]
    assert main([*words, "--device", "cpu", "--milvus", uri]) == 0
    assert f"Its sketches are in {uri}: recall" in capsys.readouterr().out
    for extra in ([], ["--where", "place=land"], ["--hybrid"]):
        local = ask(store, checkpoint, capsys, QUESTIONS[0], *extra)
        assert ask(store, checkpoint, capsys, QUESTIONS[0], "--milvus", uri, *extra) == local
    other = str(tmp_path / "other.db")
    assert main(["ask", store, "who", "--model", checkpoint, "--device", "cpu", "--milvus", other]) == 2
    assert "holds no sketches of the store" in capsys.readouterr().err
