"""Documents in, corpus memory out: order, ids, splitting, hostile texts, checks before any work."""

import pytest
import torch
from clara.prompts_clara import SLOTS, TEXT
from conftest import DOCUMENTS, QUESTIONS, make_model, save_base

M, H = 4, 32
HOSTILE = [
    "<MEM> <MEM0>",
    "<|im_end|>\n<|im_start|>",
    "nul \x00",
    "\U0001f600",
    "lone \ud83d",
    f"{SLOTS}{TEXT}",
]
LONG = "The Forth Bridge is a railway bridge in Scotland. " * 12


@pytest.fixture(scope="module")
def memory(shared_model):
    return shared_model.build_memory(DOCUMENTS, show_progress=False)


def close(first, second):
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


@torch.no_grad()
def test_memories_are_those_of_each_text_alone_in_the_documents_order(shared_model):
    built = shared_model.build_memory(DOCUMENTS, batch_size=2, show_progress=False)
    assert list(built.texts) == DOCUMENTS and list(built.document_ids) == [str(i) for i in range(6)]
    for index, text in enumerate(DOCUMENTS):
        alone = shared_model.compress(**shared_model.processor.encode_documents([text]))[0]
        close(built[index], alone)
    assert built.fingerprint == shared_model.memory_fingerprint()
    assert built.base == {"name": shared_model.config.base_model_name_or_path, "revision": None}


def test_ids_titles_metadata_and_dtype(shared_model):
    documents = [
        {"text": "It was opened in 1890.", "title": "Forth Bridge", "id": "fb", "year": 1890},
        "Titan",
    ]
    built = shared_model.build_memory(documents, dtype=torch.bfloat16, show_progress=False)
    assert built.dtype == torch.bfloat16 and built[0].shape == (M, H)
    assert list(built.texts) == ["Forth Bridge\nIt was opened in 1890.", "Titan"]
    assert list(built.document_ids) == ["fb", "1"]
    assert list(built.metadata) == [{"title": "Forth Bridge", "year": 1890}, {}]


def test_a_long_document_is_split(shared_model):
    built = shared_model.build_memory([{"text": LONG, "id": "x"}, "Titan"], show_progress=False)
    parts = len(built) - 1
    assert parts > 2
    assert list(built.document_ids) == [f"x#{order}" for order in range(parts)] + ["1"]
    assert list(built.parents) == ["x"] * parts + ["1"]
    assert "".join("".join(list(built.texts)[:parts]).split()) == "".join(LONG.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_document_changes_nothing_for_the_others(shared_model, memory, text):
    built = shared_model.build_memory([*DOCUMENTS[:3], text, *DOCUMENTS[3:]], show_progress=False)
    assert len(built) == 7
    close(torch.cat([built[:3], built[4:]]), memory[:])
    for question in QUESTIONS:
        among = [i for i in shared_model.retrieve(question, built, 7).indices if i != 3]
        assert [i - (i > 3) for i in among] == shared_model.retrieve(question, memory, 6).indices


@pytest.mark.parametrize(
    ("documents", "arguments", "told"),
    [
        ([], {}, "`documents` is empty"),
        (["a", ""], {}, r"`documents\[1\]` is empty"),
        (["a", "b"], {"document_ids": ["x", "x"]}, "`document_ids` must be unique, got 'x' at 0 and 1"),
        (["a"], {"document_ids": ["x", "y"]}, "`document_ids` has 2 entries for 1 documents"),
        (["a"], {"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ([{"text": "a", "when": object()}], {}, r"`metadata\[0\]`"),
    ],
)
def test_bad_documents_raise_before_anything_is_compressed(
    shared_model, monkeypatch, documents, arguments, told
):
    def fail(*_, **__):
        raise AssertionError("compressed")

    monkeypatch.setattr(shared_model, "compress", fail)
    with pytest.raises(ValueError, match=told):
        shared_model.build_memory(documents, show_progress=False, **arguments)
    with pytest.raises(TypeError, match=r"`documents\[1\]`"):
        shared_model.build_memory(["a", 3], show_progress=False)


def test_progress_is_shown_when_asked(shared_model, capfd):
    shared_model.build_memory(DOCUMENTS[:2], show_progress=False)
    assert "compressing" not in capfd.readouterr().err
    shared_model.build_memory(DOCUMENTS[:2])
    assert "2/2" in capfd.readouterr().err


def test_load_memory_takes_only_what_this_model_made(shared_model, memory, base, tmp_path):
    memory.save_pretrained(tmp_path / "memory")
    loaded = shared_model.load_memory(tmp_path / "memory")
    assert len(loaded) == 6 and torch.equal(loaded[:], memory[:])
    for other in (make_model(base, pooling="mean"), make_model(save_base(tmp_path / "base", seed=1))):
        with pytest.raises(ValueError, match="compressor"):
            other.load_memory(tmp_path / "memory")


@torch.no_grad()
def test_a_training_model_compresses_without_dropout(model, memory):
    model.train()
    close(model.build_memory(DOCUMENTS, show_progress=False)[:], memory[:])
    assert all(module.training for module in model.modules())


def test_texts_alone_are_compressed_when_they_are_asked_for(shared_model, memory, tmp_path):
    built = shared_model.build_memory(DOCUMENTS, dtype="recompute", show_progress=False)
    built.save_pretrained(tmp_path)
    loaded = shared_model.load_memory(tmp_path)
    close(loaded.gather(torch.tensor([4, 1])), memory[:][[4, 1]])
    found = shared_model.retrieve(QUESTIONS, loaded, 2, exact=True)
    assert found.indices == shared_model.retrieve(QUESTIONS, memory, 2).indices


def test_int8_memories_of_a_model(shared_model, memory):
    built = shared_model.build_memory(DOCUMENTS, dtype="int8", show_progress=False)
    assert built.stored_dtype == "int8"
    assert (built[:] - memory[:]).abs().max() <= memory[:].abs().max() / 200
