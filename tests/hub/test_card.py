"""The card: filled from values, nothing invented, nothing of the machine, markup harmless."""

import pytest
from clara.hub.card import (
    FIELDS,
    SECTIONS,
    Examples,
    base_id,
    fill_sections,
    read_datasets,
    render_model_card,
)
from clara.hub.folder import TEMPLATE
from huggingface_hub import ModelCard

FACTS = {
    "base_name": "smollm2-135m",
    "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "config": dict.fromkeys(
        FIELDS,
        16,
    ),
    "trained": ["compressor", "query_reasoner", "generator"],
    "reasoner_is_copy": False,
    "base_parameters": 134_515_008,
    "adapter_parameters": 4_884_480,
    "dtype": "bfloat16",
    "memory_bytes": 18_432,
    "fingerprint": "ab" * 32,
}
EXAMPLE = {
    "question": "Who <b>found</b> Titan?",
    "answer": "Huygens | *maybe*\n<script>alert(1)</script>",
    "gold": "Christiaan Huygens",
    "documents": [{"id": "titan"}],
    "right": True,
}
EXAMPLES = Examples([EXAMPLE], 12, 5)
TRAINING = """---
tags: [clara]
datasets: org/rows
---

# run one

CLaRa adapters over `base` after 3 of 4 optimizer steps of the stage `pretraining`: what learns.

## Training

| | |
|---|---|
| seed | 42 |
| learning_rate | 0.001 |
| per_device_train_batch_size | 8 |
| gradient_accumulation_steps | 2 |

## Measured

| | |
|---|---|
| loss | 1.66 (step 3) |
| eval_loss | 2.399 (step 2) |

## Secret notes

not for the card

## Command

```bash
clara train pretraining --config /home/someone/runs/a.yaml --url https://host/path/x
```
"""


def render(reports=(), **changes):
    template = TEMPLATE.read_text(encoding="utf-8")
    arguments = {
        "reports": reports,
        "examples": EXAMPLES,
        "training_cards": [TRAINING],
        "datasets": ["org/rows"],
    }
    return render_model_card(template, "org/tiny", {**FACTS, **changes}, **arguments)


def test_the_head_is_complete_and_the_hub_reads_it():
    data = ModelCard(render()).data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "transformers",
        "text-generation",
        "apache-2.0",
    )
    assert data.language == ["en"] and {"rag", "clara", "custom_code", "context-compression"} <= set(
        data.tags
    )
    assert data.base_model == FACTS["base_model"] and data.base_model_relation == "finetune"
    assert data.datasets == ["org/rows"]
    assert data.widget == [
        {
            "text": EXAMPLE["question"],
            "example_title": "Who <b>found</b> Titan?",
            "output": {"text": EXAMPLE["answer"]},
        }
    ]


def test_examples_and_results_take_a_line_each_of_the_head():
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6}
    values = dict.fromkeys(("exact_match", "token_f1", "cover_exact_match"), interval)
    systems = {"clara": {"metrics": values, "tokens_read": 1.0}}
    reports = [
        {"benchmark": name, "setting": "normal", "questions": 9, "systems": systems}
        for name in ("nq", "2wiki")
    ]
    text = render(reports)
    head = text.split("\n---\n")[0].splitlines()
    assert sum(line.startswith("- {text: ") for line in head) == 1
    assert sum(line.startswith("  - {task: ") for line in head) == 2
    assert len(ModelCard(text).data.eval_results) == 6


def test_every_section_is_filled_and_a_rendered_card_can_be_filled_again():
    once = render()
    for name in SECTIONS:
        assert once.count(f"<!-- begin: {name} -->") == once.count(f"<!-- end: {name} -->") == 1
    again = render_model_card(once, "org/tiny", FACTS, (), EXAMPLES, [TRAINING], ["org/rows"])
    assert again == once
    assert "your-org/your-model" not in once and 'from_pretrained("org/tiny"' in once


def test_model_and_training_come_from_the_values():
    text = render()
    for row in (
        "| base parameters | 134,515,008 |",
        "| a memory | 18,432 bytes a passage |",
        "| dtype | bfloat16 |",
    ):
        assert row in text
    assert "in 4 bits (Q4_1)" in text and "`abababababababab…`" in text
    assert "| run one | pretraining | 3 | 8 × 2 | 0.001 | 42 | 2.399 |" in text
    assert "/home/" not in text and "not for the card" not in text
    own = render(base_name=None, base_model=None)
    assert "| base | not named |" in own and "Q4_1" not in own
    assert ModelCard(own).data.base_model is None and not hasattr(ModelCard(own).data, "base_model_relation")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"trained": []}, "**State: untrained.**"),
        ({"trained": ["generator", "compressor"]}, "**State: trained** (`compressor`, `generator`)."),
        ({"reasoner_is_copy": True}, "still a copy of the compressor"),
    ],
)
def test_the_state_is_what_the_weights_say(changes, told):
    assert told in render(**changes)
    assert ("untrained" in render(**changes)) == (changes.get("trained") == [])


