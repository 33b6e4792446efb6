"""Train one stage of a model from a recipe; the same command goes on where a run was cut off."""

import argparse
import shlex


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `clara train`."""
    parser.add_argument("stage", choices=("pretraining", "instruction_tuning", "end_to_end"))
    parser.add_argument("--config", required=True, help="recipe, a YAML file such as train/recipes/tiny.yaml")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="options over the recipe's, such as --max_steps 10"
    )


def run(arguments: argparse.Namespace) -> None:
    """Trains.

    Raises:
        ValueError: If the recipe or a row is bad, or a loss is not finite.
    """
    from ..train.run import main

    options = ["--config", arguments.config, *arguments.options]
    command = shlex.join(["clara", "train", arguments.stage, *options])
    try:
        main([*options, "--stage", arguments.stage], command)
    except FloatingPointError as error:
        raise ValueError(str(error)) from error
