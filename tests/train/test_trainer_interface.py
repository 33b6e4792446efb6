"""The trainer as a user of TRL calls it."""

import subprocess
import sys

import pytest
import torch
from clara import ClaraTrainer, ClaraTrainingConfig
from clara.data.rows import question_row
from conftest import make_model
from datasets import Dataset
from peft import LoraConfig
from training_helpers import PRETRAINING, QUESTION_ROWS, make_args, parameters

ROWS = [question_row(record) for record in QUESTION_ROWS]
SMALL = {"doc_max_length": 64, "compression_rate": 16}


def test_names_are_imported_when_they_are_used():
    import clara
    import clara.train

    code = (
        "import sys, time; start = time.perf_counter(); import clara, clara.train; "
        "print(time.perf_counter() - start, 'torch' in sys.modules)"
    )
    took, loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert float(took) < 0.2 and loaded == "False"
    for package in (clara, clara.train):
        assert {"ClaraTrainer", "ClaraTrainingConfig"} <= set(package.__all__) <= set(dir(package))
        assert all(getattr(package, name) for name in package.__all__)
        with pytest.raises(AttributeError, match="has no attribute 'Trainer'; it has"):
            package.Trainer  # noqa: B018


@pytest.mark.parametrize("stage", ["pretraining", "instruction_tuning", "end_to_end"])
def test_a_data_set_trains_evaluates_and_predicts(base, tmp_path, stage):
    model = make_model(base, lora_dropout=0.0, retrieval_top_k=2)
    model.generation_config.max_new_tokens = 4
    documents = [
        {"context": record.document, "question": record.questions[0], "answers": record.answers[0]}
        for record in PRETRAINING
        if record.questions
    ]
    rows = Dataset.from_list(documents if stage == "pretraining" else ROWS)
    seen = []

    def metrics(found):
        seen.append(found)
        return {"longest": max(map(len, found.predictions))}

    trainer = ClaraTrainer(
        model, make_args(tmp_path, stage, max_steps=1), train_dataset=rows, eval_dataset=rows.select([0, 1]),
        compute_metrics=metrics,
    )  # fmt: skip
    trainer.train()
    found = trainer.evaluate()
    assert found["eval_longest"] >= 0 and found["eval_loss"] > 0
    assert seen[0].label_ids[0] == list(rows[0].get("answers") or rows[0]["golden_answers"])
    other = trainer.evaluate(rows.select([2, 3]))
    assert other["eval_loss"] != found["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(found["eval_loss"])
    told = trainer.predict(rows.select([4]))
    assert len(told.predictions) == len(told.label_ids) == 1 and isinstance(told.predictions[0], str)
    assert told.metrics["test_loss"] > 0


def test_answers_end_to_end_are_those_of_the_model(base, tmp_path):
    model = make_model(base, retrieval_top_k=2)
    model.generation_config.max_new_tokens = 4
    trainer = ClaraTrainer(model, make_args(tmp_path, "end_to_end"), eval_dataset=QUESTION_ROWS)
    told = trainer.predict(QUESTION_ROWS[:3]).predictions
    pools = [list(record.documents) for record in QUESTION_ROWS[:3]]
    assert told == [model.generate([r.question], [p])[0] for r, p in zip(QUESTION_ROWS, pools, strict=False)]


def test_a_base_or_a_checkpoint_may_be_named(base, checkpoint, tmp_path):
    fields = {**SMALL, "dtype": "float32"}
    lora = LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"], rank_pattern={"q_proj": 2})
    args = make_args(tmp_path, model_init_kwargs=fields)
    model = ClaraTrainer(base, args, train_dataset=PRETRAINING, peft_config=lora).model
    assert (model.config.lora_r, model.config.lora_alpha, model.config.num_memory_tokens) == (3, 6, 4)
    layer = model.decoder.base_model.layers[0].self_attn
    assert layer.v_proj.lora_A["compressor"].weight.shape[0] == 3
    assert layer.q_proj.lora_A["compressor"].weight.shape[0] == 2 and not hasattr(layer.o_proj, "lora_A")
    model.save_pretrained(tmp_path / "saved")
    again = ClaraTrainer(str(tmp_path / "saved"), make_args(tmp_path), train_dataset=PRETRAINING).model
    found, expected = parameters(again), parameters(model)
    assert found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in found)
    with pytest.raises(ValueError, match="`peft_config` is for a new model, but .* is a checkpoint"):
        ClaraTrainer(checkpoint, make_args(tmp_path), train_dataset=PRETRAINING, peft_config=lora)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"model_init": lambda: None}, ValueError, "`model_init` does not work with CLaRa"),
        ({"processing_class": object()}, ValueError, "`processing_class` .* the model has its processor"),
        ({"peft_config": LoraConfig()}, ValueError, r"\['peft_config'\] are used when a model is loaded"),
        ({"args": {"use_dora": True}}, TypeError, "`args` must be a `ClaraTrainingConfig`, got dict"),
    ],
)
def test_arguments_that_change_nothing_are_refused(shared_model, tmp_path, kwargs, error, message):
    given = {"args": make_args(tmp_path), "train_dataset": PRETRAINING, **kwargs}
    with pytest.raises(error, match=message):
        ClaraTrainer(shared_model, **given)


def test_only_plain_lora_is_taken(base, tmp_path):
    with pytest.raises(ValueError, match="`peft_config` must be a plain `LoraConfig` .*use_dora"):
        ClaraTrainer(
            base, make_args(tmp_path), train_dataset=PRETRAINING, peft_config=LoraConfig(use_dora=True)
        )


def test_the_configuration_is_ours():
    assert ClaraTrainer.__init__.__annotations__["args"] == ClaraTrainingConfig | None
