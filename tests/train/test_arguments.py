"""The training configuration: the stage's defaults, and what is refused."""

import pytest
from clara.train.arguments import ClaraTrainingConfig, as_mapping
from training_helpers import make_args


def config(tmp_path, **kwargs):
    return ClaraTrainingConfig(output_dir=str(tmp_path), use_cpu=True, **kwargs)


@pytest.mark.parametrize(
    ("stage", "rate", "alignment"),
    [("pretraining", 1e-4, 0.1), ("instruction_tuning", 1e-4, 0.1), ("end_to_end", 5e-6, 0.0)],
)
def test_unset_values_are_the_papers(tmp_path, stage, rate, alignment):
    args = config(tmp_path, stage=stage)
    assert (args.learning_rate, args.alignment_weight) == (rate, alignment)
    assert args.lr_scheduler_type == "cosine" and args.num_train_epochs == 1
    assert args.max_grad_norm == 1.0 and args.warmup_steps == 0.03
    assert args.report_to == [] and not args.remove_unused_columns and args.save_total_limit == 2


def test_the_batch_is_that_of_training_arguments(tmp_path):
    args = config(tmp_path)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (8, 1)


def test_set_values_win(tmp_path):
    args = config(tmp_path, learning_rate=0.0, alignment_weight=0.0)
    assert (args.learning_rate, args.alignment_weight) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage": "sft"}, "`stage` must be one of"),
        ({"alignment_weight": -1.0}, "`alignment_weight` must be at least 0, got -1.0"),
        ({"stage": "instruction_tuning", "contrastive_weight": 1.0}, "'instruction_tuning', which does not"),
        ({"generation_weight": 0.0}, "are both 0: nothing would train"),
        ({"contrastive_positives": "all"}, r"must be one of \('any', 'each'\), got 'all'"),
        ({"stage": "end_to_end", "alignment_weight": 0.1}, "`alignment_weight` must be 0"),
        ({"signals": {"qa": 1.0}}, r"`signals` must map some of .*\['qa'\]"),
        ({"signals": {"answer": 1.5}}, r"chances between 0 and 1, got \{'answer': 1.5\}"),
        ({"signals": "answer"}, "`signals` must be a mapping"),
        ({"compression_rates": [0]}, r"`compression_rates` must hold numbers of at least 1, got \[0\]"),
        ({"fsdp_config": {"activation_checkpointing": True}}, "without the adapters they wore"),
    ],
)
def test_bad_values_are_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **fields)


def test_fsdp_checkpointing_of_the_launcher_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "false")
    config(tmp_path)
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    with pytest.raises(ValueError, match="use the option `activation_checkpointing: true` of training"):
        config(tmp_path)


def test_mappings_as_json(tmp_path):
    args = config(tmp_path, signals='{"answer": 0.5}', starts='{"generator": "fresh"}')
    assert args.signals == {"answer": 0.5} and args.starts == {"generator": "fresh"}
    assert as_mapping("starts", None) is None
    with pytest.raises(ValueError, match="`starts` must be a mapping"):
        as_mapping("starts", "generator")


def test_the_supervised_baseline_is_an_option(tmp_path):
    args = make_args(tmp_path, "end_to_end", contrastive_weight=1.0, generation_weight=0.0)
    assert args.contrastive_weight == 1.0


def test_it_goes_through_json(tmp_path):
    import json

    args = make_args(tmp_path, "end_to_end")
    assert json.loads(args.to_json_string())["stage"] == "end_to_end"
