"""The trainer: its loss, accumulation, checkpointing, resuming, metrics, and what stops it."""

import dataclasses
import errno
import json
import pkgutil
import shutil
import zlib
from types import SimpleNamespace

import pytest
import torch
from clara import modeling_clara
from clara.data.records import PretrainingRecord, QuestionRecord
from clara.retrieval_clara import cosine_scores
from clara.train.checkpoints import complete_checkpoints
from clara.train.losses import contrastive_loss
from clara.train.past import passage_keys
from clara.train.stages import STAGES
from clara.train.trainer import ClaraTrainer
from conftest import make_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.functional import normalize
from training_helpers import (
    BASALT,
    PRETRAINING,
    QUESTION_ROWS,
    ROWS,
    Cut,
    assert_close,
    gradients,
    make_args,
    make_trainer,
    parameters,
)
from transformers import TrainerCallback


def plain(base, **fields):
    """A model without dropout, so that two ways of computing give the same numbers."""
    return make_model(base, lora_dropout=0.0, **fields)


def logs(trainer, name):
    return [row[name] for row in trainer.state.log_history if name in row]


# Loss


def batch_of(trainer, rows=(0, 1, 2)):
    return trainer.data_collator([trainer.train_dataset[row] for row in rows])


@pytest.mark.parametrize("stage", ["pretraining", "instruction_tuning"])
def test_the_loss_is_cross_entropy_and_a_tenth_of_the_alignment(base, tmp_path, stage):
    model = plain(base).train()
    trainer = make_trainer(model, tmp_path, stage)
    batch = batch_of(trainer)
    ids, mask = batch["document_input_ids"], batch["document_attention_mask"]
    memories, states = model._encode("compressor", ids, mask)
    memory = memories.values
    means = torch.stack([s[m.bool()].mean(0) for s, m in zip(states, mask, strict=True)])
    errors = ((means - memory.mean(1)) ** 2).mean(-1)
    shown = torch.bincount(batch["document_indices"].flatten())  # a document of two questions counts twice
    alignment = errors.mean() if stage == "pretraining" else (errors * shown).sum() / shown.sum()
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        memory=memory[batch["document_indices"]],
    ).logits
    answer = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    loss = trainer.compute_loss(model, dict(batch))
    torch.testing.assert_close(loss, answer + 0.1 * alignment)
    assert alignment > 0.01


def test_end_to_end_is_cross_entropy_alone_unless_told(base, tmp_path):
    model = plain(base).train()
    trainer = make_trainer(model, tmp_path, "end_to_end")
    batch = batch_of(trainer)
    left_out = ("rows", "positives", "query_texts", "candidate_indices")
    found = {key: batch[key] for key in batch if key not in left_out}
    found |= trainer._candidates.batch(batch["candidate_indices"], model.config.num_memory_tokens)
    answer = model(**found).loss
    torch.testing.assert_close(trainer.compute_loss(model, dict(batch)), answer)
    trainer.args.contrastive_weight, trainer.args.generation_weight = 2.0, 0.0
    trainer._ranks_only = True
    found["input_ids"] = batch["input_ids"] = None  # the generator is left out
    p = (model(**found).scores / 0.02).masked_fill(~batch["memory_mask"], float("-inf")).softmax(-1)
    expected = -(p * batch["positives"]).sum(-1).log().mean()
    torch.testing.assert_close(trainer.compute_loss(model, dict(batch)), 2 * expected)


def test_pretraining_may_also_match_questions_to_their_documents(base, tmp_path):
    model = plain(base).train()
    trainer = make_trainer(model, tmp_path, contrastive_weight=2.0)
    batch = batch_of(trainer)
    own = batch["match_indices"]
    without = {key: value for key, value in batch.items() if not key.startswith("match_")}
    found = {key: value for key, value in batch.items() if key not in ("rows", "match_indices")}
    p = (model(**found).match_scores / 0.02).softmax(-1)
    expected = -p[torch.arange(len(own)), own].log().mean()
    answer = trainer.compute_loss(model, without)
    torch.testing.assert_close(trainer.compute_loss(model, dict(batch)), answer + 2 * expected)
    assert set(trainer._means["train"].pop()) >= {"match_recall@1", "match_recall@5", "alignment_loss"}


