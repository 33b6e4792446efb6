"""Convert checkpoints of the paper's released implementation, and compare them with its outputs.

`clara convert official CHECKPOINT --base BASE --output FOLDER` writes a checkpoint that everything here works
on. `clara convert compare FOLDER --expected OUTPUTS` prints how far its numbers are from recorded ones.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `clara convert official` and `clara convert compare`."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
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
    compare = kinds.add_parser("compare", help="print how far a converted model is from recorded outputs")
    compare.add_argument("model", metavar="FOLDER", help="a converted checkpoint")
    compare.add_argument(
        "--expected", required=True, metavar="FOLDER", help="expected.json and expected.safetensors"
    )
    compare.add_argument(
        "--max-new-tokens",
        type=int,
        default=24,
        metavar="N",
        help="length of the recorded answers (default: 24)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Converts or compares."""
    kinds = {"official": convert_official, "compare": compare_outputs}
    kinds[arguments.kind](arguments)


def convert_official(arguments: argparse.Namespace) -> None:
    """Converts a released checkpoint and says what to do with it."""
    from ..train import convert

    folder = convert.convert_official(
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

    from ..train.official_compare import compare, read_expected

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