def test_an_answer_cannot_break_the_table_or_the_page():
    text = render()
    (line,) = [line for line in text.splitlines() if "Christiaan Huygens |" in line]
    assert line == (
        "| Who &lt;b&gt;found&lt;/b&gt; Titan? | Huygens \\| \\*maybe\\* "
        "&lt;script&gt;alert(1)&lt;/script&gt; | Christiaan Huygens | titan |"
    )
    body = text.split("---\n", 2)[2]
    assert "<script>" not in body


def test_nothing_known_is_said_to_be_unknown():
    text = render_model_card(TEMPLATE.read_text(encoding="utf-8"), "org/tiny", FACTS)
    assert "Not measured." in text and "No example was generated." in text
    assert "No record of a training" in text
    data = ModelCard(text).data
    assert not hasattr(data, "widget") and data.datasets is None and data.eval_results is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistralai/Mistral-7B-Instruct-v0.2"),
        ("/models/mistral", None),
        ("./mistral", None),
        ("runs/a/b", None),
        (None, None),
        ("", None),
    ],
)
def test_a_base_is_named_only_by_its_hub_id(name, expected):
    assert base_id(name) == expected


def test_a_folder_that_looks_like_a_hub_id_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mistral").mkdir(parents=True)
    assert base_id("models/mistral") is None


def test_what_a_former_card_of_the_same_memories_says_is_kept():
    filled = fill_sections(render(), {"results": "| nq | 50 |"})
    bare = {"examples": Examples(), "previous": filled}
    template = TEMPLATE.read_text(encoding="utf-8")
    kept = render_model_card(template, "org/other", FACTS, **bare)
    assert "| nq | 50 |" in kept and "| run one |" in kept and ModelCard(kept).data.datasets == ["org/rows"]
    other = render_model_card(template, "org/other", {**FACTS, "fingerprint": "cd" * 32}, **bare)
    assert "| nq | 50 |" not in other and "Not measured." in other and "| run one |" not in other


def test_wrong_examples_are_marked():
    text = render_model_card(
        TEMPLATE.read_text(encoding="utf-8"),
        "org/tiny",
        FACTS,
        (),
        Examples([{**EXAMPLE, "right": False}], 4, 0),
    )
    assert ModelCard(text).data.widget[0]["example_title"].endswith("(wrong)")
    assert "(wrong) | Christiaan Huygens |" in text and "0 were answered right" in text


@pytest.mark.parametrize("text", ["no marks", "<!-- begin: state -->\na\n<!-- end: state -->\n" * 2])
def test_a_template_without_its_section_is_refused(text):
    with pytest.raises(ValueError, match="must have the section 'state' once"):
        fill_sections(text, {"state": "x"})


def test_a_text_with_backslashes_is_put_in_as_it_is():
    text = fill_sections("<!-- begin: state -->\na\n<!-- end: state -->", {"state": r"\1 \g<0> \\"})
    assert text == "<!-- begin: state -->\n\\1 \\g<0> \\\\\n<!-- end: state -->"


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (TRAINING, ["org/rows"]),
        ("---\ndatasets: [a/b, c/d]\n---\n", ["a/b", "c/d"]),
        ("# no head", []),
        ("---\n---\n", []),
    ],
)
def test_datasets_are_read_from_the_head(card, expected):
    assert read_datasets(card) == expected


@pytest.mark.parametrize(
    ("reading", "systems", "shown"),
    [
        ("each", ("clara", "clara_each"), 40.0),
        ("together", ("clara", "clara_each"), 30.0),
        ("each", ("clara",), 30.0),
    ],
)
def test_the_head_holds_what_was_measured_as_the_model_reads(reading, systems, shown):
    means = {"clara": 0.3, "clara_each": 0.4}
    kept = {"low": 0.2, "high": 0.5, "questions": 100}
    names = ("exact_match", "token_f1", "cover_exact_match")
    found = {
        name: {"tokens_read": 9, "metrics": {metric: {"mean": means[name], **kept} for metric in names}}
        for name in systems
    }
    report = {"benchmark": "nq", "setting": "normal", "questions": 100, "systems": found}
    config = {**FACTS["config"], "reading": reading}
    data = ModelCard(render(reports=[report], config=config)).data
    assert {row.metric_value for row in data.eval_results} == {shown}
