"""The kit for a lent GPU: its written-out step against the model's own passes, its batches, a whole run."""

import json
import lzma
import tarfile

import numpy as np
import pytest
import torch
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.prompts_clara import SLOT_ID
from clara.retrieval_clara import average_neighbours, cosine_scores
from clara.train.gpu import prepare
from clara.train.gpu import train as gpu_train
from clara.train.gpu.batches import Builder, Data, packed_passages
from clara.train.gpu.rows import Rows, arrays, holds
from clara.train.gpu.step import ADAPTERS, Adapter, Base, Model, Shape
from clara.train.gpu.train import tensors
from safetensors.torch import load_file
from torch.nn import functional

from ..conftest import DOCUMENTS, make_model, save_base

SHAPE = {
    "document_rows": 3,
    "prompt_rows": 24,
    "question_rows": 2,
    "documents": 16,
    "questions": 24,
    "vectors": 300,
    "labels": 1024,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"), tied=True)


@pytest.fixture(scope="module")
def checkpoint(base, tmp_path_factory):
    fields = {"doc_max_length": 256, "compression_rate": 4, "pooling": "mean", "connector": "rms"}
    model = make_model(base, encoder_attention="bidirectional", **fields)
    with torch.no_grad():
        model.memory_gain.uniform_(0.5, 1.5)
    folder = tmp_path_factory.mktemp("checkpoint") / "start"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    topics = [(f"Place {n}", f"Town {n} has a bridge of {1800 + n}.") for n in range(60)]
    single = [
        {
            "docs": [f"{title}\n{text}"],
            "question": [f"When was the bridge of town number {n} built?", "When?"],
            "answers": [str(1800 + n), f"in {1800 + n}"],
            "findable": [True, False],
            "data_type": "qa",
        }
        for n, (title, text) in enumerate(topics)
    ]
    pools = [
        {
            "question": f"Which year has the bridge in town {n} from?",
            "golden_answers": [str(1800 + n)],
            "docs": ["\n".join(topics[place]) for place in range(n, n + 6)],
            "pos_index": [0],
        }
        for n in range(54)
    ]
    paraphrases = [{"docs": [DOCUMENTS[0]], "answers": ["A bridge."], "data_type": "paraphrase"}]
    corpus = [{"id": str(n), "text": text} for n, text in enumerate(DOCUMENTS)]
    files = {"qa_wikipedia": single, "nq": pools, "pretraining_paraphrase": paraphrases, "corpus": corpus}
    (folder / "train").mkdir()
    (folder / "dev").mkdir()
    for name, found in files.items():
        (folder / f"train/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    (folder / "dev/nq.jsonl").write_text(json.dumps(pools[0]) + "\n")
    return folder


def embed(texts):
    """Unit vectors drawn by each text, so that no teacher is needed."""
    found = np.stack([np.random.default_rng(len(text)).normal(size=8) for text in texts])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def data(rows, checkpoint, tmp_path_factory):
    file = tmp_path_factory.mktemp("arrays") / "rows.npz"
    processor = ClaraForRetrievalGeneration.from_pretrained(checkpoint).processor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clara.train.gpu.rows.HELD_OUT", 5)
        np.savez(file, **arrays(Rows().read(rows / "train"), processor, embed))
    return Data(file)


def written_out(base, checkpoint, passages, both_ways=True):
    config = json.loads((checkpoint / "config.json").read_text())
    frozen = Base.read(load_file(f"{base}/model.safetensors"), config["text_config"], "cpu", torch.float32)
    adapters = {
        name: Adapter(load_file(checkpoint / name / "adapter_model.safetensors"), 2, 2.0) for name in ADAPTERS
    }
    gain = load_file(checkpoint / "model.safetensors")["memory_gain"]
    return Model(frozen, adapters, gain, passages, Shape(**SHAPE), both_ways)


@pytest.fixture(scope="module")
def step(base, checkpoint, data):
    return written_out(base, checkpoint, data.passages)


@pytest.fixture(scope="module")
def built(data):
    builder = Builder(data, Shape(**SHAPE), np.random.default_rng(0), validation=False)
    return builder, tensors(builder.build(), torch.device("cpu"))


@pytest.fixture(scope="module")
def model(checkpoint):
    return ClaraForRetrievalGeneration.from_pretrained(checkpoint, attn_implementation="sdpa").eval()


@torch.no_grad()
@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_memories_are_those_of_the_model(base, checkpoint, data, built, model, direction):
    step = written_out(base, checkpoint, data.passages, direction == "bidirectional")
    builder, batch = built
    table, vectors = step.memories(batch)
    before, model.config.encoder_attention = model.config.encoder_attention, direction
    try:
        for number, (index, _) in builder.documents.items():
            memory = model.compress(torch.from_numpy(data.row("passages", number).astype(np.int64))[None])
            for factor in (1, 2, 4):
                places = builder.slot_places[number][factor]
                own = average_neighbours(memory, factor).values[0]
                torch.testing.assert_close(table[places.start : places.stop], own, rtol=1e-4, atol=1e-4)
            cosine = functional.cosine_similarity(model.search_vectors(memory)[0], vectors[index], dim=0)
            assert cosine > 0.99999
    finally:
        model.config.encoder_attention = before


@torch.no_grad()
def test_losses_of_answers_are_those_of_the_model(built, step, model):
    _, batch = built
    table, _ = step.memories(batch)
    _, losses = step.answer_loss(batch, table)
    prompts = int(batch["prompts"].max()) + 1
    assert prompts > 10
    for prompt in range(prompts):
        place = (batch["prompts"] == prompt).nonzero()
        row, columns = int(place[0, 0]), place[:, 1]
        ids, slots = batch["ids"][row, columns].clone(), batch["slots"][row, columns]
        ids[slots >= 0] = SLOT_ID
        labels = torch.full_like(ids, -100)
        first = row * 512 + int(columns[0])
        own = (batch["label_places"] >= first) & (batch["label_places"] < first + len(ids))
        own &= batch["label_weights"] > 0
        labels[batch["label_places"][own] - first + 1] = batch["labels"][own]
        segments = batch["segments"][row, columns]
        rows = table[slots[slots >= 0]]
        ones = torch.ones_like(ids)[None]
        asked = (labels[None], segments[None], None)
        loss = model._answer((ids[None], rows, ones), asked, {}).loss
        torch.testing.assert_close(loss, losses[own].mean(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_search_is_over_all_passages_with_the_documents_of_the_step_as_they_are_now(data, built, step, model):
    _, batch = built
    step.refresh(packed_passages(data, 2, 512))
    _, vectors = step.memories(batch)
    loss, found = step.search_loss(batch, vectors)
    texts = [torch.from_numpy(data.row("passages", n).astype(np.int64))[None] for n in range(data.passages)]
    bank = torch.cat([model.search_vectors(model.compress(ids)) for ids in texts])
    losses = []
    for number in range(int(batch["asked"].sum())):
        ids = batch["ask_ids"][batch["ask_texts"] == number][None]
        scores = cosine_scores(model.search_vectors(model.reason(ids)), bank)[0] / 0.02
        assert abs(float(scores[found[number]] - scores.max())) < 0.5
        wanted = torch.zeros(data.passages).index_add(
            0, batch["targets"][number], batch["target_weights"][number]
        )
        assert wanted.sum() == pytest.approx(1)
        losses.append(-(wanted * scores.log_softmax(0)).sum())
    assert float(loss) == pytest.approx(float(torch.stack(losses).mean()), rel=0.02)


def test_a_batch_holds_questions_with_their_answers_and_questions_without(data, built, model):
    builder, batch = built
    tokenizer = model.processor.tokenizer
    weights, kinds = batch["label_weights"] > 0, batch["label_kinds"]
    assert {int(kind) for kind in kinds[weights].unique()} >= {0, 1, 2}
    missing = tokenizer.decode(batch["labels"][weights & (kinds == 2)])
    assert "Not found in these documents." in missing
    for index, number in enumerate(batch["doc_numbers"].tolist()[: len(builder.documents)]):
        text = tokenizer.decode(batch["doc_ids"][batch["doc_texts"] == index])
        assert text == tokenizer.decode(data.row("passages", number))


def test_held_out_passages_are_never_learnt_from(data):
    shape = Shape(**SHAPE)
    held = set(np.flatnonzero(data.held_out).tolist())
    assert held
    for seed in range(20):
        builder = Builder(data, shape, np.random.default_rng(seed), validation=False)
        batch = tensors(builder.build(), torch.device("cpu"))
        asked = batch["targets"][batch["asked"] > 0, 0].tolist()
        assert not held & set(asked)
        builder = Builder(data, shape, np.random.default_rng(seed), validation=True)
        batch = tensors(builder.build(), torch.device("cpu"))
        assert set(batch["targets"][batch["asked"] > 0, 0].tolist()) <= held


def test_an_answer_is_held_word_by_word():
    assert holds("It was opened in 1890.", "1890") and holds("The Bridge", "bridge")
    assert not holds("It was opened in 18900.", "1890") and not holds("yes it was", "yes")


def test_a_run_of_a_few_steps_leaves_checkpoints_that_load(base, checkpoint, data, tmp_path, monkeypatch):
    file = tmp_path / "rows.npz"
    np.savez(file, **data.arrays)
    arguments = ["--data", file, "--base", base, "--start", checkpoint, "--output", tmp_path / "out"]
    arguments += ["--minutes", "0.04", "--workers", "1", "--warmup", "1", "--refresh", "0.5"]
    arguments += ["--shape", json.dumps(SHAPE), "--refresh-rows", "2", "--validation", "1"]
    monkeypatch.setattr("sys.argv", ["train", *map(str, arguments)])
    gpu_train.main()
    before = load_file(checkpoint / "generator/adapter_model.safetensors")
    for name in ("final", "mean"):
        found = ClaraForRetrievalGeneration.from_pretrained(tmp_path / "out" / name)
        assert found.config.encoder_attention == "bidirectional"
        after = load_file(tmp_path / "out" / name / "generator/adapter_model.safetensors")
        assert after.keys() == before.keys()
        assert any(not torch.equal(before[key].bfloat16(), after[key]) for key in before)


def test_vectors_of_the_teacher_are_made_once(tmp_path, monkeypatch):
    asked = []

    class Teacher:
        def __init__(self, path, device):
            pass

        def embed(self, texts, batch_size):
            asked.extend(texts)
            return torch.tensor([[len(text), 1.0] for text in texts])

    monkeypatch.setattr(prepare, "RetrievalTeacher", Teacher)
    file = tmp_path / "vectors.npz"
    first = prepare.Vectors(file)(["Zürich", "b"])
    again = prepare.Vectors(file)(["b", "new one", "Zürich"])
    assert first.tolist() == [[6, 1], [1, 1]] and again.tolist() == [[1, 1], [7, 1], [6, 1]]
    assert asked == ["Zürich", "b", "new one"]


def test_parts_hold_rows_start_and_wheels(rows, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "Vectors", lambda file: embed)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "base.whl").write_bytes(b"wheel")
    arguments = ["--data", rows, "--wheels", wheels, "--start", checkpoint, "--output", tmp_path / "parts"]
    monkeypatch.setattr(prepare, "measuring", lambda given: iter(()))
    monkeypatch.setattr("sys.argv", ["prepare", *map(str, arguments), "--part-mib", "0.05"])
    prepare.main()
    parts = sorted((tmp_path / "parts").glob("train-*"), key=lambda path: int(path.name.split("-")[1]))
    assert len(parts) > 1
    whole = tmp_path / "whole.tar"
    whole.write_bytes(b"".join((part / "bytes").read_bytes() for part in parts))
    with tarfile.open(whole) as archive:
        archive.extractall(tmp_path / "found", filter="data")
    found = tmp_path / "found"
    assert (found / "wheels/base.whl").read_bytes() == b"wheel"
    assert (found / "start/compressor/adapter_model.safetensors").exists()
    (tmp_path / "rows.npz").write_bytes(lzma.decompress((found / "rows.npz.xz").read_bytes()))
    assert Data(tmp_path / "rows.npz").passages > 60
