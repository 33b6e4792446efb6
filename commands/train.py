"""Train one stage of a model from a recipe; the same command goes on where a run was cut off."""

import argparse
import shlex


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `clara train`."""
    parser.add_argument(
        "stage",
        choices=("pretraining", "instruction_tuning", "end_to_end", "text_baseline"),
        help="text_baseline: the base alone, from the same rows with documents as text; give it a recipe of "
        "instruction_tuning and another --output_dir",
    )
    parser.add_argument(
        "options",
        nargs=argparse.REMAINDER,
        help="--config RECIPE, a YAML file of fields, and options such as --max_steps 10, which win over it",
    )


def run(arguments: argparse.Namespace) -> None:
    """Trains.

    Raises:
        ValueError: If the recipe or a row is bad, or a loss is not finite.
    """
    from ..train.run import main

    if arguments.stage == "text_baseline":
        from ..train import text_baseline

        text_baseline.main(arguments.options)
        return
    command = shlex.join(["clara", "train", arguments.stage, *arguments.options])
    try:
        main([*arguments.options, "--stage", arguments.stage], command)
    except FloatingPointError as error:
        raise ValueError(str(error)) from error
