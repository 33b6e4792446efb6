import json
from pathlib import Path

import pytest
from clara.manifest_clara import make_manifest, parse_manifest
from clara.shards_clara import ShardEntry

ENTRY = ShardEntry("memory-00000-aa.safetensors", 10, "a" * 64, "passages-00000-bb.parquet", 20, "b" * 64, 3)
MANIFEST = make_manifest([ENTRY, ENTRY], (2, 4), "bfloat16", "f", {"name": "tiny"})


def parse(**fields):
    return parse_manifest(json.dumps({**json.loads(MANIFEST.to_bytes()), **fields}).encode(), Path("m.json"))


def parse_entry(**fields):
    entry = {**json.loads(MANIFEST.to_bytes())["shards"][0], **fields}
    return parse(shards=[entry], num_passages=max(1, entry["rows"]))


def test_round_trip():
    assert parse() == MANIFEST
    assert MANIFEST.num_passages == 6
    assert parse_entry(rows=4).num_passages == 4


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


@pytest.mark.parametrize("version", [2, 999])
def test_refuses_another_version_before_anything_else(version):
    with pytest.raises(ValueError, match=f"`format_version` {version}, this code reads 1: update the code"):
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
        {"dtype": "int8"},
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


@pytest.mark.parametrize("field", ["memory_file", "texts_file"])
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
def test_refuses_names_that_are_not_plain(field, name):
    name = name.format(getattr(ENTRY, field)) if isinstance(name, str) else name
    with pytest.raises(ValueError, match=rf"shards\[0\]: `{field}` must be the plain name of a file inside"):
        parse_entry(**{field: name})


def test_refuses_swapped_names():
    with pytest.raises(ValueError, match="`memory_file`"):
        parse_entry(memory_file=ENTRY.texts_file, texts_file=ENTRY.memory_file)


@pytest.mark.parametrize(
    "fields",
    [
        {"rows": 0},
        {"rows": -1},
        {"memory_bytes": -1},
        {"texts_bytes": 1.5},
        {"memory_sha256": "a" * 63},
        {"texts_sha256": "G" * 64},
        {"texts_sha256": None},
        {"extra": 0},
    ],
)
def test_refuses_bad_shards(fields):
    with pytest.raises(ValueError, match=rf"shards\[0\].*{next(iter(fields))}"):
        parse_entry(**fields)
