import json
import os
from types import SimpleNamespace

import pytest
import torch
from clara import memory_clara
from clara.memory_clara import FILES, CorpusMemory, is_corpus_memory
from memory_helpers import WIDTH, flip, make_memory, same


def by_hand(**kwargs):
    """Three passages of 1, 2 and 1 vectors of width 2, whose means are (1, 0), (0.5, 0.5) and (0, 0)."""
    values = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 0]])
    texts = ["apple pie", "pear tree of C", "plum"]
    return CorpusMemory(values, texts, **kwargs, offsets=torch.tensor([0, 1, 3, 4]))


def test_search_is_the_cosine_of_the_means():
    scores, indices = by_hand().search(torch.tensor([[3.0, 0], [0, -2]]), 3)
    assert indices.tolist() == [[0, 1, 2], [0, 2, 1]]
    half = 0.5**0.5
    torch.testing.assert_close(scores, torch.tensor([[1.0, half, 0], [0, 0, -half]]))
    assert (scores.dtype, indices.dtype) == (torch.float32, torch.int64)


def test_given_search_vectors_are_used():
    memory = by_hand(vectors=torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]))
    assert memory.search(torch.tensor([[1.0, 0, 0]]), 1)[1].tolist() == [[2]]
    with pytest.raises(ValueError, match=r"`vectors` must be \(B, 3\)"):
        memory.search(torch.ones(1, 2), 1)


def test_search_over_many_blocks_equals_one_product():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5000, 6, generator=generator)
    memory = CorpusMemory(values, ["t"] * 5000, offsets=torch.arange(5001))
    query = torch.randn(4, 6, generator=generator)
    expected = torch.nn.functional.cosine_similarity(query[:, None], values[None], dim=2).topk(7)
    scores, indices = memory.search(query, 7)
    assert indices.tolist() == expected.indices.tolist()
    torch.testing.assert_close(scores, expected.values)


def test_equal_scores_take_the_lower_index():
    memory = CorpusMemory(torch.ones(6, 2), ["t"] * 6, offsets=torch.arange(7))
    assert memory.search(torch.ones(1, 2), 6)[1].tolist() == [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("k", [0, 4, True, 1.0])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match="`retrieval_top_k` must be between 1 and the 3"):
        by_hand().search(torch.ones(1, 2), k)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"number": 2}, [2]),
        ({"number": [1, 3, 9]}, [1, 3]),
        ({"number": {">=": 1, "<": 3}}, [1, 2]),
        ({"number": {"!=": 1}}, [0, 2, 3, 4]),
        ({"author.name": "a1"}, [1, 3]),
        ({"id": "d4"}, [4]),
        ({"parent": ["d0", "d4"], "number": {">": 0}}, [4]),
        ({"missing": 1}, []),
        ({"document_id": "d4"}, [4]),
        ({"number": "2"}, []),
        ({"number": True}, []),
        ({"number.deep": 1}, []),
    ],
)
def test_filters_by_mapping(where, expected):
    scores, indices = make_memory().search(torch.ones(2, WIDTH), 5, where=where)
    assert sorted(indices[0].tolist()) == sorted(indices[1].tolist()) == expected
    assert scores.shape == (2, len(expected))


@pytest.mark.parametrize(
    "where", [{}, [], {"n": []}, {"n": {}}, {"n": {"~": 1}}, {"n": None}, {"n": float("nan")}, {1: 1}]
)
def test_malformed_filters_are_refused(where):
    with pytest.raises(ValueError, match="`where"):
        make_memory().search(torch.ones(1, WIDTH), 1, where=where)


def test_sql_needs_a_store():
    with pytest.raises(ValueError, match="SQL text needs a `CorpusStore`"):
        make_memory().search(torch.ones(1, WIDTH), 1, where="number > 2")


