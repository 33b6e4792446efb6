import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clara.memory_clara import CorpusMemory, is_corpus_memory
from store_helpers import DTYPES, PLACES, make_memory, read_json, same, seven_passages
from torch import tensor

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The module a second time, as remote code is loaded: another package, other classes."""
    folder = tmp_path_factory.mktemp("remote") / "second_copy"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    for path in ROOT.glob("*_clara.py"):
        (folder / path.name).write_text(path.read_text())
    spec = importlib.util.spec_from_file_location(
        "second_copy", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["second_copy"] = package
    spec.loader.exec_module(package)
    yield importlib.import_module("second_copy.memory_clara")
    for name in [name for name in sys.modules if name.startswith("second_copy")]:
        del sys.modules[name]


def test_defaults():
    memory = CorpusMemory(torch.ones(2, 3, 4), ["a", "b"])
    assert len(memory) == 2
    assert (memory.num_memory_tokens, memory.hidden_size, memory.dtype) == (3, 4, torch.float32)
    assert memory.document_ids == ["0", "1"]
    assert memory.parents == ["0", "1"]
    assert memory.orders == [0, 0]
    assert memory.metadata == [{}, {}]
    assert memory.fingerprint is None and memory.base is None
    assert "2 passages, 3 memory tokens of width 4" in repr(memory)


def test_parents_default_to_the_given_ids():
    assert CorpusMemory(torch.ones(2, 1, 4), ["a", "b"], document_ids=["x", "y"]).parents == ["x", "y"]


def test_memory_of_a_graph_is_detached():
    memory = CorpusMemory(torch.ones(1, 1, 2, requires_grad=True), ["a"])
    assert not memory[0].requires_grad


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (torch.empty(0, 2, 4), "at least one document"),
        (torch.ones(2, 4), r"\(2, 4\)"),
        (torch.ones(2, 0, 4), "at least one document"),
        ([[[1.0]]], "list"),
        (torch.ones(2, 1, 4, dtype=torch.float64), "float64"),
        (torch.ones(2, 1, 4, dtype=torch.long), "int64"),
        (tensor([[[1.0]], [[float("nan")]]]), r"`memory\[1\]`"),
        (tensor([[[float("inf")]], [[1.0]]]), r"`memory\[0\]`"),
    ],
)
def test_refuses_bad_memories(memory, message):
    with pytest.raises(ValueError, match=message):
        CorpusMemory(memory, ["a", "b"])


def test_refuses_bad_identity():
    with pytest.raises(ValueError, match="`fingerprint`"):
        CorpusMemory(torch.ones(1, 1, 1), ["a"], fingerprint=7)
    with pytest.raises(ValueError, match="`base`"):
        CorpusMemory(torch.ones(1, 1, 1), ["a"], base="tiny")
    with pytest.raises(ValueError, match="`base`"):
        CorpusMemory(torch.ones(1, 1, 1), ["a"], base={"name": Path("x")})


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(tmp_path, dtype):
    memory = make_memory(7, dtype=dtype)
    memory.save_pretrained(tmp_path / "store", max_shard_size=3 * 8 * dtype.itemsize)
    loaded = CorpusMemory.from_pretrained(tmp_path / "store", fingerprint="f")
    assert [shard["rows"] for shard in read_json(tmp_path / "store")["shards"]] == [3, 3, 1]
    assert same(loaded, memory)
    assert torch.equal(loaded[3], memory[3])
    query = torch.randn(2, 2, 4)
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.search(query, 7), memory.search(query, 7), strict=True)
    )


def test_round_trip_of_difficult_texts(tmp_path):
    texts = ["🚲 e\u0301", "a\0b", "", "<MEM> <|im_end|>", "\r\n\ufeff"]
    metadata = [{"ü": [1, None, {"x": "\0"}]}, {"lone": "\ud800"}, {}, {"n": 1e300}, {"t": True}]
    memory = CorpusMemory(torch.ones(5, 1, 2), texts, document_ids=texts, metadata=metadata, parents=texts)
    memory.save_pretrained(tmp_path)
    loaded = CorpusMemory.from_pretrained(tmp_path)
    assert list(loaded.texts) == texts
    assert list(loaded.document_ids) == texts
    assert list(loaded.metadata) == metadata


def test_save_and_load_needs_no_transformers():
    code = "import sys, clara.memory_clara; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd="/").returncode == 0


def test_a_memory_of_another_compressor_is_refused(tmp_path):
    make_memory().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="another compressor or base.*build them again"):
        CorpusMemory.from_pretrained(tmp_path, fingerprint="g")
    make_memory(fingerprint=None).save_pretrained(tmp_path / "unknown")
    with pytest.raises(ValueError, match="another compressor"):
        CorpusMemory.from_pretrained(tmp_path / "unknown", fingerprint="g")


def test_append_in_memory():
    memory, other = make_memory(3), make_memory(2, first=3)
    before = memory.search(torch.ones(1, 2, 4), 3)[0]
    memory.append(other)
    assert len(memory) == 5
    assert memory.document_ids == ["d0", "d1", "d2", "d3", "d4"]
    assert memory.metadata[4] == {"number": 4}
    assert torch.equal(memory[3:], other[:])
    scores, indices = memory.search(torch.ones(1, 2, 4), 5)
    assert sorted(indices[0].tolist()) == [0, 1, 2, 3, 4]
    assert set(before[0].tolist()) <= set(scores[0].tolist())
    assert len(other) == 2


def test_append_takes_the_dtype_of_the_memory():
    memory = make_memory(2, dtype=torch.bfloat16)
    other = make_memory(2, first=2)
    memory.append(other)
    assert memory.dtype == torch.bfloat16
    assert torch.equal(memory[2:], other[:].bfloat16())


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (make_memory(2, first=9, fingerprint="g"), ValueError, "fingerprint g.*build it again"),
        (make_memory(2, first=9, fingerprint=None), ValueError, "fingerprint None"),
        (make_memory(2, first=9, shape=(3, 4)), ValueError, r"\(3, 4\)"),
        (make_memory(2, first=9, shape=(2, 5)), ValueError, r"\(2, 5\)"),
        (make_memory(2, first=2), ValueError, "'d2'"),
        (["a text"], TypeError, "list"),
        (
            CorpusMemory(torch.full((1, 2, 4), 1e30), ["t"], ["new"], fingerprint="f"),
            ValueError,
            r"`memory\[0\]` holds NaN or an infinity",
        ),
    ],
)
def test_a_refused_append_changes_nothing(other, error, message):
    memory, unchanged = make_memory(3, dtype=torch.float16), make_memory(3, dtype=torch.float16)
    with pytest.raises(error, match=message):
        memory.append(other)
    assert same(memory, unchanged)


def test_append_to_itself_is_refused():
    memory = make_memory(2)
    with pytest.raises(ValueError, match="'d0'"):
        memory.append(memory)


@pytest.fixture(params=PLACES)
def seven(request, tmp_path):
    return seven_passages(request.param, tmp_path)


def test_nothing_sees_what_was_deleted(seven):
    whole, query = seven[:].clone(), torch.randn(3, 2, 4)
    seven.search(query, 2)
    assert seven.delete(["d5", "d0", "d3"]) == 3
    rows = tensor([1, 2, 4, 6])
    assert len(seven) == 4 and "4 passages" in repr(seven)
    assert torch.equal(seven[:], whole[rows]) and torch.equal(seven[-1], whole[6])
    assert torch.equal(seven.gather(tensor([[3, 0]]))[0], whole[[6, 1]])
    assert seven.texts == ["text 1", "text 2", "text 4", "text 6"] and seven.texts[2:] == ["text 4", "text 6"]
    assert seven.document_ids == ["d1", "d2", "d4", "d6"] and seven.parents == seven.document_ids
    assert [entry["number"] for entry in seven.metadata] == rows.tolist() and seven.orders == [0] * 4
    kept = CorpusMemory(whole[rows], ["a"] * 4)
    for size in (1, 3, None):
        for found, expected in zip(seven.search(query, 4, size), kept.search(query, 4, size), strict=True):
            assert torch.equal(found, expected)
    with pytest.raises(ValueError, match="from 1 to the 4 passages"):
        seven.search(query, 5)


def test_deletes_one_after_another_and_appends_what_was_deleted_again(seven):
    seven.delete(["d0"])
    seven.delete(["d2", "d6"])
    assert seven.document_ids == ["d1", "d3", "d4", "d5"]
    with pytest.raises(ValueError, match="'d0', 'd6' not in this memory"):
        seven.delete(["d1", "d0", "d6"])
    assert len(seven) == 4
    seven.append(make_memory(1, first=2))
    assert seven.document_ids == ["d1", "d3", "d4", "d5", "d2"]
    with pytest.raises(ValueError, match="'d2'"):
        seven.append(make_memory(1, first=2))


def test_the_id_of_a_document_deletes_all_its_passages():
    ids, parents = ["a#0", "a#1", "b", "a#2"], ["a", "a", "b", "a"]
    memory = CorpusMemory(torch.ones(4, 1, 2), ids, ids, parents=parents)
    assert memory.delete(["a#1"]) == 1
    assert memory.delete(["a"]) == 2
    assert memory.document_ids == ["b"]


@pytest.mark.parametrize(
    ("document_ids", "message"),
    [
        ("d1", r"must be a list of ids, got one string: \['d1'\]"),
        (["d1", 2], r"`document_ids\[1\]` must be a string"),
        (["x1", "d1", "x2", "x3", "x4"], r"'x1', 'x2', 'x3', … not in this memory \(4 in all\)"),
        ([f"d{row}" for row in range(7)], "one passage at least must stay"),
    ],
)
def test_a_refused_delete_changes_nothing(seven, document_ids, message):
    values = seven[:].clone()
    with pytest.raises(ValueError, match=message):
        seven.delete(document_ids)
    assert torch.equal(seven[:], values) and seven.texts == make_memory(7).texts


def test_delete_of_nothing(seven):
    assert seven.delete([]) == 0 and len(seven) == 7


def test_rows_outlive_deletions(seven):
    everything = torch.arange(7)
    assert torch.equal(seven.rows_of(everything), everything)
    seven.delete(["d3", "d4", "d5", "d0"])
    assert seven.rows_of(tensor([[0, 1], [2, 2]])).tolist() == [[1, 2], [6, 6]]
    assert seven.indices_of(everything).tolist() == [-1, 0, 1, -1, -1, -1, 2]
    assert seven.indices_of(tensor([[7, -1, 6]])).tolist() == [[-1, -1, 2]]
    seven.append(make_memory(1, first=9))
    assert seven.rows_of(tensor([3])).tolist() == [7] and seven.indices_of(tensor([7, 6])).tolist() == [3, 2]


def test_pickle_of_a_loaded_memory_holds_no_rows(tmp_path):
    memory = make_memory(2000)
    memory.save_pretrained(tmp_path)
    loaded = CorpusMemory.from_pretrained(tmp_path)
    content = pickle.dumps(loaded)
    assert len(content) < 5000
    assert same(pickle.loads(content), memory)


def test_works_across_inference_mode():
    with torch.inference_mode():
        memory = make_memory(4)
        memory.search(torch.ones(1, 2, 4), 2)
    memory.append(make_memory(1, first=4))
    assert memory.search(torch.ones(1, 2, 4), 5)[1].shape == (1, 5)


def test_is_corpus_memory():
    assert is_corpus_memory(make_memory())
    assert not any(is_corpus_memory(value) for value in (None, ["a"], torch.ones(1, 2, 3), {"texts": []}))


def test_a_second_copy_of_the_class_is_understood(copy, tmp_path):
    assert copy.CorpusMemory is not CorpusMemory
    other = copy.CorpusMemory(torch.ones(1, 2, 4), ["t"], ["new"], metadata=[{"a": 1}], fingerprint="f")
    assert is_corpus_memory(other) and copy.is_corpus_memory(make_memory())
    memory = make_memory(3)
    memory.append(other)
    assert memory.document_ids[3] == "new" and memory.metadata[3] == {"a": 1}
    assert other.search(torch.ones(1, 2, 4), 1)[0].item() == pytest.approx(1.0)
    other.append(make_memory(3))
    other.save_pretrained(tmp_path)
    assert same(CorpusMemory.from_pretrained(tmp_path), copy.CorpusMemory.from_pretrained(tmp_path))


def test_loading_checks_nothing_into_ram(tmp_path, monkeypatch):
    make_memory(2000).save_pretrained(tmp_path)
    read = []
    from clara.columns_clara import ParquetColumn
    from clara.shards_clara import MemoryFile

    get_rows, get_group = MemoryFile.__getitem__, ParquetColumn._group
    monkeypatch.setattr(
        MemoryFile, "__getitem__", lambda self, rows: (read.append(rows), get_rows(self, rows))[1]
    )
    monkeypatch.setattr(
        ParquetColumn,
        "_group",
        lambda self, group: (read.append((self._name, group)), get_group(self, group))[1],
    )
    memory = CorpusMemory.from_pretrained(tmp_path)
    assert len(memory) == 2000 and memory.num_memory_tokens == 2
    assert read == []
    assert memory.texts[1999] == "text 1999"
    assert read == [("text", 1)]
    assert torch.equal(memory.gather(tensor([[7]]))[0, 0], memory[7])
    assert [rows.tolist() if isinstance(rows, torch.Tensor) else rows for rows in read[1:]] == [
        [7],
        slice(7, 8),
    ]
