"""What is wrong with a training command, told at once: nothing here needs torch or transformers.

Names of options are read from the source of their dataclasses, since importing those takes seconds.
"""

import ast
import difflib
import functools
import importlib.util
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
FILE_OPTIONS = ("train_files", "corpus_files", "question_files", "eval_files")
ROW_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".parquet")
SOURCES = {"arguments.py": "ClaraTrainingConfig", "recipe.py": "ScriptArguments"}
NUMBERS = {"int": int, "float": float, "int | None": int, "float | None": float}


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


def foresee(options: Sequence[str]) -> dict[str, Any]:
    """Checks the words of a training command and the recipe that they name.

    Args:
        options: The words after the stage.

    Returns:
        The fields that are set, a recipe's and the options' over them.

    Raises:
        ValueError: If an option or field does not exist or is no number where one is needed, a file is not
            there, a variable of the recipe is not set, or there is no start.
    """
    given = _options(options)
    recipe = given.pop("config", None)
    fields: dict[str, Any] = {}
    if recipe is not None:
        if not os.path.isfile(str(recipe)):
            raise ValueError(
                f"`--config` {recipe} is not there: name a recipe, such as those in train/recipes."
            )
        fields = read_recipe(recipe)
        _check_names(fields, f"{recipe} has the field", "")
        fields = without_rivals(fields, given)
    _check_names(given, "there is no option", "--")
    fields |= given
    _check_numbers(fields)
    _check_files(fields)
    if (fields.get("model") is None) == (fields.get("base") is None):
        raise ValueError(
            f"Set `model` or `base`, and only one: got {fields.get('model')!r} and {fields.get('base')!r}."
        )
    return fields


def without_rivals(recipe: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """A recipe without its `model` where an option names a `base`, and the other way round: options win."""
    rivals = {"model": "base", "base": "model"}
    return {name: value for name, value in recipe.items() if rivals.get(name) not in given}


def _options(words: Sequence[str]) -> dict[str, Any]:
    """Options and their values: text, a list of texts, or True for an option alone."""
    found: dict[str, Any] = {}
    name = None
    for word in words:
        if re.match(r"--\w", word):
            name, _, value = word[2:].partition("=")
            name = name.replace("-", "_")
            found[name] = value if value else True
        elif name is None:
            raise ValueError(f"{word!r} belongs to no option: write options as `--name value`.")
        else:
            before = found[name]
            found[name] = word if before is True else [*([before] if type(before) is str else before), word]
    return found


@functools.cache
def known_fields() -> Mapping[str, str]:
    """Every field of a training command with its annotation."""
    package = Path(importlib.util.find_spec("transformers").submodule_search_locations[0])
    files = {package / "training_args.py": "TrainingArguments"}
    files |= {Path(__file__).with_name(file): name for file, name in SOURCES.items()}
    return {key: value for file, name in files.items() for key, value in _annotations(file, name).items()}


def _annotations(file: Path, name: str) -> dict[str, str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    fields = (node for node in found.body if isinstance(node, ast.AnnAssign))
    return {node.target.id: ast.unparse(node.annotation) for node in fields}


def _check_names(fields: Mapping[str, Any], told: str, dashes: str) -> None:
    known = known_fields()
    for name in fields:
        if name not in known and name.removeprefix("no_") not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean `{dashes}{near[0]}`?" if near else "see `clara train --help`."
            raise ValueError(f"{told} `{dashes}{name}`: unknown, {hint}")


def _check_numbers(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        kind = NUMBERS.get(known_fields().get(name, ""))
        if kind is None or value is None:
            continue
        try:
            kind(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`{name}` must be a number ({kind.__name__}), got {value!r}.") from error


def _check_files(fields: Mapping[str, Any]) -> None:
    for option in FILE_OPTIONS:
        value = fields.get(option) or []
        for file in [value] if isinstance(value, str) else value:
            path = os.path.expanduser(str(file))
            if path.endswith(ROW_SUFFIXES) and not os.path.exists(path):
                raise ValueError(f"`{option}`: {file} is not there.")
    if not fields.get("train_files") and not fields.get("corpus_files"):
        raise ValueError("`train_files` is empty: name at least one file or data set of training rows.")
    model = os.path.expanduser(str(fields.get("model") or ""))
    a_folder = model.startswith(("/", ".", "~")) or model.count("/") > 1  # a Hub id is OWNER/NAME
    if a_folder and not os.path.isfile(os.path.join(model, "config.json")):
        raise ValueError(
            f"`model`: {model} holds no checkpoint (no config.json): train the stage before it first, or "
            "name another one with `--model`; `--base NAME` starts, or plans, from a base."
        )


def next_command(stage: str, fields: Mapping[str, Any], recipe: str | None, final: str) -> str:
    """What to do with a trained checkpoint: the next stage, or documents to build a memory of."""
    follower = {"pretraining": "instruction_tuning", "instruction_tuning": "end_to_end"}.get(stage)
    if follower is None:
        return f"clara build-memory FILE_OR_FOLDER --output MEMORY --model {final}"
    sibling = (
        None if recipe is None else str(Path(recipe).with_name(Path(recipe).name.replace(stage, follower)))
    )
    if sibling is not None and sibling != recipe and os.path.isfile(sibling):
        return f"clara train {follower} --config {sibling} --model {final}"
    return f"clara train {follower} --model {final} --train_files ROWS.jsonl --output_dir {follower}"
