"""`--where`, `--hybrid` and `--milvus` as a user types them, on a tiny model."""

import argparse
import json

import pytest
import torch
from clara.commands import build_memory, search_options
from clara.commands.main import main
from clara.commands.models import load_model
from clara.commands.search_options import read_where
from clara.store import milvus
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
        (["id=100", "parent=7", "order=2"], {"id": "100", "parent": "7", "order": 2}),
        (['id=["1", "2"]'], {"id": ["1", "2"]}),
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
        (["year=[]"], "must hold strings, numbers, True or False"),
        (["{}"], "must map names of fields to conditions"),
    ],
)
def test_filters_that_are_refused(entries, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        read_where(entries)


def test_nothing_is_told_that_was_not_asked():
    parser = argparse.ArgumentParser()
    search_options.add_search_arguments(parser)
    assert search_options.search_options(parser.parse_args([])) == {}
    assert search_options.search_options(parser.parse_args(["--hybrid"])) == {"hybrid": 0.5}
    assert search_options.search_options(parser.parse_args(["--hybrid", "1"])) == {"hybrid": 1.0}
    with pytest.raises(ValueError, match="from 0 to 1"):
        search_options.search_options(parser.parse_args(["--hybrid", "2"]))


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
        milvus.connect("http://nowhere:19530")
    words = ["build-memory", write_documents(tmp_path), "--output", str(tmp_path / "out")]
    assert main([*words, "--model", checkpoint, "--milvus", "http://nowhere:19530"]) == 2
    assert "clara build-memory: Milvus at http://nowhere:19530 cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_milvus_needs_a_store_that_is_here(tmp_path, capsys):
    words = ["build-memory", write_documents(tmp_path), "--output", str(tmp_path / "out"), "--milvus", "a.db"]
    assert main([*words, "--executor", "slurm"]) == 2
    assert "`--milvus` reads the vectors of a store that this machine has built" in capsys.readouterr().err


def test_ask_opens_plain_memories_too(checkpoint, tmp_path, capsys):
    model = load_model(checkpoint, "cpu")[0]
    ids = [f"d{row}" for row in range(6)]
    model.build_memory(DOCUMENTS, ids, show_progress=False).save_pretrained(tmp_path / "plain")
    found = ask(str(tmp_path / "plain"), checkpoint, capsys, QUESTIONS[1])
    assert len(found) == 2 and set(found) <= set(ids)


def test_the_index_is_built_where_it_is_asked_for(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("clara.store.indexes.SMALLEST", 6)
    words = [
        "build-memory",
        write_documents(tmp_path),
        "--output",
        str(tmp_path / "store"),
        "--model",
        checkpoint,
    ]
    assert main([*words, "--device", "cpu", "--index", "IVF_FLAT"]) == 0
    assert "Its index of vectors is built." in capsys.readouterr().out
    store = search_options.open_store(str(tmp_path / "store"))
    assert store.search(torch.ones(1, store.facts.width), 3, exact=False)[1].shape == (1, 3)


def test_the_index_by_size():
    assert build_memory.wants_index(3, "IVF_PQ") and not build_memory.wants_index(10**9, "none")
    assert build_memory.wants_index(200_000, "auto") and not build_memory.wants_index(199_999, "auto")


def test_no_lance_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    words = ["build-memory", write_documents(tmp_path), "--output", str(tmp_path / "store")]
    assert main(words) == 2
    assert "A store needs Lance: `pip install 'clara-rag[store]'`" in capsys.readouterr().err


def test_the_token_is_taken_from_the_environment(monkeypatch):
    monkeypatch.delenv("MILVUS_TOKEN", raising=False)
    assert search_options.milvus_token() == ""
    monkeypatch.setenv("MILVUS_TOKEN", "secret")
    assert search_options.milvus_token() == "secret"


def test_milvus_answers_as_the_local_memory_does(checkpoint, tmp_path, capsys):
    pytest.importorskip("milvus_lite")
    store, uri = str(tmp_path / "store"), str(tmp_path / "vectors.db")
    words = ["build-memory", write_documents(tmp_path), "--output", store, "--model", checkpoint]
    assert main([*words, "--device", "cpu", "--milvus", uri]) == 0
    assert f"Its search vectors are in {uri}." in capsys.readouterr().out
    for extra in ([], ["--where", "place=land"], ["--hybrid"]):
        local = ask(store, checkpoint, capsys, QUESTIONS[0], *extra)
        assert ask(store, checkpoint, capsys, QUESTIONS[0], "--milvus", uri, *extra) == local
    other = str(tmp_path / "other.db")
    assert main(["ask", store, "who", "--model", checkpoint, "--device", "cpu", "--milvus", other]) == 2
    assert "holds no vectors of version" in capsys.readouterr().err