def test_hybrid_adds_the_scores_of_words():
    memory, query = by_hand(), torch.tensor([[1.0, 0]])
    assert memory.search(query, 3, ["plum"], hybrid=1.0)[1].tolist() == [[2, 0, 1]]
    assert memory.search(query, 2, ["plum"], hybrid=0.6)[1].tolist() == [[2, 0]]
    assert memory.search(query, 1, ["plum"], hybrid=0.0)[1].tolist() == [[0]]
    scores, indices = memory.search(query, 2, ["c"], hybrid=True)
    assert indices.tolist() == [[1, 0]]
    torch.testing.assert_close(scores, torch.tensor([[0.5**0.5, 1.0]]))


def test_words_in_both_unicode_forms_count():
    memory = CorpusMemory(torch.eye(3), ["a cafe\u0301", "the caf\u00e9", "x"], offsets=torch.arange(4))
    for question in ("caf\u00e9", "cafe\u0301"):
        found = memory.search(torch.tensor([[0.0, 0, 1]]), 3, [question], hybrid=1.0)[1]
        assert found.tolist() == [[0, 1, 2]]


def test_hybrid_needs_questions_and_a_weight():
    with pytest.raises(ValueError, match="`hybrid` needs `questions`"):
        by_hand().search(torch.ones(1, 2), 1, hybrid=True)
    with pytest.raises(ValueError, match="`hybrid` is the weight"):
        by_hand().search(torch.ones(1, 2), 1, ["a"], hybrid=1.5)


def test_hybrid_keeps_to_the_filter():
    found = make_memory().search(torch.ones(1, WIDTH), 5, ["text 4"], hybrid=1.0, where={"number": [1, 2]})
    assert sorted(found[1][0].tolist()) == [1, 2]


def test_gather_gives_ragged_memories():
    memory = make_memory(4)
    found = memory.gather(torch.tensor([3, 1, 3]))
    assert [len(part) for part in found] == [1, 2, 1]
    assert torch.equal(found[1], memory.values[1:3]) and torch.equal(found[0], found[2])
    for wrong in (-1, 4):
        with pytest.raises(IndexError, match="from 0 to 3"):
            memory.gather([wrong])


def test_a_row_is_a_mapping():
    row = make_memory()[-1]
    assert row["id"] == "d4" and row["text"] == "text 4" and row["metadata"]["number"] == 4
    assert torch.equal(row["memory"], make_memory().gather([4])[0])
    assert len(list(make_memory())) == 5
    with pytest.raises(IndexError, match="below the 5"):
        make_memory()[5]
    with pytest.raises(TypeError, match="whole number"):
        make_memory()[:2]


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 1 / 256), ("float16", 1 / 2048)])
def test_float_formats_keep_their_precision(dtype, bound):
    memory, plain = make_memory(dtype=torch.float32), make_memory()
    kept = CorpusMemory(plain.values, plain.texts, dtype=dtype, offsets=plain.offsets)
    assert kept.dtype == dtype and kept.values.dtype == getattr(torch, dtype)
    assert ((kept.values.float() - memory.values).abs() <= bound * memory.values.abs()).all()


@pytest.mark.parametrize(("dtype", "most"), [("int8", 127), ("int4", 7)])
def test_packed_formats_lie_within_half_a_step(dtype, most):
    plain = make_memory(width=128)
    kept = CorpusMemory(plain.values, plain.texts, dtype=dtype, offsets=plain.offsets)
    step = plain.values.unflatten(1, (2, 64)).abs().amax(-1, keepdim=True) / most
    error = (kept.values - plain.values).unflatten(1, (2, 64)).abs()
    assert (error <= 0.51 * step + step / 256 * most).all() and error.max() > 0
    assert torch.equal(kept.vectors, plain.vectors)
    again = CorpusMemory(kept.values, kept.texts, dtype=dtype, offsets=kept.offsets)
    assert torch.equal(again.values, kept.values)
    assert kept.hidden_size == 128


def test_int4_of_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="width 7 is odd"):
        CorpusMemory(torch.ones(1, 7), ["t"], dtype="int4", offsets=torch.tensor([0, 1]))


