"""Rows and trainers of a few steps for the tests of training."""

import torch
from clara.data.records import PretrainingRecord, QuestionRecord
from clara.train.arguments import ClaraTrainingConfig
from clara.train.curves import CurveCallback
from clara.train.trainer import ClaraTrainer
from conftest import DOCUMENTS
from transformers import TrainerCallback

BRIDGE, SCHUMANN, TITAN, BASALT, RHINE, LOVELACE = DOCUMENTS
PRETRAINING = [
    PretrainingRecord(
        BRIDGE,
        ("When was the Forth Bridge opened?", "Where is it?", "What is it?"),
        (("1890",), ("Scotland",), ("a railway bridge",)),
        ("In Scotland trains cross the Forth Bridge, open since 1890.",),
    ),
    PretrainingRecord(SCHUMANN, ("Where was Clara Schumann born?",), (("Leipzig", "Leipzig in 1819"),)),
    PretrainingRecord(TITAN, ("Who found Titan?",), (("Christiaan Huygens",),), ("Huygens found Titan.",)),
    PretrainingRecord(BASALT),
    PretrainingRecord(RHINE, ("Where does the Rhine rise?",), (("in the Alps",),)),
    PretrainingRecord(LOVELACE, (), (), ("Notes on the analytical engine, by Ada Lovelace, 1843.",)),
    PretrainingRecord("Mars has two moons.", ("How many moons has Mars?",), (("two",),)),
    PretrainingRecord(
        "The Danube ends in the Black Sea.", ("Where does the Danube end?",), (("Black Sea",),)
    ),
]
QUESTION_ROWS = [
    QuestionRecord("When was the Forth Bridge opened?", ("1890",), (BRIDGE, TITAN, RHINE), (0,)),
    QuestionRecord("Who found Titan?", ("Christiaan Huygens",), (BASALT, TITAN, BRIDGE, RHINE), (1,)),
    QuestionRecord("Where was Clara Schumann born?", ("Leipzig",), (LOVELACE, RHINE, SCHUMANN), (2,)),
    QuestionRecord("What is Basalt?", ("a dark rock",), (BASALT, LOVELACE, TITAN, SCHUMANN), (0,)),
    QuestionRecord("Where does the Rhine rise?", ("the Alps",), (BASALT, SCHUMANN, RHINE), (2,)),
    QuestionRecord("Who wrote notes in 1843?", ("Ada Lovelace",), (LOVELACE, BRIDGE, TITAN), (0,)),
    QuestionRecord("Who is older?", ("Titan",), (SCHUMANN, TITAN, LOVELACE, BRIDGE), (0, 1)),
    QuestionRecord("What is found near Rotterdam?", ("the sea",), (TITAN, RHINE, BASALT), (1,)),
]
ROWS = {
    "pretraining": PRETRAINING,
    "instruction_tuning": QUESTION_ROWS,
    "end_to_end": QUESTION_ROWS,
}


class Cut(TrainerCallback):
    """Ends the run at a step, as a signal would."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def make_args(folder, stage="pretraining", **kwargs):
    """A configuration for the CPU, quiet and short."""
    fields = {
        "output_dir": str(folder),
        "stage": stage,
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "max_steps": 2,
        "logging_steps": 1,
        "learning_rate": 0.01,
        "warmup_steps": 0,
        "documents_per_question": 2,
        "controls": False,
        "samples": 0,
        **kwargs,
    }
    return ClaraTrainingConfig(**fields)


def make_trainer(model, folder, stage="pretraining", rows=None, **kwargs):
    """A trainer over the rows above; what is no argument of the trainer is a field of its configuration."""
    picture = kwargs.pop("picture", False)
    own = {key: kwargs.pop(key) for key in ("eval_dataset", "callbacks", "data_collator") if key in kwargs}
    model.config.retrieval_top_k = 2
    rows = ROWS[stage] if rows is None else rows
    trainer = ClaraTrainer(model, make_args(folder, stage, **kwargs), train_dataset=rows, **own)
    if not picture:
        trainer.remove_callback(CurveCallback)  # drawing takes longer than training here
    return trainer


def parameters(model):
    """A copy of every parameter by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def gradients(trainer, steps=1):
    """The gradients of the trainer's first optimizer step, by name; the model is left as it was."""
    found = {}

    class Stop(Exception):
        pass

    def note(*_, **__):
        found.update({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
        raise Stop

    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(note)
    try:
        trainer.train()
    except Stop:
        return found
    raise RuntimeError("no optimizer step was taken")


def assert_close(found, expected, **tolerance):
    """Mappings of tensors with equal names and close values."""
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(
            found[name], expected[name], msg=lambda text, n=name: f"{n}: {text}", **tolerance
        )
