"""The model card of a run."""

from types import SimpleNamespace

import pytest
import yaml
from clara.train.card import render_card
from clara.train.stages import STAGES
from training_helpers import make_args

HISTORY = [
    {"loss": 3.0, "tokens_per_second": 5.0, "epoch": 0.5, "step": 1},
    {"loss": 2.25, "mfu": 0.4, "epoch": 1.0, "step": 2},
    {"eval_loss/own": 1.51234, "eval_runtime": 2.0, "step": 2},
    {"train_runtime": 9.0, "train_loss": 2.6, "total_flos": 0.0, "step": 2},
]


def card(model, tmp_path, stage="pretraining", history=HISTORY, labels=0.0, generation=1.0, **origin):
    state = SimpleNamespace(global_step=2, max_steps=4, log_history=history)
    args = make_args(tmp_path, stage, contrastive_weight=labels, generation_weight=generation)
    return render_card("my-run", model.config, args, state, ["clara", "rag", "clara"], **origin)


def test_it_says_what_was_done_and_measured(shared_model, tmp_path):
    text = card(shared_model, tmp_path, command="clara train pretraining", data=["rows.jsonl"])
    assert "after 2 of 4 optimizer steps of the stage `pretraining`" in text
    assert "| loss | 2.25 (step 2) |" in text and "| eval_loss/own | 1.512 (step 2) |" in text
    assert "| seed | 42 |" in text and "| lr_scheduler_type | cosine |" in text and "| lora_r | 4 |" in text
    assert "- rows.jsonl\n" in text and "```bash\nclara train pretraining\n```" in text
    for noise in ("runtime", "tokens_per_second", "mfu", "total_flos", "epoch |"):
        assert noise not in text


def test_its_head_is_yaml_that_the_hub_reads(shared_model, tmp_path):
    head = yaml.safe_load(card(shared_model, tmp_path).split("---\n")[1])
    assert head["base_model"] == shared_model.config.base_model_name_or_path
    assert head["tags"] == ["clara", "rag"] and head["library_name"] == "transformers"


@pytest.mark.parametrize("stage", STAGES)
def test_without_measurements_it_says_so(shared_model, tmp_path, stage):
    text = card(shared_model, tmp_path, stage, history=[])
    assert "## Measured\n\nNothing was logged." in text and "## Data" not in text and "## Command" not in text


def test_it_says_whether_labels_were_seen(shared_model, tmp_path):
    without, with_labels = (card(shared_model, tmp_path, "end_to_end", labels=w) for w in (0.0, 0.5))
    assert "relevance labels" not in without and "| contrastive_weight | 0.0 |" in without
    assert "learns from relevance labels" in with_labels and "| contrastive_weight | 0.5 |" in with_labels
    alone = card(shared_model, tmp_path, "end_to_end", labels=1.0, generation=0.0)
    assert "labels alone, all else is frozen" in alone and "learn from answers" not in alone