def test_passages_of_past_batches_are_negatives_but_no_copy_of_the_own(base, tmp_path):
    model = plain(base).train()
    trainer = make_trainer(model, tmp_path, contrastive_weight=2.0, past_passages=3)
    batch = batch_of(trainer)
    own = batch["match_indices"]
    keys = passage_keys(batch["document_input_ids"], batch["document_attention_mask"])
    found = {key: value for key, value in batch.items() if key not in ("rows", "match_indices")}
    out = model(**found)
    others = torch.randn(3, out.document_vectors.shape[-1])
    trainer._past.push(["one", keys[own[0]], "two"], others)  # the second is a copy of the first question's
    scores = torch.cat([out.match_scores, cosine_scores(out.query_vectors, others)], dim=-1) / 0.02
    scores[[i == own[0] for i in own], out.match_scores.shape[-1] + 1] = float("-inf")
    expected = -scores.log_softmax(-1)[torch.arange(len(own)), own].mean()
    without = {key: value for key, value in batch.items() if not key.startswith("match_")}
    answer = trainer.compute_loss(model, without)
    torch.testing.assert_close(trainer.compute_loss(model, dict(batch)), answer + 2 * expected)
    assert trainer._past.keys == keys[-3:]
    torch.testing.assert_close(trainer._past.vectors, out.document_vectors[-3:])
    assert not trainer._past.vectors.requires_grad
    model.eval()
    trainer.compute_loss(model, batch_of(trainer))
    assert trainer._past.keys == keys[-3:]  # an evaluation adds none


def test_the_supervised_baseline_trains_the_query_reasoner_alone(base, tmp_path):
    model = plain(base)
    options = {"contrastive_weight": 1.0, "generation_weight": 0.0}
    found = gradients(make_trainer(model, tmp_path, "end_to_end", **options))
    assert any(g.abs().max() > 0 for name, g in found.items() if ".query_reasoner." in name)
    assert not any(".generator." in name for name in found)
    options |= {"eval_dataset": QUESTION_ROWS[:2], "controls": True}
    evaluated = make_trainer(model, tmp_path / "again", "end_to_end", **options).evaluate()
    assert evaluated["eval_loss/own"] > 0 and evaluated["eval_recall@1"] >= 0


# Accumulation and checkpointing


@pytest.mark.parametrize("stage", STAGES)
def test_one_batch_of_eight_is_eight_of_one(base, tmp_path, stage):
    """Rows have from one to six signals, or answers of unequal lengths; K documents are distinct in a row."""
    rows = ROWS[stage]
    if stage == "instruction_tuning":
        rows = [
            QuestionRecord(r.question, r.answers, (f"{i} {r.question}", f"{i}")) for i, r in enumerate(rows)
        ]
    whole, parts = (
        gradients(make_trainer(plain(base), tmp_path / name, stage, rows, **sizes, max_grad_norm=0.0))
        for name, sizes in {
            "whole": {"per_device_train_batch_size": 8},
            "parts": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
        }.items()
    )
    assert_close(parts, whole, atol=2e-5, rtol=1e-3)
    assert max(g.abs().max() for g in whole.values()) > 1e-3


class DrawnTeacher:
    """A teacher of retrieval that knows nothing: unit vectors drawn by the texts themselves."""

    def __init__(self, path, device):
        pass

    def embed(self, texts):
        draws = [torch.Generator().manual_seed(zlib.crc32(text.encode())) for text in texts]
        return normalize(torch.stack([torch.randn(8, generator=draw) for draw in draws]), dim=-1)


GROUPS = {
    "a teacher of retrieval": (
        "end_to_end",
        QUESTION_ROWS,
        {"contrastive_weight": 0.1, "retrieval_teacher": "drawn", "generation_weight": 0.5},
        (8, 1),
        (3, 3),
    ),
    "rows without positives": (
        "end_to_end",
        [
            dataclasses.replace(row, positives=()) if place in (1, 2, 5) else row
            for place, row in enumerate(QUESTION_ROWS)
        ],
        {"contrastive_weight": 1.0, "generation_weight": 0.5},
        (8, 1),
        (1, 8),
    ),
    "a short last batch": ("pretraining", PRETRAINING[:5], {"alignment_weight": 1.0}, (5, 1), (4, 2)),
    "questions that share documents": (
        "instruction_tuning",
        QUESTION_ROWS,
        {"alignment_weight": 1.0},
        (8, 1),
        (2, 4),
    ),
}