VALUES, OFFSETS = torch.ones(3, 2), torch.tensor([0, 1, 3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": torch.ones(3)}, "`values` must be"),
        ({"values": torch.ones(3, 2).long()}, "`values` must be"),
        ({"values": torch.tensor([[1.0, 2], [float("nan"), 0], [0, 0]])}, r"`values\[1\]` holds NaN"),
        ({"values": torch.full((3, 2), 1e9), "dtype": "float16"}, "too large"),
        ({"offsets": torch.tensor([0, 2])}, "`offsets` must be"),
        ({"offsets": torch.tensor([0, 0, 3])}, "`offsets` must be"),
        ({"offsets": torch.tensor([0.0, 1, 3])}, "`offsets` must be"),
        ({"offsets": torch.tensor([1, 2, 3])}, "`offsets` must be"),
        ({"texts": "ab"}, "`texts` must have one entry"),
        ({"texts": ["a"]}, "`texts` must have one entry"),
        ({"texts": ["a", 1]}, r"`texts\[1\]` must be a string"),
        ({"texts": ["a", "\ud800"]}, r"`texts\[1\]` is not valid Unicode"),
        ({"document_ids": ["a", "a"]}, "`document_ids` must be unique, got 'a'"),
        ({"metadata": [{}, 1]}, r"`metadata\[1\]` must be a mapping"),
        ({"metadata": [{}, {"x": float("nan")}]}, r"`metadata\[1\]` cannot be written"),
        ({"metadata": [{}, {"x": "\ud800"}]}, r"`metadata\[1\]` cannot be written"),
        ({"orders": [0, -1]}, r"`orders\[1\]` must be"),
        ({"parents": ["a", "a"], "orders": [1, 1]}, "`parents, orders` must be unique"),
        ({"vectors": torch.ones(3, 2)}, r"`vectors` must be \(2, D\)"),
        ({"dtype": "int2"}, "`dtype` must be one of"),
    ],
)
def test_malformed_arguments_are_refused(arguments, message):
    fields = {"values": VALUES, "offsets": OFFSETS, "texts": ["a", "b"], **arguments}
    with pytest.raises(ValueError, match=message):
        CorpusMemory(**fields)


def test_orders_run_within_their_documents():
    memory = CorpusMemory(VALUES, ["a", "b"], ["x#0", "x#1"], parents=["x", "x"], offsets=OFFSETS)
    assert memory.orders == [0, 1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
def test_append(dtype):
    memory = CorpusMemory(**fields_of(make_memory(3)), dtype=dtype)
    memory.append(make_memory(4, first=3))
    both = CorpusMemory(**fields_of(make_memory(3)), dtype=dtype)
    assert len(memory) == 7 and memory.document_ids[-1] == "d6"
    assert torch.equal(memory.values[: int(both.offsets[-1])], both.values)
    assert [len(part) for part in memory.gather(range(7))] == [1, 2, 3, 1, 2, 3, 1]
    own = memory.vectors[5:6]
    assert memory.search(own, 1)[1].tolist() == [[5]]


def fields_of(memory):
    names = ("values", "offsets", "texts", "document_ids", "metadata", "vectors", "fingerprint", "base")
    return {name: getattr(memory, name) for name in names}


SPLIT = {"document_ids": ["d1#0", "d1#1"], "parents": ["d1", "d1"]}


@pytest.mark.parametrize(
    ("there", "new"),
    [
        ({}, {}),
        ({}, SPLIT),
        (SPLIT, {"document_ids": ["d9", "d1"]}),
        (SPLIT, {"document_ids": ["d1#1", "d9"]}),
    ],
)
def test_a_document_in_any_form_is_refused(there, new):
    memory = make_memory(2, **there)
    with pytest.raises(ValueError, match="has the document 'd[01](#1)?', which is here already"):
        memory.append(make_memory(2, **new))
    assert same(memory, make_memory(2, **there))


def test_append_of_another_model_is_refused():
    with pytest.raises(ValueError, match="fingerprint g, this memory f"):
        make_memory().append(make_memory(1, first=9, fingerprint="g"))
    with pytest.raises(ValueError, match=r"\(H, D\) = \(4, 4\)"):
        make_memory().append(make_memory(1, first=9, width=4))


def test_append_of_what_is_not_in_ram_is_refused():
    memory = make_memory()
    stored = SimpleNamespace(fingerprint=memory.fingerprint)
    with pytest.raises(TypeError, match="must be a `CorpusMemory`, got a SimpleNamespace: use `to_memory`"):
        memory.append(stored)


def test_words_are_counted_anew_after_append():
    memory = make_memory(2)
    memory.search(memory.vectors[:1], 1, ["text"], hybrid=True)
    memory.append(make_memory(1, first=7))
    assert memory.search(memory.vectors[:1], 3, ["7"], hybrid=1.0)[1][0, 0] == 2


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "int4"])
def test_save_and_load(tmp_path, dtype):
    memory = CorpusMemory(**fields_of(make_memory()), dtype=dtype)
    memory.save_pretrained(tmp_path / "m")
    assert sorted(path.name for path in (tmp_path / "m").iterdir() if path.name[0] != ".") == sorted(FILES)
    loaded = CorpusMemory.from_pretrained(tmp_path / "m", "f")
    assert same(loaded, memory) and torch.equal(loaded.vectors, memory.vectors)


