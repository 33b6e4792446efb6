"""Train one stage of a model from a recipe."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `clara train`."""
    parser.add_argument("stage", choices=("pretraining", "instruction_tuning", "end_to_end"))
    parser.add_argument("--config", required=True, help="recipe, a YAML file such as train/recipes/tiny.yaml")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="options over the recipe's, such as --max_steps 10"
    )


def run(arguments: argparse.Namespace) -> None:
    """Trains; a run that was cut off goes on from its newest complete checkpoint."""
    from ..train.run import main

    main(["--config", arguments.config, *arguments.options, "--stage", arguments.stage])