@pytest.mark.parametrize("case", GROUPS)
def test_a_group_of_batches_is_one_batch_whatever_its_rows_hold(base, tmp_path, case, monkeypatch):
    monkeypatch.setattr("clara.train.trainer.RetrievalTeacher", DrawnTeacher)
    stage, rows, fields, *sizes = GROUPS[case]
    found = [
        gradients(
            make_trainer(
                plain(base), tmp_path / str(size), stage, rows, per_device_train_batch_size=size,
                gradient_accumulation_steps=steps, max_grad_norm=0.0, bucket_by_length=False, max_steps=1,
                **fields,
            )
        )
        for size, steps in sizes
    ]  # fmt: skip
    assert_close(found[1], found[0], atol=2e-5, rtol=1e-3)
    assert max(g.abs().max() for g in found[0].values()) > 1e-3


def test_scores_are_float32_under_mixed_precision(base, tmp_path, monkeypatch):
    """In bfloat16 near candidates have one score, and the choice among them is arbitrary.

    They are looked at where they are made: what leaves the model is cast to float32 in any case.
    """
    made, compute = [], modeling_clara.cosine_scores

    def note(query, vectors):
        assert torch.is_autocast_enabled("cpu")
        scores = compute(query, vectors)
        made.append((query, vectors, scores))
        return scores

    monkeypatch.setattr(modeling_clara, "cosine_scores", note)
    make_trainer(plain(base), tmp_path, "end_to_end", bf16=True, max_steps=1).train()
    assert made
    for query, vectors, scores in made:
        assert query.dtype == vectors.dtype == scores.dtype == torch.float32
        exact = torch.einsum(
            "bd,bnd->bn", normalize(query.double(), dim=-1), normalize(vectors.double(), dim=-1)
        )
        torch.testing.assert_close(scores.double(), exact, atol=1e-6, rtol=0)


def test_a_document_that_occurs_twice_in_a_batch_is_no_negative(base, tmp_path):
    rows = [
        PretrainingRecord(BASALT, (question,), (("iron",),))
        for question in ("What is basalt?", "How does basalt cool?")
    ]
    trainer = make_trainer(plain(base), tmp_path, rows=rows, contrastive_weight=1.0)
    batch = batch_of(trainer, (0, 1))
    without = {key: value for key, value in batch.items() if not key.startswith("match_")}
    expected = trainer.compute_loss(trainer.model, without)
    torch.testing.assert_close(trainer.compute_loss(trainer.model, dict(batch)), expected)
    assert trainer._means["eval"].pop()["match_recall@5"] == 1.0


def test_the_order_of_rows_follows_data_seed(base, tmp_path):
    orders = [
        list(make_trainer(plain(base), tmp_path, **fields)._get_train_sampler())
        for fields in ({"data_seed": 1}, {"data_seed": 2}, {"seed": 1}, {"seed": 1, "data_seed": 2})
    ]
    assert orders[0] == orders[2] != orders[1] == orders[3]


def test_an_optimizer_is_used_or_refused(base, tmp_path):
    trainer = make_trainer(plain(base), tmp_path, optim="sgd")
    assert type(trainer.create_optimizer()) is torch.optim.SGD
    half = make_trainer(plain(base).bfloat16(), tmp_path, optim="sgd")
    with pytest.raises(ValueError, match="`optim` 'sgd' .* adapters in torch.bfloat16"):
        half.create_optimizer()


def test_the_logged_loss_is_that_of_the_whole_batch(base, tmp_path):
    def losses(name, size, steps):
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        trainer = make_trainer(plain(base), tmp_path / name, **sizes, max_steps=2)
        trainer.train()
        return logs(trainer, "loss"), logs(trainer, "alignment_loss")

    for whole, parts in zip(losses("whole", 4, 1), losses("parts", 1, 4), strict=True):
        assert whole == pytest.approx(parts, rel=1e-3)


@pytest.mark.parametrize("stage", STAGES)
def test_activation_checkpointing_changes_nothing(base, tmp_path, stage):
    with_it, without = (
        gradients(make_trainer(plain(base), tmp_path / str(on), stage, activation_checkpointing=on))
        for on in (True, False)
    )
    assert_close(with_it, without, atol=1e-6, rtol=1e-5)


# Resuming


