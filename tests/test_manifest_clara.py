import json
from pathlib import Path

import pytest
from clara.manifest_clara import make_manifest, parse_manifest
from clara.shards_clara import FileEntry, ShardEntry

ENTRY = ShardEntry(
    FileEntry("memory-00000-aa.safetensors", 10, "a" * 64),
    FileEntry("passages-00000-bb.parquet", 20, "b" * 64),
    FileEntry("deleted-00000-cc.safetensors", 5, "c" * 64),
    4,
    3,
)
MANIFEST = make_manifest([ENTRY, ENTRY], (2, 4), "bfloat16", "f", {"name": "tiny"})


def parse(**fields):
    return parse_manifest(json.dumps({**json.loads(MANIFEST.to_bytes()), **fields}).encode(), Path("m.json"))


def parse_entry(**fields):
    entry = {**json.loads(MANIFEST.to_bytes())["shards"][0], **fields}
    return parse(shards=[entry], num_passages=max(1, entry["live_rows"]))


def parse_file(kind, **fields):
    entry = json.loads(MANIFEST.to_bytes())["shards"][0]
    return parse_entry(**{kind: {**entry[kind], **fields}})


def test_round_trip():
    assert parse() == MANIFEST
    assert MANIFEST.num_passages == 6
    assert parse_entry(rows=4, live_rows=4, deleted=None).num_passages == 4


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 200_000, b'{"a": ' + b"9" * 5000 + b"}", b"nul"]
)
def test_refuses_what_is_not_json(content):
    with pytest.raises(ValueError, match="m.json is not JSON"):
        parse_manifest(content, Path("m.json"))


@pytest.mark.parametrize("content", [b"[]", b"null", b"7", b"{}", b'{"format": "clara_corpus_memory"}'])
def test_refuses_other_json(content):
    with pytest.raises(ValueError, match="must be an object with exactly"):
        parse_manifest(content, Path("m.json"))


@pytest.mark.parametrize("version", [1, 999])
def test_refuses_another_version_before_anything_else(version):
    with pytest.raises(ValueError, match=f"`format_version` {version}, this code reads 2: update the code"):
        parse_manifest(json.dumps({"format_version": version, "new": 1}).encode(), Path("m.json"))


@pytest.mark.parametrize(
    "fields",
    [
        {"format": "other"},
        {"format_version": "1"},
        {"format_version": True},
        {"format_version": 0},
        {"fingerprint": 5},
        {"base": "tiny"},
        {"num_memory_tokens": 0},
        {"num_memory_tokens": -2},
        {"hidden_size": 4.0},
        {"hidden_size": True},
        {"hidden_size": None},
        {"dtype": "int3"},
        {"dtype": ["float32"]},
        {"num_passages": -6},
        {"num_passages": 10**40},
        {"num_passages": 5},
        {"shards": []},
        {"shards": {}},
        {"shards": [None]},
        {"shards": [{}]},
        {"extra": 1},
    ],
)
def test_refuses_bad_fields(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        parse(**fields)


@pytest.mark.parametrize("kind", ["memory", "texts", "deleted"])
@pytest.mark.parametrize(
    "name",
    [
        "../{}",
        "/etc/{}",
        "sub/{}",
        "..\\{}",
        "C:{}",
        ".{}",
        "{}\n",
        "{}/../../x",
        "memory-../../x.safetensors",
        "memory-\0.safetensors",
        "passages-.parquet/../x",
        "corpus_memory.json",
        "",
        None,
        7,
    ],
)
def test_refuses_names_that_are_not_plain(kind, name):
    name = name.format(getattr(ENTRY, kind).file) if isinstance(name, str) else name
    message = rf"shards\[0\].{kind}: `file` must be the plain name of a file inside"
    with pytest.raises(ValueError, match=message):
        parse_file(kind, file=name)


def test_refuses_swapped_names():
    with pytest.raises(ValueError, match="memory: `file`"):
        parse_file("memory", file=ENTRY.deleted.file)


@pytest.mark.parametrize(
    "fields",
    [
        {"rows": 0},
        {"rows": -1},
        {"live_rows": -1},
        {"live_rows": True},
        {"live_rows": 5},
        {"live_rows": 4},
        {"memory": "memory-00000-aa.safetensors"},
        {"texts": "passages-00000-bb.parquet"},
        {"deleted": []},
        {"extra": 0},
    ],
)
def test_refuses_bad_shards(fields):
    with pytest.raises(ValueError, match=rf"shards\[0\].*{next(iter(fields))}"):
        parse_entry(**fields)


def test_refuses_deleted_rows_without_a_file():
    with pytest.raises(ValueError, match="`live_rows` must be below `rows` 4 where `deleted` names a file"):
        parse_entry(deleted=None)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("memory", {"bytes": -1}),
        ("texts", {"bytes": 1.5}),
        ("memory", {"sha256": "a" * 63}),
        ("texts", {"sha256": "G" * 64}),
        ("deleted", {"sha256": None}),
        ("deleted", {"extra": None}),
    ],
)
def test_refuses_bad_files(kind, fields):
    with pytest.raises(ValueError, match=rf"shards\[0\].{kind}.*{next(iter(fields))}"):
        parse_file(kind, **fields)
