"""Recipes: YAML files that hold the fields of a run; an option of the command line wins over its field."""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from transformers import HfArgumentParser

from .arguments import ClaraTrainingConfig, as_mapping

VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


@dataclass
class ScriptArguments:
    """What is trained, on what.

    Attributes:
        model: A checkpoint to go on from, or None to make one from `base`.
        base: Folder, Hub id or "smollm2-135m": the base of a new model.
        model_fields: Fields of `ClaraConfig`, of a new model or over a checkpoint's (such as
            retrieval_temperature).
        dtype: Dtype the model is loaded in, such as "bfloat16"; the checkpoint's by default.
        attn_implementation: Attention of transformers, such as "eager" or "sdpa"; its own choice by default.
        train_files: Files or a `datasets` name with configuration, read in this order.
        corpus_files: Unlabelled documents (`id`, `text`). Pretraining: beside the rows, for reconstruction. End
            to end: passages among which is searched beside the rows' candidates.
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
        if not self.train_files and not self.corpus_files:
            raise ValueError("`train_files` is empty: name at least one file or data set of training rows.")


def read_recipe(file: str) -> dict[str, Any]:
    """Reads a recipe. `${NAME}` in a value is that environment variable, `${NAME:-text}` has a default.

    A value that is nothing but a variable is read as YAML, so that it can be a number. `${RECIPE}` is the
    folder of the recipe.

    Raises:
        ValueError: If the file holds no mapping, or a variable without a default is not set.
    """
    with open(file, encoding="utf-8") as opened:
        recipe = yaml.safe_load(opened)
    if not isinstance(recipe, dict):
        raise ValueError(f"{file} must hold a YAML mapping of fields, got {type(recipe).__name__}.")
    variables = {**os.environ, "RECIPE": os.path.dirname(os.path.abspath(file))}
    return {name: _expand(value, variables, file) for name, value in recipe.items()}


def _expand(value: Any, variables: Mapping[str, str], file: str) -> Any:
    if isinstance(value, list):
        return [_expand(item, variables, file) for item in value]
    if isinstance(value, dict):
        return {key: _expand(item, variables, file) for key, item in value.items()}
    if not isinstance(value, str) or not VARIABLE.search(value):
        return value

    def look_up(match: re.Match) -> str:
        found = variables.get(match[1], match[2])
        if found is None:
            raise ValueError(
                f"{file} needs the environment variable {match[1]}: export {match[1]}=... first."
            )
        return found

    text = VARIABLE.sub(look_up, value)
    return yaml.safe_load(text) if VARIABLE.fullmatch(value) else text


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
        parser.set_defaults(**recipe)
    script, args = parser.parse_args_into_dataclasses(options)
    return script, args
