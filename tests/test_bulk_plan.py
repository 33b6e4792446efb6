"""The plan of a bulk build: shards of documents, checked before any work."""

import json

import pytest
from clara.data.bulk import plan as plan_module
from clara.data.bulk.plan import Plan, begin, plan_for, read_plan, shard_documents, shard_length, survey

BASE = {"name": "tiny", "revision": None}


def write(folder, *counts, suffix="jsonl"):
    """Files of numbered documents: file0 holds d0, d1, …"""
    number = 0
    for index, count in enumerate(counts):
        rows = [{"id": f"d{number + row}", "text": f"text é{number + row}"} for row in range(count)]
        number += count
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"file{index}.{suffix}").write_text(lines, encoding="utf-8")
    return folder


def make_plan(corpus, **fields):
    given = {"dtype": "float32", "batch_size": 4, "threads": 1, "device": "cpu", **fields}
    return Plan(corpus, "f", BASE, [2, 4], **given)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100])
def test_shards_hold_every_document_once_in_order(tmp_path, size):
    corpus = survey([write(tmp_path, 3, 1, 5)], size)
    assert corpus.documents == 9 and corpus.text_bytes == 9 * len("text é0".encode())
    shards = [list(shard_documents(corpus, shard)) for shard in range(len(corpus.starts))]
    assert [len(shard) for shard in shards] == [shard_length(corpus, shard) for shard in range(len(shards))]
    assert all(len(shard) == size for shard in shards[:-1])
    assert [row["id"] for shard in shards for row in shard] == [f"d{row}" for row in range(9)]


def test_default_size_keeps_the_number_of_shards_down(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "SMALLEST_SHARD", 4)
    monkeypatch.setattr(plan_module, "MOST_SHARDS", 3)
    folder = write(tmp_path, 10, 15)
    corpus = survey([folder])
    assert corpus.shard_size == 12 and len(corpus.starts) == 3
    shards = [list(shard_documents(corpus, shard)) for shard in range(3)]
    assert [row["id"] for shard in shards for row in shard] == [f"d{row}" for row in range(25)]
    monkeypatch.setattr(plan_module, "MOST_SHARDS", 100)
    assert survey([folder]).shard_size == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "d1", "text": "again"}', "the id 'd1' occurs twice"),
        ("nonsense", "not valid JSON"),
        ('{"id": "x", "body": "y"}', "more.jsonl:1: `text` must be a string"),
        ('{"id": "x", "text": "y", "n": [Infinity]}', "more.jsonl:1: `n` is infinite"),
        ('{"id": "d1#0", "text": "y"}', "more.jsonl: .*'d1#0' is what a part of the document 'd1' is called"),
    ],
)
def test_bad_rows_are_met_before_any_work(tmp_path, line, message):
    write(tmp_path, 3)
    (tmp_path / "more.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        survey([tmp_path])


def test_refuses_no_documents_and_empty_shards(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="hold no document"):
        survey([tmp_path])
    with pytest.raises(ValueError, match="`shard_size` must be at least 1, got 0"):
        survey([tmp_path], 0)


def test_a_file_that_changed_since(tmp_path):
    corpus = survey([write(tmp_path, 3)], 2)
    with (tmp_path / "file0.jsonl").open("a") as file:
        file.write('{"text": "more"}\n')
    with pytest.raises(ValueError, match="has changed since the build was planned"):
        shard_documents(corpus, 1)


def test_a_build_goes_on_with_the_same_plan_only(tmp_path):
    (tmp_path / "rows").mkdir()
    corpus = survey([write(tmp_path / "rows", 3)], 2)
    begin(tmp_path / "build", make_plan(corpus))
    assert read_plan(tmp_path / "build") == make_plan(corpus)
    begin(tmp_path / "build", make_plan(corpus))
    with pytest.raises(ValueError, match="begun with another dtype, threads: finish .* or begin again"):
        begin(tmp_path / "build", make_plan(corpus, dtype="int8", threads=2))
    with pytest.raises(ValueError, match="begun with another corpus"):
        begin(tmp_path / "build", make_plan(survey([tmp_path / "rows"], 1)))


def test_the_plan_of_a_model_names_what_its_memories_are(shared_model, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"id": "a", "text": "Fog is grey."}\n')
    plan = plan_for(shared_model, survey([tmp_path / "one.jsonl"]), "int8", batch_size=4, threads=2)
    config = shared_model.config
    assert plan.fingerprint == shared_model.memory_fingerprint()
    assert plan.shape == [config.num_memory_tokens, config.get_text_config().hidden_size]
    assert plan.base["name"] == config.base_model_name_or_path
    assert (plan.dtype, plan.batch_size, plan.threads, plan.device) == ("int8", 4, 2, "cpu")
