"""Train one stage of a model from a recipe; the same command goes on where a run was cut off."""

import argparse
import shlex
from pathlib import Path

HELP = """the options that are used most; each is a field of a recipe too, and wins over it:

  what is trained
    --config FILE              a recipe: a YAML file of fields (train/recipes)
    --model CHECKPOINT         go on from it, or: --base FOLDER_OR_ID, a new model over a causal LM
    --model_fields JSON        fields of ClaraConfig, such as {"compression_rate": 16, "lora_r": 16}
    --dtype bfloat16           of the model;  --load_in_4bit true: the base in 4 bits (one GPU)
    --attn_implementation NAME eager, sdpa, flash_attention_2
  on what
    --train_files FILE...      JSONL, Parquet, or a data set of the Hub (owner/name:configuration)
    --eval_files FILE...       held-out questions
    --corpus_files FILE...     pretraining: documents alone;  --question_files: with questions
    --train_limit N  --eval_limit N  --streaming true
  how long, how fast
    --num_train_epochs N       or --max_steps N;  --max_minutes N saves and stops
    --per_device_train_batch_size N   times --gradient_accumulation_steps N: rows of a step
    --learning_rate RATE  --lr_scheduler_type NAME  --warmup_steps N  --seed N
    --bf16 true  --activation_checkpointing true     speed; memory
  the stage's own
    --alignment_weight W       of a memory's mean and its document's
    --contrastive_weight W     relevance labels (end_to_end) or in-batch questions (pretraining)
    --generation_weight W      of the answer's loss
    --documents_per_question N instruction tuning;  --signals JSON: pretraining
    --compression_rates N...   several of them at once
    --starts JSON  --frozen ADAPTER...
  what is written
    --output_dir FOLDER        checkpoints, logs, curves, the card, and final/
    --logging_steps N  --save_steps N  --eval_strategy steps --eval_steps N
    --final_dtype bfloat16  --report_to trackio
  and stop
    --prepare_only true        check every row, compress the candidates
    --plan                     parameters, memory, tokens, hours and cost; nothing is loaded

  every option: clara train STAGE --help-all; what they mean: docs/training.md"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `clara train`."""
    parser.epilog = HELP
    parser.set_defaults(format_help=parser.format_help)
    parser.add_argument(
        "stage",
        choices=("pretraining", "instruction_tuning", "end_to_end", "text_baseline"),
        help="text_baseline: the base alone, from the same rows with documents as text; give it a recipe of "
        "instruction_tuning and another --output_dir",
    )
    parser.add_argument("options", nargs=argparse.REMAINDER, help="as below")


def run(arguments: argparse.Namespace) -> None:
    """Trains, and says where the model lies and what comes next."""
    options = list(arguments.options)
    if {"-h", "--help"} & set(options):
        print(arguments.format_help())
        return
    if "--help-all" in options:
        from ..train.recipe import parse_arguments

        parse_arguments(["--help"])
        return
    from ..train.foresight import foresee, next_command

    planned = "--plan" in options
    options = [word for word in options if word != "--plan"]
    fields = foresee(options)
    if planned:
        from ..train.plan import make_plan

        print(make_plan(arguments.stage, options))
        return
    folder = _train(arguments.stage, options)
    if folder is None:
        return
    final = str(Path(folder) / "final")
    print(f"trained: {final}")
    if arguments.stage != "text_baseline":
        recipe = options[options.index("--config") + 1] if "--config" in options else None
        print(f"next: {next_command(arguments.stage, fields, recipe, final)}")


def _train(stage: str, options: list[str]) -> str | None:
    """Trains; the folder of the run, or None if it was only prepared."""
    from ..train.run import main

    if stage == "text_baseline":
        from ..train import text_baseline

        return text_baseline.main(options)
    command = shlex.join(["clara", "train", stage, *options])
    try:
        return main([*options, "--stage", stage], command)
    except FloatingPointError as error:
        raise ValueError(str(error)) from error
