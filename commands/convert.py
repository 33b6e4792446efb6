"""Convert checkpoints of other kinds: the paper's released ones, and plain text generation both ways.

`clara convert official CHECKPOINT --base BASE --output FOLDER` writes a checkpoint that everything here works
on. `clara convert compare FOLDER --expected OUTPUTS` prints how far its numbers are from recorded ones.
`clara convert to-text-generation CHECKPOINT --output FOLDER` writes a plain causal LM that answers as the
model wearing its generator. `clara convert from-text-generation FINE_TUNE --output FOLDER` makes a model of
fresh adapters whose generator is what a fine-tune of its base has learnt.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .help import HelpFormatter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of each kind of conversion."""
    styled = partial(argparse.ArgumentParser, formatter_class=HelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND", parser_class=styled)

    def kind(name: str, do: Callable, summary: str, output: bool = True) -> Callable:
        added = kinds.add_parser(name, help=summary)
        added.set_defaults(do=do)
        if output:
            added.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="folder to make")
        return added.add_argument

    add = kind("official", convert_official, "a checkpoint of apple/ml-clara's format becomes one of ours")
    add("checkpoint", metavar="CHECKPOINT", help="folder or Hub id")
    add("--base", required=True, help="the causal LM it was trained on, folder or Hub id")
    add("--subfolder", default="", metavar="NAME", help="of CHECKPOINT, such as compression-16")
    add("--revision", help="revision of the checkpoint on the Hub")
    add("--base-revision", help="revision of the base on the Hub")
    summary = "the generator merged into its base: a plain AutoModelForCausalLM"
    add = kind("to-text-generation", write_text_generation, summary)
    add("checkpoint", nargs="?", metavar="CHECKPOINT", help="as `--model` of the others")
    summary = "a fine-tune of a base becomes a model's generator"
    add = kind("from-text-generation", read_text_generation, summary)
    add("fine_tune", metavar="FINE_TUNE", help="folder of a LoRA adapter; folder or Hub id of full weights")
    add("--base", help="the causal LM that was tuned; without it full weights become the base themselves")
    add("--base-revision", help="revision of the base on the Hub")
    fields = 'fields of ClaraConfig, such as \'{"compression_rate": 4, "lora_r": 16}\''
    add("--model-fields", type=json.loads, default={}, help=fields)
    summary = "print how far a converted model is from recorded outputs"
    add = kind("compare", compare_outputs, summary, output=False)
    add("model", metavar="FOLDER", help="a converted checkpoint")
    add("--expected", required=True, metavar="FOLDER", help="expected.json and expected.safetensors")
    add("--max-new-tokens", type=int, default=24, help="length of the recorded answers")


def run(arguments: argparse.Namespace) -> None:
    """Converts or compares."""
    arguments.do(arguments)


def write_text_generation(arguments: argparse.Namespace) -> None:
    """Writes the plain causal LM and says how to load it."""
    from ..convert.text_generation import to_text_generation
    from .models import load_model, warn_untrained

    model, trained = load_model(arguments.checkpoint, "cpu")
    warn_untrained(trained)
    to_text_generation(model, arguments.output)
    print(f"next: AutoModelForCausalLM.from_pretrained({str(arguments.output)!r})")


def read_text_generation(arguments: argparse.Namespace) -> None:
    """Makes a model of a fine-tune and says what to do with it."""
    from ..bases.folders import check_free, complete_folder
    from ..convert.text_generation import from_text_generation

    check_free(arguments.output)
    made = from_text_generation(
        arguments.fine_tune, arguments.base, arguments.base_revision, **arguments.model_fields
    )
    with complete_folder(arguments.output) as folder:
        made.model.save_pretrained(folder)
    print(f"{arguments.output}: holds {made.kept:.1%} of the change")
    print(f"next: clara train pretraining --model {arguments.output} …")


def convert_official(arguments: argparse.Namespace) -> None:
    """Converts a released checkpoint and says what to do with it."""
    from ..convert import official

    names = ("checkpoint", "base", "output", "subfolder", "revision", "base_revision")
    folder = official.convert_official(**{name: getattr(arguments, name) for name in names})
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size / 1e6:,.1f} MB")
    print(f"next: clara build-memory DOCUMENTS --model {folder} --output MEMORY")
    print(f"      clara ask MEMORY 'your question' --model {folder}")


def compare_outputs(arguments: argparse.Namespace) -> None:
    """Prints how far a converted model is from recorded outputs; beyond a limit, that is an error."""
    import torch
    from transformers import AutoModel

    from ..convert.official_compare import compare, read_expected

    expected = read_expected(arguments.expected)
    model = AutoModel.from_pretrained(arguments.model, trust_remote_code=True, dtype=torch.float32)
    print(f"{'what':<16}{'difference':>12}{'limit':>9}  unit")
    far = []
    for difference in compare(model, expected, arguments.max_new_tokens):
        verdict = "ok" if difference.close else "TOO FAR"
        numbers = f"{difference.value:>12.3g}{difference.limit:>9.3g}"
        print(f"{difference.what:<16}{numbers}  {difference.unit:<28}{verdict}")
        far += [] if difference.close else [difference.what]
    if far:
        raise ValueError(f"{', '.join(far)}: above the limit, {arguments.model} is not the recorded model.")
