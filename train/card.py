"""The model card of a training run: what was trained, on what, how, and what was measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

TITLES = {
    "pretraining": "the compressor and the generator learn from questions, paraphrases and the text itself",
    "instruction_tuning": "the compressor and the generator learn to answer from several documents",
    "end_to_end": "the query reasoner and the generator learn from answers, the compressor is frozen",
}
LABELS = {
    "pretraining": "questions are also to find their documents within a batch",
    "end_to_end": "the query reasoner also learns from relevance labels",
}
ONLY_LABELS = "the query reasoner learns from relevance labels alone, all else is frozen"
SETTINGS = (
    "seed",
    "learning_rate",
    "lr_scheduler_type",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "alignment_weight",
    "contrastive_weight",
    "contrastive_positives",
    "generation_weight",
)
MODEL_FIELDS = (
    "compression_rate",
    "doc_max_length",
    "lora_r",
    "lora_alpha",
    "pooling",
    "connector",
    "retrieval_top_k",
)
LEFT_OUT = ("runtime", "per_second", "preparation_time", "step", "epoch", "tflops", "mfu", "total_flos")


def render_card(
    name: str,
    config: Any,
    args: Any,
    state: Any,
    tags: Sequence[str],
    command: str | None = None,
    data: Sequence[str] = (),
) -> str:
    """The card as Markdown with its YAML head.

    Args:
        name: The title.
        config: The model's configuration.
        args: The training configuration.
        state: The trainer's state: its steps and its log.
        tags: Tags of the head.
        command: The command that started the run.
        data: Names of the files or data sets.
    """
    base = config.base_model_name_or_path
    head = yaml.safe_dump(
        {"base_model": base, "library_name": "transformers", "pipeline_tag": "question-answering"}
        | {"tags": list(dict.fromkeys(tags))}
    )
    parts = [
        f"---\n{head}---\n",
        f"# {name}\n",
        f"CLaRa adapters (arXiv 2511.18659) over `{base}` after {state.global_step} of {state.max_steps} "
        f"optimizer steps of the stage `{args.stage}`: {_learnt(args)}. The base is unchanged and not in "
        "these files.\n",
        _table("Model", {field: getattr(config, field) for field in MODEL_FIELDS}),
        _table("Training", {field: _plain(getattr(args, field)) for field in SETTINGS}),
        _table("Measured", _measured(state.log_history)),
        "The losses are means in nats per answer token. `eval_loss/own`, `eval_loss/shuffled` and "
        "`eval_loss/none` are those with a question's own memories, another question's, and without any. "
        "Nothing else was measured here.\n",
    ]
    if data:
        parts.append("## Data\n\n" + "".join(f"- {source}\n" for source in data))
    if command:
        parts.append(f"## Command\n\n```bash\n{command}\n```\n")
    return "\n".join(parts)


def _learnt(args: Any) -> str:
    """What learns from what; with a contrastive loss, from labels too."""
    if not args.contrastive_weight:
        return TITLES[args.stage]
    if args.stage == "end_to_end" and not args.generation_weight:
        return ONLY_LABELS
    return f"{TITLES[args.stage]}; {LABELS[args.stage]}"


def _measured(history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The last value of every loss and rate that was logged, with its step."""
    last: dict[str, str] = {}
    for row in history:
        for key, value in row.items():
            if not any(part in key for part in LEFT_OUT):
                last[key] = f"{value:.4g} (step {row['step']})"
    return last


def _table(title: str, rows: Mapping[str, Any]) -> str:
    if not rows:
        return f"## {title}\n\nNothing was logged.\n"
    return f"## {title}\n\n| | |\n|---|---|\n" + "".join(f"| {k} | {v} |\n" for k, v in rows.items())


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
