"""Every field of TrainingArguments works or is refused with its reason."""

import dataclasses

import pytest
from clara.train.arguments import ClaraTrainingConfig
from clara.train.options import OWN_DEFAULTS, REFUSED, default_of
from training_helpers import make_args
from transformers import TrainingArguments

# What Trainer does with these is what happens here; those that CLaRa decides are tested in their rooms.
WORKS = {
    "output_dir", "per_device_train_batch_size", "per_device_eval_batch_size", "max_steps",
    "num_train_epochs", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps",
    "optim", "optim_args",
    "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "gradient_accumulation_steps",
    "average_tokens_across_devices", "max_grad_norm", "bf16", "fp16", "tf32", "activation_checkpointing",
    "activation_checkpointing_kwargs", "gradient_checkpointing", "gradient_checkpointing_kwargs",
    "torch_empty_cache_steps", "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node",
    "logging_nan_inf_filter", "log_level", "log_level_replica", "disable_tqdm", "report_to", "run_name",
    "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "eval_strategy",
    "eval_steps", "eval_delay", "prediction_loss_only", "eval_on_start", "save_strategy", "save_steps",
    "save_on_each_node", "save_total_limit", "enable_jit_checkpoint", "push_to_hub", "hub_token",
    "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision",
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
    "restore_callback_states_from_checkpoint", "full_determinism", "seed", "data_seed", "use_cpu",
    "accelerator_config", "dataloader_drop_last", "dataloader_num_workers", "dataloader_pin_memory",
    "dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context",
    "dataloader_in_order", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers",
    "ddp_static_graph", "ddp_backend", "ddp_timeout", "fsdp", "fsdp_config", "deepspeed", "debug",
    "skip_memory_metrics", "resume_from_checkpoint", "local_rank",
}  # fmt: skip
FIELDS = {field.name: field for field in dataclasses.fields(TrainingArguments)}


def other_than(default):
    """Some value that is not the default."""
    if isinstance(default, bool) or default is None:
        return not default
    return (
        default + 0.5
        if isinstance(default, (int, float))
        else ["x"]
        if isinstance(default, list)
        else "other"
    )


def test_every_field_is_decided():
    assert not WORKS & REFUSED.keys()
    assert set(FIELDS) == WORKS | REFUSED.keys(), "a new field of transformers: decide it"


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_work_is_refused_with_its_reason(tmp_path, name):
    value = other_than(OWN_DEFAULTS.get(name, default_of(FIELDS[name])))
    with pytest.raises(ValueError, match=f"`{name}` = .* does not work with CLaRa: .*. Leave it out"):
        make_args(tmp_path, **{name: value})


def test_defaults_are_not_refused(tmp_path):
    ClaraTrainingConfig(str(tmp_path), use_cpu=True)