def run(base, folder, cut=None, resume=False, **fields):
    model = make_model(base, lora_dropout=0.3)  # dropout: the random state counts too
    fields = {"save_strategy": "steps", "save_steps": 2, "max_steps": 7, **fields}
    fields = {"per_device_train_batch_size": 2, **fields}
    trainer = make_trainer(model, folder, callbacks=[Cut(cut)] if cut else None, **fields)
    try:
        trainer.train(resume_from_checkpoint=resume)
    except KeyboardInterrupt:
        return None
    return parameters(model), logs(trainer, "loss")


@pytest.mark.parametrize("cut", [3, 5])
def test_a_run_cut_off_goes_on_bit_for_bit(base, tmp_path, cut):
    """Four steps are an epoch: the cuts lie in the first and in the second."""
    weights, losses = run(base, tmp_path / "whole")
    run(base, tmp_path / "cut", cut=cut)
    half = tmp_path / "cut" / f"checkpoint-{cut + 1}"
    half.mkdir()
    (half / "optimizer.pt").write_bytes(b"half")  # cut off while it was written
    again, tail = run(base, tmp_path / "cut", resume=True)
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert losses == tail and len(losses) == 7
    assert len(complete_checkpoints(tmp_path / "cut")) == 2


def test_past_passages_go_on_with_their_run(base, tmp_path):
    fields = {"contrastive_weight": 1.0, "past_passages": 6, "max_steps": 4}
    weights, losses = run(base, tmp_path / "whole", **fields)
    run(base, tmp_path / "cut", cut=3, **fields)
    again, tail = run(base, tmp_path / "cut", resume=True, **fields)
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert losses == tail


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_other_workers_go_on_bit_for_bit_within_a_short_group(base, tmp_path, stage):
    """Eight rows in groups of three, three and two; the cut lies in the second epoch."""
    fields = {"stage": stage, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 3}
    weights, losses = run(base, tmp_path / "whole", **fields)
    run(base, tmp_path / "cut", cut=5, **fields)
    again, tail = run(base, tmp_path / "cut", resume=True, dataloader_num_workers=2, **fields)
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert losses == tail and len(losses) == 7


def test_a_named_checkpoint_must_be_complete(base, tmp_path):
    run(base, tmp_path, max_steps=2)
    folder = shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "half")
    (folder / "complete.json").unlink()
    with pytest.raises(ValueError, match="half is no complete checkpoint"):
        run(base, tmp_path, resume=str(folder))


def test_masters_of_bfloat16_adapters_go_on_in_float32(base, tmp_path):
    model = make_model(base).bfloat16()
    fields = {"save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-6}
    make_trainer(model, tmp_path, max_steps=2, **fields).train()
    trainer = make_trainer(model, tmp_path, max_steps=3, **fields)
    trainer.train(resume_from_checkpoint=True)
    states = trainer.optimizer.optimizer.state.values()
    assert all(value.dtype == torch.float32 for state in states for value in state.values())
    assert {float(state["step"]) for state in states} == {3.0}


def test_without_a_checkpoint_it_starts_at_the_start(base, tmp_path):
    assert len(run(base, tmp_path, resume=True, max_steps=1)[1]) == 1


def test_the_best_checkpoint_is_kept_and_loaded(base, tmp_path):
    model = make_model(base)
    trainer = make_trainer(
        model,
        tmp_path,
        eval_dataset=PRETRAINING[4:],
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        max_steps=4,
        learning_rate=0.3,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
    )
    trainer.train()
    losses = logs(trainer, "eval_loss")
    best = 1 + losses.index(min(losses))
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-5)


# What stops a run


