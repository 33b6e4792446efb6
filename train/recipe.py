"""Recipes: YAML files that hold the fields of a run; an option of the command line wins over its field."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from .arguments import ClaraTrainingConfig, as_mapping
from .foresight import read_recipe, without_rivals


@dataclass
class ScriptArguments:
    """What is trained, on what.

    Attributes:
        model: A checkpoint to go on from, or None to make one from `base`.
        base: Folder, Hub id or "smollm2-135m": the base of a new model.
        model_fields: Fields of `ClaraConfig`, of a new model or over a checkpoint's (such as
            retrieval_temperature).
        dtype: Dtype the model is loaded in, such as "bfloat16"; the checkpoint's by default.
        load_in_4bit: Load the base in 4 bits (NF4, twice quantised) by bitsandbytes; adapters are in `dtype`.
        load_in_8bit: Load the base in 8 bits by bitsandbytes.
        attn_implementation: Attention of transformers, such as "eager" or "sdpa"; its own choice by default.
        train_files: Files or a `datasets` name with configuration, read in this order.
        corpus_files: Unlabelled documents (`id`, `text`). Pretraining: beside the rows, for reconstruction.
            End to end: passages among which is searched beside the rows' candidates.
        question_files: Pretraining: question rows beside them; each gives its first gold document.
        eval_files: Held-out question rows (in pretraining each gives its first gold document).
        max_document_characters: Pretraining: leave out longer documents (a curriculum from short passages).
        fewest_documents: Questions to train on: leave out those with fewer documents.
        train_limit: Use this many rows at most, drawn over all files (the first ones where streaming).
        eval_limit: Use this many held-out rows at most.
        final_dtype: Dtype of the adapters that are written at the end, such as "bfloat16".
        streaming: Stream data sets of the Hub, and join neighbouring rows of a document only.
        prepare_only: Check every row, compress the candidates of end-to-end training, and stop.
    """

    model: str | None = field(default=None, metadata={"help": "Checkpoint to go on from."})
    base: str | None = field(default=None, metadata={"help": "Base of a new model."})
    model_fields: dict | str | None = field(default=None, metadata={"help": "Fields of ClaraConfig."})
    dtype: str | None = field(default=None, metadata={"help": "Dtype of the model."})
    load_in_4bit: bool = field(default=False, metadata={"help": "Base in 4 bits."})
    load_in_8bit: bool = field(default=False, metadata={"help": "Base in 8 bits."})
    attn_implementation: str | None = field(default=None, metadata={"help": "Attention of the base."})
    train_files: list[str] = field(default_factory=list, metadata={"help": "Training rows."})
    corpus_files: list[str] = field(default_factory=list, metadata={"help": "Unlabelled documents."})
    question_files: list[str] = field(default_factory=list, metadata={"help": "Rows for gold documents."})
    eval_files: list[str] = field(default_factory=list, metadata={"help": "Held-out rows."})
    max_document_characters: int | None = field(
        default=None, metadata={"help": "Leave out longer documents."}
    )
    fewest_documents: int = field(default=0, metadata={"help": "Leave out questions with fewer documents."})
    train_limit: int | None = field(default=None, metadata={"help": "Rows at most."})
    eval_limit: int | None = field(default=None, metadata={"help": "Held-out rows at most."})
    final_dtype: str | None = field(default=None, metadata={"help": "Dtype of the final adapters."})
    streaming: bool = field(default=False, metadata={"help": "Stream data sets of the Hub."})
    prepare_only: bool = field(default=False, metadata={"help": "Check rows, store candidates, and stop."})

    def __post_init__(self) -> None:
        """Checks that there is exactly one start and something to train on."""
        self.model_fields = as_mapping("model_fields", self.model_fields)
        if (self.model is None) == (self.base is None):
            raise ValueError(f"Set `model` or `base`, and only one: got {self.model!r} and {self.base!r}.")
        if self.load_in_4bit and self.load_in_8bit:
            raise ValueError("`load_in_4bit` and `load_in_8bit` are both true: set one of them.")
        if not self.train_files and not self.corpus_files:
            raise ValueError("`train_files` is empty: name at least one file or data set of training rows.")


def parse_arguments(arguments: Sequence[str]) -> tuple[ScriptArguments, ClaraTrainingConfig]:
    """Reads `--config recipe.yaml` and the options after it.

    Raises:
        ValueError: If the recipe has a field that does not exist, or a value is out of range.
        SystemExit: If an option is unknown.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    given, options = first.parse_known_args(list(arguments))
    parser = HfArgumentParser((ScriptArguments, ClaraTrainingConfig), allow_abbrev=False)
    if given.config is not None:
        recipe = read_recipe(given.config)
        known = {action.dest for action in parser._actions}
        unknown = sorted(set(recipe) - known)
        if unknown:
            raise ValueError(f"{given.config} has unknown fields {unknown}: see docs/training.md.")
        named = {word.partition("=")[0].removeprefix("--") for word in options}
        parser.set_defaults(**without_rivals(recipe, named))
    script, args = parser.parse_args_into_dataclasses(options)
    return script, args
