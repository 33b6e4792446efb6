"""`clara memory` and `clara chat`: a stored memory is listed, changed and exported from the command line."""

import io
import json

import pyarrow.parquet as pq
import pytest
from clara.commands.main import main
from clara.memory_clara import CorpusMemory
from clara.store import CorpusStore

ROWS = [
    {"id": "titan", "text": "The largest moon of Saturn.", "kind": "moon"},
    {"id": "basalt", "text": "A dark volcanic rock."},
    {"id": "long", "text": "word " * 200},
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def folder(tmp_path, checkpoint):
    rows, output = write(tmp_path / "rows.jsonl", ROWS), str(tmp_path / "memory")
    assert main(["build-memory", rows, "--output", output, "--model", checkpoint]) == 0
    return output


def clara(capsys, *words):
    capsys.readouterr()
    status = main([*words])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def listed(capsys, folder):
    status, out, _ = clara(capsys, "memory", "list", folder, "--json")
    assert status == 0
    return {row["id"]: row["passages"] for row in map(json.loads, out.splitlines())}


def test_documents_are_listed_with_their_passages(folder, capsys):
    found = listed(capsys, folder)
    assert found["titan"] == found["basalt"] == 1 and found["long"] > 1
    status, out, _ = clara(capsys, "memory", "list", folder, "--limit", "1")
    assert status == 0 and "titan" in out and "basalt" not in out and "1 of 3 documents" in out


def test_a_document_is_shown_with_all_its_passages(folder, capsys):
    _, out, _ = clara(capsys, "memory", "show", folder, "titan", "--json")
    row = json.loads(out)
    assert row["metadata"] == {"kind": "moon"} and row["memory"].endswith("vectors")
    _, out, _ = clara(capsys, "memory", "show", folder, "long", "--json")
    assert [json.loads(line)["order"] for line in out.splitlines()] == list(range(out.count("\n")))
    status, _, told = clara(capsys, "memory", "show", folder, "nobody")
    assert status == 2 and "'nobody' is no document of" in told


def test_documents_are_added_updated_and_deleted(folder, capsys, tmp_path, checkpoint):
    new = write(tmp_path / "new.jsonl", [{"id": "rhine", "text": "A river."}])
    assert clara(capsys, "memory", "add", folder, new, "--model", checkpoint)[0] == 0
    status, _, told = clara(capsys, "memory", "add", folder, new, "--model", checkpoint)
    assert status == 2 and "rhine" in told
    changed = write(tmp_path / "changed.jsonl", [{"id": "long", "text": "Short now."}])
    assert clara(capsys, "memory", "update", folder, changed, "--model", checkpoint)[0] == 0
    assert listed(capsys, folder) == {"titan": 1, "basalt": 1, "rhine": 1, "long": 1}
    status, out, _ = clara(capsys, "memory", "delete", folder, "titan", "basalt")
    assert status == 0 and "2 passages deleted" in out
    assert listed(capsys, folder) == {"rhine": 1, "long": 1}
    assert clara(capsys, "memory", "delete", folder, "titan")[0] == 2
    _, out, _ = clara(capsys, "memory", "list", folder, "--versions", "--json")
    assert [json.loads(line)["passages"] for line in out.splitlines()][-1] == 2
    assert clara(capsys, "memory", "optimize", folder, "--keep-days", "0")[0] == 0
    assert len(clara(capsys, "memory", "list", folder, "--versions")[1].splitlines()) == 1


def test_a_store_is_exported_to_files_and_to_a_plain_memory(folder, capsys, tmp_path):
    store = CorpusStore.open(folder)
    for name in ("out.jsonl", "out.parquet", "plain"):
        assert clara(capsys, "memory", "export", folder, "--output", str(tmp_path / name))[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == list(store.document_ids) and rows[0]["metadata"] == {"kind": "moon"}
    assert pq.read_table(tmp_path / "out.parquet")["text"].to_pylist() == list(store.texts)
    plain = CorpusMemory.from_pretrained(tmp_path / "plain", fingerprint=store.fingerprint)
    query = plain.vectors[:1]
    assert plain.search(query, 3)[1].tolist() == store.search(query, 3)[1].tolist()
    assert all(a.equal(b) for a, b in zip(plain.gather(range(3)), store.gather(range(3)), strict=True))
    status, _, told = clara(capsys, "memory", "export", folder, "--output", str(tmp_path / "plain"))
    assert status == 2 and "is there already" in told


def test_a_plain_memory_is_no_store(tmp_path, folder, capsys):
    CorpusStore.open(folder).to_memory().save_pretrained(tmp_path / "plain")
    status, _, told = clara(capsys, "memory", "list", str(tmp_path / "plain"))
    assert status == 2 and "is no store" in told


def test_chat_answers_a_line_each_until_an_empty_one(folder, checkpoint, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Which moon?\nWhich rock?\n\nNever read?\n"))
    words = ["chat", folder, "--model", checkpoint, "--json", "--max-new-tokens", "2"]
    status, out, _ = clara(capsys, *words)
    assert status == 0 and out.count('"question"') == 2 and "Never read" not in out


def test_ask_takes_several_questions(folder, checkpoint, capsys):
    words = ["ask", folder, "Which moon?", "Which rock?", "--model", checkpoint, "--max-new-tokens", "2"]
    status, out, _ = clara(capsys, *words)
    assert status == 0 and out.count("answered from") == 2 and "Which rock?" in out


def test_ask_reads_each_memory_alone(folder, checkpoint, capsys):
    words = [
        "ask",
        folder,
        "Which moon?",
        "--model",
        checkpoint,
        "--max-new-tokens",
        "2",
        "--reading",
        "each",
    ]
    status, out, _ = clara(capsys, *words)
    assert status == 0 and "answered from" in out


def test_ids_and_texts_in_brackets_are_shown_as_they_are(folder, checkpoint, tmp_path, capsys):
    new = write(tmp_path / "new.jsonl", [{"id": "[draft]", "text": "[bold] is a word."}])
    assert clara(capsys, "memory", "add", folder, new, "--model", checkpoint)[0] == 0
    assert "[draft]  1 passage  [bold] is a word." in clara(capsys, "memory", "list", folder)[1]
    assert "[draft]" in clara(capsys, "memory", "show", folder, "[draft]")[1]