def test_saving_replaces(tmp_path):
    make_memory().save_pretrained(tmp_path)
    make_memory(2, first=8, dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert same(CorpusMemory.from_pretrained(tmp_path), make_memory(2, first=8, dtype=torch.bfloat16))


def test_another_models_memory_is_refused(tmp_path):
    make_memory().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="fingerprint f, expected g"):
        CorpusMemory.from_pretrained(tmp_path, "g")


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no stored corpus memory"):
        CorpusMemory.from_pretrained(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file"):
        make_memory().save_pretrained(tmp_path / "file")


@pytest.mark.parametrize("name", FILES[:2])
def test_every_flipped_bit_is_refused(tmp_path, name):
    make_memory().save_pretrained(tmp_path)
    size = (tmp_path / name).stat().st_size
    for offset in range(0, size, max(1, size // 12)):
        flip(tmp_path / name, offset)
        with pytest.raises(ValueError, match="altered or cut short"):
            CorpusMemory.from_pretrained(tmp_path)
        flip(tmp_path / name, offset)
    assert same(CorpusMemory.from_pretrained(tmp_path), make_memory())
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        CorpusMemory.from_pretrained(tmp_path)


def test_flipped_facts_are_refused_or_change_nothing_that_is_read(tmp_path):
    make_memory().save_pretrained(tmp_path)
    path = tmp_path / "memory.json"
    refused = 0
    for offset in range(0, path.stat().st_size, 5):
        flip(path, offset)
        try:
            loaded = CorpusMemory.from_pretrained(tmp_path, "f")
            assert loaded.texts == make_memory().texts and torch.equal(loaded.values, make_memory().values)
        except (ValueError, FileNotFoundError):
            refused += 1
        flip(path, offset)
    assert refused > path.stat().st_size // 10


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "[" * 100_000, '{"version": 1e999}', '{"version": 1, "dtype": {}}', " " * (1 << 21)],
)
def test_hostile_facts_are_refused(tmp_path, content):
    make_memory().save_pretrained(tmp_path)
    (tmp_path / "memory.json").write_text(content)
    with pytest.raises(ValueError, match="damaged or of another version"):
        CorpusMemory.from_pretrained(tmp_path)


@pytest.mark.parametrize("field", ["passages", "vectors", "hidden_size", "dtype"])
def test_facts_that_do_not_fit_the_files_are_refused(tmp_path, field):
    make_memory().save_pretrained(tmp_path)
    facts = json.loads((tmp_path / "memory.json").read_text())
    facts[field] = "float16" if field == "dtype" else facts[field] + 1
    (tmp_path / "memory.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="is no|does not fit"):
        CorpusMemory.from_pretrained(tmp_path)


@pytest.mark.parametrize("call", range(12))
def test_a_writer_that_stops_anywhere_leaves_old_or_new(tmp_path, monkeypatch, call):
    make_memory().save_pretrained(tmp_path)
    new, calls = make_memory(3, first=20), []

    def stopping(plain):
        def wrapped(*arguments, **options):
            calls.append(plain)
            if len(calls) > call:
                raise OSError(28, "No space left on device")
            return plain(*arguments, **options)

        return wrapped

    for place, name in ((memory_clara, "sync"), (os, "replace"), (memory_clara, "save_file")):
        monkeypatch.setattr(place, name, stopping(getattr(place, name)))
    try:
        new.save_pretrained(tmp_path)
        stopped = False
    except OSError:
        stopped = True
    monkeypatch.undo()
    found = CorpusMemory.from_pretrained(tmp_path)
    assert same(found, new) if found.document_ids[0] == "d20" else stopped and same(found, make_memory())
    new.append(make_memory(1, first=50))
    new.save_pretrained(tmp_path)
    assert same(CorpusMemory.from_pretrained(tmp_path), new)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == sorted(FILES)


def test_files_are_on_the_disk_before_they_have_their_names(tmp_path, monkeypatch):
    synced, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}")))

    def named(source, target):
        assert {str(tmp_path / f"{name}.new") for name in FILES} <= set(synced)
        replace(source, target)

    monkeypatch.setattr(os, "replace", named)
    make_memory().save_pretrained(tmp_path)
    assert synced[-1] == str(tmp_path)  # and the folder, that it has them


def test_a_second_writer_is_told(tmp_path):
    make_memory().save_pretrained(tmp_path)
    with (
        memory_clara.FileLock(tmp_path / memory_clara.LOCK),
        pytest.raises(RuntimeError, match="Another process"),
    ):
        make_memory(2).save_pretrained(tmp_path)
    assert len(CorpusMemory.from_pretrained(tmp_path)) == 5


def test_the_protocol_is_what_counts():
    assert is_corpus_memory(make_memory()) and not is_corpus_memory(["a text"])


def test_memories_may_be_given_as_a_list_or_of_one_length():
    rows = [torch.randn(m, 3) for m in (2, 1, 3)]
    memory = CorpusMemory(rows, ["a", "b", "c"], ["100", "x", "y"])
    assert all(a.equal(b) for a, b in zip(memory.gather(range(3)), rows, strict=True))
    even = CorpusMemory(torch.stack([rows[0], rows[0] + 1]), ["a", "b"])
    assert even.offsets.tolist() == [0, 2, 4]
    with pytest.raises(ValueError, match="where no `offsets` are given, got"):
        CorpusMemory(torch.ones(2, 3), ["a", "b"])


def test_memories_of_questions_are_pooled_and_ids_are_texts():
    memory = CorpusMemory(torch.randn(2, 2, 8), ["a", "b"], ["100", "x"])
    query = torch.randn(1, 2, 8)
    assert memory.search(query, 2)[1].tolist() == memory.search(query.mean(1), 2)[1].tolist()
    assert memory.search(query, 1, where={"document_id": 100})[1].tolist() == [[0]]
    assert memory.search(query, 1, where={"id": [100, "y"]})[1].tolist() == [[0]]


def test_of_passages_that_share_words_the_one_that_shares_more_is_first():
    texts = ["red", "red apple, apple, apple", "green pear"]
    memory = CorpusMemory(torch.ones(3, 1, 2), texts)
    for question, best in (("red apple", [1, 0]), ("green pear", [2])):
        indices = memory.search(torch.ones(1, 2), 2, [question], hybrid=1.0)[1][0].tolist()
        assert indices[: len(best)] == best
