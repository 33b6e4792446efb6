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
from functools import partial
from pathlib import Path

from .help import HelpFormatter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of each kind of conversion."""
    styled = partial(argparse.ArgumentParser, formatter_class=HelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND", parser_class=styled)
    official = kinds.add_parser(
        "official", help="a checkpoint of apple/ml-clara's format becomes one of ours"
    )
    official.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or Hub id")
    official.add_argument(
        "--base", required=True, metavar="BASE", help="the causal LM it was trained on, folder or Hub id"
    )
    official.add_argument("--output", required=True, metavar="FOLDER", help="folder to make")
    official.add_argument(
        "--subfolder", default="", metavar="NAME", help="sub-folder of CHECKPOINT, such as compression-16"
    )
    official.add_argument("--revision", help="revision of the checkpoint on the Hub")
    official.add_argument("--base-revision", help="revision of the base on the Hub")
    _add_text_generation(kinds)
    compare = kinds.add_parser("compare", help="print how far a converted model is from recorded outputs")
    compare.add_argument("model", metavar="FOLDER", help="a converted checkpoint")
    compare.add_argument(
        "--expected", required=True, metavar="FOLDER", help="expected.json and expected.safetensors"
    )
    compare.add_argument("--max-new-tokens", type=int, default=24, help="length of the recorded answers")


def _add_text_generation(kinds: argparse._SubParsersAction) -> None:
    there = kinds.add_parser(
        "to-text-generation", help="the generator merged into its base: a plain AutoModelForCausalLM"
    )
    there.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="as `--model` of the others")
    back = kinds.add_parser("from-text-generation", help="a fine-tune of a base becomes a model's generator")
    back.add_argument(
        "fine_tune", metavar="FINE_TUNE", help="folder of a LoRA adapter, or folder or Hub id of full weights"
    )
    back.add_argument(
        "--base",
        metavar="BASE",
        help="the causal LM that was tuned; without it full weights become the base themselves",
    )
    back.add_argument("--base-revision", help="revision of the base on the Hub")
    back.add_argument(
        "--model-fields",
        type=json.loads,
        default={},
        help='fields of ClaraConfig, such as \'{"compression_rate": 4, "lora_r": 16}\'',
    )
    for parser in (there, back):
        parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="folder to make")


def run(arguments: argparse.Namespace) -> None:
    """Converts or compares."""
    kinds = {
        "official": convert_official,
        "compare": compare_outputs,
        "to-text-generation": write_text_generation,
        "from-text-generation": read_text_generation,
    }
    kinds[arguments.kind](arguments)


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

    folder = official.convert_official(
        arguments.checkpoint,
        arguments.base,
        arguments.output,
        subfolder=arguments.subfolder,
        revision=arguments.revision,
        base_revision=arguments.base_revision,
    )
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size / 1e6:,.1f} MB")
    print(f"next: clara build-memory DOCUMENTS --model {folder} --output MEMORY")
    print(f"      clara ask MEMORY 'your question' --model {folder}")


def compare_outputs(arguments: argparse.Namespace) -> None:
    """Prints each difference between a converted model and recorded outputs.

    Raises:
        ValueError: One is above its limit.
    """
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
