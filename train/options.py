"""Options of `transformers.TrainingArguments` that do not work here: each refused with its reason."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from transformers import TrainingArguments

NO_LOGITS = "logits are made at labelled positions only; `compute_metrics` gets generated answers"
COMPILED = "adapters change within a step, and a compiled graph keeps those of its first pass"
BUCKETS = "`bucket_by_length` and `data_seed` decide the order of rows"
SCRIPT = "it decides nothing here: call `train`, `evaluate` and `predict`"
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "label_smoothing_factor": "the loss of an answer is the plain cross-entropy of its tokens",
        "optim_target_modules": "the stage decides which parameters train",
        "neftune_noise_alpha": "the noise would reach the documents that are to be remembered",
        "torch_compile": COMPILED,
        "torch_compile_backend": COMPILED,
        "torch_compile_mode": COMPILED,
        "use_liger_kernel": "it replaces the base's own loss, which is not computed here",
        "liger_kernel_config": "it replaces the base's own loss, which is not computed here",
        "use_cache": "no pass of training or evaluation uses a cache of keys",
        "auto_find_batch_size": "the order of rows and a resume depend on the batch; lower "
        "`per_device_train_batch_size` and raise `gradient_accumulation_steps`",
        "bf16_full_eval": "it casts the model in place; load it with `dtype` bfloat16, or use `bf16`",
        "fp16_full_eval": "it casts the model in place; load it with `dtype` float16, or use `fp16`",
        "include_num_input_tokens_seen": "it would count prompts without documents; see `tokens_per_second`",
        "eval_do_concat_batches": NO_LOGITS,
        "eval_use_gather_object": NO_LOGITS,
        "eval_accumulation_steps": NO_LOGITS,
        "include_for_metrics": NO_LOGITS,
        "batch_eval_metrics": NO_LOGITS,
        "save_only_model": "a checkpoint without optimizer could not be gone on from; `final` has none",
        "ignore_data_skip": "a run that is gone on with would see other rows than one without a break",
        "remove_unused_columns": "rows become records before training; other columns do no harm",
        "label_names": "the stage's collator names the labels",
        "train_sampling_strategy": BUCKETS,
        "length_column_name": BUCKETS,
        "parallelism_config": "training is data parallel (DDP, FSDP2, DeepSpeed): see docs/training.md",
        "do_train": SCRIPT,
        "do_eval": SCRIPT,
        "do_predict": SCRIPT,
    }
)
OWN_DEFAULTS = {"remove_unused_columns": False}


def check_options(args: Any) -> None:
    """Checks that no option is set that would change nothing, or something wrong.

    Args:
        args: A training configuration before `TrainingArguments` has filled it in.

    Raises:
        ValueError: Naming the option, its value and the reason.
    """
    fields = {field.name: field for field in dataclasses.fields(TrainingArguments)}
    for name, reason in REFUSED.items():
        default = OWN_DEFAULTS.get(name, default_of(fields[name])) if name in fields else None
        same = (default, None, [], *([False] if default == "no" else []))
        if name in fields and getattr(args, name) not in same:
            raise ValueError(
                f"`{name}` = {getattr(args, name)!r} does not work with CLaRa: {reason}. Leave it out."
            )


def default_of(field: dataclasses.Field) -> Any:
    """The default of a dataclass' field."""
    made = field.default_factory is not dataclasses.MISSING
    return field.default_factory() if made else field.default