class Poison(TrainerCallback):
    """Makes a parameter NaN before a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, model=None, **_):
        if state.global_step == self.step:
            model.memory_tokens.data[0, 0] = float("nan")


def test_a_broken_loss_stops_and_names_the_rows(model, tmp_path):
    fields = {"save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 2, "max_steps": 4}
    trainer = make_trainer(model, tmp_path, callbacks=[Poison(2)], **fields)
    told = r"loss is nan at step 2, rows \[\d, \d\] of the training data.*checkpoint-2 is from before it"
    with pytest.raises(FloatingPointError, match=told):
        trainer.train()
    last = complete_checkpoints(tmp_path)[-1]
    assert last.name == "checkpoint-2"
    assert load_file(last / "model.safetensors")["memory_tokens"].isfinite().all()


def test_an_infinite_loss_stops_too(model, tmp_path, monkeypatch):
    trainer = make_trainer(model, tmp_path)
    monkeypatch.setattr(trainer, "_answer_loss", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(FloatingPointError, match="loss is inf"):
        trainer.compute_loss(model, dict(batch_of(trainer)))


def test_a_broken_gradient_stops_before_the_step_that_would_spoil_the_weights(model, tmp_path):
    trainer = make_trainer(
        model, tmp_path, save_strategy="steps", save_steps=1, max_steps=4, max_grad_norm=0.0
    )
    compute = trainer.compute_loss

    def broken(*args, **kwargs):
        loss = compute(*args, **kwargs)
        return loss if trainer.state.global_step < 2 else loss + model.memory_tokens.sum().mul(0).sqrt()

    trainer.compute_loss = broken
    with pytest.raises(FloatingPointError, match="gradient's norm is nan at step 2, rows") as error:
        trainer.train()
    assert "checkpoint-2 is from before it" in str(error.value)
    assert all(p.isfinite().all() for p in model.parameters())


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("writer", "error"),
    [
        ("torch.save", NO_SPACE),
        ("torch.save", RuntimeError("PytorchStreamWriter failed: No space left")),
        ("clara.adapters_clara.save_file", SafetensorError("I/O error: No space left (os error 28)")),
        ("clara.train.resuming.mark_complete", NO_SPACE),
    ],
)
def test_a_full_disk_leaves_earlier_checkpoints_and_nothing_half(base, tmp_path, monkeypatch, writer, error):
    save = pkgutil.resolve_name(writer)

    def full(value, file, *args, **kwargs):
        if "checkpoint-4" in str(value if writer.endswith("complete") else file):
            raise error
        save(value, file, *args, **kwargs)

    monkeypatch.setattr(writer, full)
    told = "checkpoint-4 could not be written .*No space left.* goes on from .*checkpoint-2"
    with pytest.raises(OSError, match=told):
        run(base, tmp_path)
    assert [folder.name for folder in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    monkeypatch.setattr(writer, save)
    weights, losses = run(base, tmp_path, resume=True)
    assert len(losses) == 7


@pytest.mark.parametrize(
    ("stage", "row", "message"),
    [
        (
            "instruction_tuning",
            ("Q?", ("a",), ("one",)),
            "Row 8 has 1 documents, fewer than `documents_per_qu",
        ),
        ("end_to_end", ("Q?", ("a",), ("one",)), "Row 8 has 1 documents, fewer than `retrieval_top_k` = 2"),
        ("end_to_end", ("word " * 120, ("a",), ("one", "two")), r"Row 8: `questions\[0\]` has"),
        ("end_to_end", ("Q?", ("word " * 1500,), ("one", "two")), "Row 8: .*shorten the answer"),
    ],
)
def test_bad_rows_are_named_before_training(model, tmp_path, stage, row, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(model, tmp_path, stage, rows=[*QUESTION_ROWS, QuestionRecord(*row)])


def test_an_error_of_a_batch_names_its_rows(model, tmp_path):
    def broken(items):
        raise ValueError("too long")

    trainer = make_trainer(model, tmp_path, data_collator=broken)
    with pytest.raises(ValueError, match=r"The batch of the rows \[\d, \d, \d, \d\]: too long"):
        trainer.train()


def test_what_a_run_needs(model, tmp_path):
    with pytest.raises(ValueError, match="`train_dataset` is empty"):
        make_trainer(model, tmp_path, rows=[])
    args = make_args(tmp_path)
    args._n_gpu = 2
    with pytest.raises(ValueError, match="One process would drive 2 GPUs"):
        ClaraTrainer(model, args, train_dataset=PRETRAINING)
    model.processor = None
    with pytest.raises(ValueError, match="`model` has no processor"):
        make_trainer(model, tmp_path)


# Metrics


def test_what_is_logged_in_each_stage(base, tmp_path):
    shared = {
        "loss",
        "grad_norm",
        "grad_norm/generator",
        "tokens_per_second",
        "tflops",
        "mfu",
        "learning_rate",
    }
    own = {
        "pretraining": {"alignment_loss", "grad_norm/compressor"},
        "end_to_end": {"recall@1", "recall@3", "recall@5", "pool_size", "grad_norm/query_reasoner"},
    }
    for stage, names in own.items():
        trainer = make_trainer(plain(base), tmp_path / stage, stage, max_steps=1, peak_tflops=1.0)
        trainer.train()
        assert shared | names <= set(trainer.state.log_history[0]), stage
        assert not (set().union(*own.values()) - names) & set(trainer.state.log_history[0])


def test_recall_of_training_is_that_of_evaluation_and_not_zero(base, tmp_path):
    """With a query reasoner that finds every gold document, and its question the document's own text."""
    rows = [
        QuestionRecord(r.documents[r.positives[0]], r.answers, r.documents, r.positives[:1])
        for r in QUESTION_ROWS
    ]
    trainer = make_trainer(
        plain(base), tmp_path, "end_to_end", rows, eval_dataset=rows, max_steps=1, learning_rate=0.0,
        per_device_train_batch_size=8, per_device_eval_batch_size=3,
    )  # fmt: skip
    trainer.train()
    found = trainer.evaluate()
    assert logs(trainer, "recall@1") == [1.0]
    for name in ("recall@1", "recall@3", "recall@5", "pool_size"):
        assert found[f"eval_{name}"] == pytest.approx(logs(trainer, name)[0])
    assert found["eval_pool_size"] == pytest.approx(sum(len(r.documents) for r in rows) / 8)


