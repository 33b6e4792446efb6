# /// script
# dependencies = ["clara"]
# ///
"""Trains one stage: `clara train STAGE --config recipe.yaml`, or under a launcher on many devices.

```bash
accelerate launch --config_file train/accelerate/fsdp2.yaml -m clara.train.run \
    --config train/recipes/mistral-7b-pretraining.yaml
```

The configuration holds the fields of `ScriptArguments` and `ClaraTrainingConfig`; each can also be given as
an option, which wins.
"""

import itertools
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from transformers.trainer_utils import set_seed
from trl import TrlParser

from ..data.readers import read_corpus, read_pretraining, read_questions
from ..data.records import PretrainingRecord, QuestionRecord
from ..modeling_clara import ClaraForRetrievalGeneration
from .arguments import ClaraTrainingConfig
from .trainer import ClaraTrainer

logger = logging.getLogger(__name__)


@dataclass
class ScriptArguments:
    """What is trained, on what.

    Attributes:
        model: A checkpoint to go on from, or None to make one from `base`.
        base: Folder, Hub id or "smollm2-135m": the base of a new model.
        model_fields: Fields of `ClaraConfig` for a new model (compression_rate, lora_r, connector, …).
        dtype: Dtype the model is loaded in, such as "bfloat16"; the checkpoint's by default.
        train_files: Files or a `datasets` name with configuration, read in this order.
        corpus_files: Pretraining: unlabelled documents beside them (reconstruction).
        eval_files: Held-out question rows (in pretraining each gives its first gold document).
        max_document_characters: Pretraining: leave out longer documents (a curriculum from short passages).
        train_limit: Use this many rows at most.
        eval_limit: Use this many held-out rows at most.
        final_dtype: Dtype of the adapters that are written at the end, such as "bfloat16".
    """

    model: str | None = field(default=None, metadata={"help": "Checkpoint to go on from."})
    base: str | None = field(default=None, metadata={"help": "Base of a new model."})
    model_fields: dict | None = field(default=None, metadata={"help": "Fields of ClaraConfig."})
    dtype: str | None = field(default=None, metadata={"help": "Dtype of the model."})
    train_files: list[str] = field(default_factory=list, metadata={"help": "Training rows."})
    corpus_files: list[str] = field(default_factory=list, metadata={"help": "Unlabelled documents."})
    eval_files: list[str] = field(default_factory=list, metadata={"help": "Held-out rows."})
    max_document_characters: int | None = field(
        default=None, metadata={"help": "Leave out longer documents."}
    )
    train_limit: int | None = field(default=None, metadata={"help": "Rows at most."})
    eval_limit: int | None = field(default=None, metadata={"help": "Held-out rows at most."})
    final_dtype: str | None = field(default=None, metadata={"help": "Dtype of the final adapters."})

    def __post_init__(self) -> None:
        """Checks that there is exactly one start and something to train on."""
        if (self.model is None) == (self.base is None):
            raise ValueError(f"Set `model` or `base`, and only one: got {self.model!r} and {self.base!r}.")
        if not self.train_files and not self.corpus_files:
            raise ValueError("`train_files` is empty: name at least one file or data set of training rows.")


def load_model(script: ScriptArguments) -> ClaraForRetrievalGeneration:
    """The model to train: a checkpoint, or a new one over a base."""
    kwargs = {} if script.dtype is None else {"dtype": script.dtype}
    if script.model is not None:
        return ClaraForRetrievalGeneration.from_pretrained(script.model, **kwargs)
    return ClaraForRetrievalGeneration.from_base(script.base, **(script.model_fields or {}), **kwargs)


def load_records(
    script: ScriptArguments, stage: str, files: Sequence[str], limit: int | None, corpus: Sequence[str] = ()
) -> list[PretrainingRecord] | list[QuestionRecord]:
    """Reads rows for a stage, in the order of the files."""
    read = read_pretraining if stage == "pretraining" else read_questions
    records: Iterable = itertools.chain.from_iterable(read(resolve(file)) for file in files)
    if corpus:
        unlabelled = itertools.chain.from_iterable(read_corpus(resolve(file)) for file in corpus)
        records = itertools.chain(records, (PretrainingRecord(row.document, id=row.id) for row in unlabelled))
    longest = script.max_document_characters
    if stage == "pretraining" and longest is not None:
        records = (record for record in records if len(record.document) <= longest)
    return list(itertools.islice(records, limit))


def load_held_out(script: ScriptArguments, stage: str) -> list[PretrainingRecord] | list[QuestionRecord]:
    """Reads held-out questions; for pretraining each becomes its first gold document with the question."""
    records = load_records(script, "end_to_end", script.eval_files, script.eval_limit)
    if stage != "pretraining":
        return records
    return [
        PretrainingRecord(row.documents[row.positives[0]], (row.question,), (row.answers,))
        for row in records
        if row.positives
    ]


def resolve(file: str) -> str:
    """A file name with environment variables and ~ expanded, so that recipes hold no machine's paths."""
    return os.path.expanduser(os.path.expandvars(file))


def run(script: ScriptArguments, args: ClaraTrainingConfig) -> ClaraTrainer:
    """Trains and writes the final checkpoint into `output_dir`/final; goes on where a run was cut off."""
    args.output_dir = resolve(args.output_dir)
    set_seed(args.seed)
    model = load_model(script)
    train = load_records(script, args.stage, script.train_files, script.train_limit, script.corpus_files)
    held_out = load_held_out(script, args.stage) or None
    trainer = ClaraTrainer(model, args, train_dataset=train, eval_dataset=held_out)
    logger.info("%d rows to train on, %d held out", len(train), len(held_out or ()))
    trainer.train(resume_from_checkpoint=True)
    if args.should_save:
        named = bool(model.config.base_model_name_or_path)
        dtype = None if script.final_dtype is None else getattr(torch, script.final_dtype)
        folder = os.path.join(args.output_dir, "final")
        model.save_pretrained(folder, save_base=not named, adapter_dtype=dtype)
    return trainer


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the options of `python -m clara.train.run` and trains."""
    parser = TrlParser((ScriptArguments, ClaraTrainingConfig))
    script, args = parser.parse_args_and_config(list(sys.argv[1:] if arguments is None else arguments))
    run(script, args)


if __name__ == "__main__":
    main()