def test_evaluation_counts_the_alignment_in_full_whatever_the_accumulation(base, tmp_path):
    found = []
    for steps in (1, 4):
        trainer = make_trainer(
            plain(base), tmp_path / str(steps), eval_dataset=PRETRAINING, learning_rate=0.0, max_steps=1,
            gradient_accumulation_steps=steps, per_device_train_batch_size=1,
        )  # fmt: skip
        trainer.train()
        found.append(trainer.evaluate()["eval_loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_evaluation_writes_controls_and_samples(base, tmp_path):
    trainer = make_trainer(
        plain(base), tmp_path, eval_dataset=PRETRAINING, picture=True, controls=True, samples=2, max_steps=2,
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=2,
    )  # fmt: skip
    trainer.train()
    controls = [json.loads(line) for line in (tmp_path / "memory_controls.jsonl").read_text().splitlines()]
    assert [row["step"] for row in controls] == [1, 2]
    assert logs(trainer, "eval_loss/own") == [row["own"] for row in controls]
    assert set(controls[0]) == {"step", "own", "shuffled", "none"}
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 4 and samples[0]["answer"] == "1890"
    curves = json.loads((tmp_path / "curves.json").read_text())
    assert curves == trainer.state.log_history[: len(curves)]
    assert (tmp_path / "curves.png").is_file()
    assert "eval_loss/own" in (tmp_path / "README.md").read_text()


def test_several_evaluation_sets(base, tmp_path):
    trainer = make_trainer(plain(base), tmp_path, eval_dataset={"a": PRETRAINING[:2], "b": PRETRAINING[2:]})
    found = trainer.evaluate()
    assert found["eval_a_loss"] != found["eval_b_loss"] and "eval_b_alignment_loss" in found
    assert trainer.evaluate(trainer.eval_dataset["a"])["eval_loss"] == pytest.approx(found["eval_a_loss"])


class Tracker(TrainerCallback):
    """What a tracker of `report_to` receives."""

    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs=None, **_):
        self.rows.append({**logs, "step": state.global_step})


def test_trackers_receive_every_number(base, tmp_path):
    tracker = Tracker()
    trainer = make_trainer(
        plain(base), tmp_path, eval_dataset=PRETRAINING, controls=True, max_steps=1, eval_strategy="steps",
        eval_steps=1, callbacks=[tracker],
    )  # fmt: skip
    trainer.train()
    assert tracker.rows == trainer.state.log_history
    assert all(isinstance(value, (int, float)) for row in tracker.rows for value in row.values())
    assert any("eval_loss/none" in row for row in tracker.rows)


def test_the_live_panel_of_trl(base, tmp_path, capsys):
    pytest.importorskip("trl")
    trainer = make_trainer(plain(base), tmp_path, rich_progress=True, max_steps=2)
    trainer.train()
    assert "Training" in capsys.readouterr().out


# Options


@pytest.mark.parametrize("stage", ["pretraining", "end_to_end"])
def test_several_rates_train_at_once(base, tmp_path, stage):
    rows = ROWS[stage]
    trainer = make_trainer(plain(base, pooling="mean"), tmp_path, stage, compression_rates=[16, 32, 64],
                           max_steps=4, per_device_train_batch_size=2)  # fmt: skip
    factors = {batch_of(trainer, (row,))["rate_factor"] for row in range(len(rows))}
    assert factors == {1, 2, 4}
    trainer.train()
    assert len(logs(trainer, "loss")) == 4


def test_a_rate_that_is_no_multiple_is_refused_before_training(base, tmp_path):
    with pytest.raises(
        ValueError, match=r"`compression_rates` must be multiples of the model's 16, got \[24\]"
    ):
        make_trainer(plain(base, pooling="mean"), tmp_path, compression_rates=[24])


def test_mean_pooling_and_the_connector_train(base, tmp_path):
    model = plain(base, pooling="mean", connector="rms")
    trainer = make_trainer(model, tmp_path, max_steps=8, per_device_train_batch_size=8, learning_rate=0.02)
    before = model.memory_gain.detach().clone()
    trainer.train()
    losses = logs(trainer, "loss")
    assert losses[-1] < losses[0] - 0.3
    assert not torch.equal(model.memory_gain, before)


def test_pretraining_learns(base, tmp_path):
    trainer = make_trainer(
        plain(base), tmp_path, max_steps=8, per_device_train_batch_size=8, learning_rate=0.02
    )
    trainer.train()
    losses = logs(trainer, "loss")
    assert losses[-1] < losses[0] - 0.3


def test_the_contrastive_loss_has_the_models_temperature_mask_and_kind_of_positives(base, tmp_path):
    model = plain(base).train()
    trainer = make_trainer(model, tmp_path, "end_to_end", contrastive_weight=1.0, generation_weight=0.0)
    batch = batch_of(trainer, (0, 1, 6))  # pools of 3 and 4 candidates, one or two positives
    assert not batch["memory_mask"].all() and batch["positives"].sum(-1).max() == 2
    indices, mask, positives = (batch[name] for name in ("candidate_indices", "memory_mask", "positives"))
    query = model.search_vectors(model.reason(batch["query_input_ids"], batch["query_attention_mask"]))
    scores = cosine_scores(query, trainer._candidates.vectors[indices])
    found = {}
    for temperature in (0.02, 0.5):
        for wanted in ("any", "each"):
            model.config.retrieval_temperature, trainer.args.contrastive_positives = temperature, wanted
            expected = contrastive_loss(scores, positives, temperature, mask, wanted)
            found[temperature, wanted] = trainer.compute_loss(model, dict(batch))
            torch.testing.assert_close(found[temperature, wanted], expected)
    assert len({round(float(loss.detach()), 4) for loss in found.values()}) >= 3


@pytest.mark.parametrize("told", [True, False])
def test_the_generator_reads_the_positives_only_if_told(base, tmp_path, told):
    model = plain(base).train()
    trainer = make_trainer(model, tmp_path, "end_to_end", positives_are_read=told)
    batch = batch_of(trainer, (0, 1, 6))
    worst = torch.where(batch["memory_mask"], batch["positives"].float(), 2).argmin(dim=-1)
    batch["positives"] = torch.nn.functional.one_hot(worst, batch["positives"].shape[1]).bool()
    _, outputs = trainer.compute_loss(model, dict(batch), return_outputs=True)
    chosen = outputs.scores.masked_fill(~batch["memory_mask"], float("-inf")).topk(outputs.indices.shape[1])
    best = chosen.indices.sort().values
    assert (outputs.indices == worst.unsqueeze(-1)).any(dim=-1).all() or not told
    assert told or torch.equal(outputs.indices.sort().values, best)


@pytest.mark.parametrize(("everywhere", "factor"), [(True, 2), (False, 1)])
def test_a_loss_over_all_devices_counts_for_the_mean_of_their_gradients(
    base, tmp_path, monkeypatch, everywhere, factor
):
    """Gradients are averaged over the devices; a sum over the labels of all must be multiplied before."""
    trainer = make_trainer(plain(base), tmp_path, average_tokens_across_devices=everywhere)
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    outputs = SimpleNamespace(loss=torch.tensor(3.0))
    assert float(trainer._answer_loss(outputs, torch.tensor(5))) == 3.0 * factor
    assert float(trainer._answer_loss(outputs, None)) == 3.0
