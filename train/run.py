# /// script
# dependencies = ["clara"]
# ///
"""Trains one stage: `clara train STAGE --config recipe.yaml`, or under a launcher on many devices.

```bash
accelerate launch --config_file train/accelerate/fsdp2.yaml -m clara.train.run \
    --config train/recipes/mistral-7b-pretraining.yaml
```

The configuration holds the fields of `ScriptArguments` and `ClaraTrainingConfig`; each can also be given as
an option, which wins. The same command goes on where a run was cut off.
"""

import itertools
import logging
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import BitsAndBytesConfig
from transformers.trainer_utils import set_seed

from ..data.joining import join_documents
from ..data.readers import read_corpus, read_pretraining, read_questions
from ..data.records import PretrainingRecord, QuestionRecord
from ..modeling_clara import ClaraForRetrievalGeneration
from .arguments import ClaraTrainingConfig
from .recipe import ScriptArguments, parse_arguments
from .resolving import cast_adapters
from .resuming import start_digest
from .sampling import draw
from .trainer import ClaraTrainer

logger = logging.getLogger(__name__)


def load_model(script: ScriptArguments) -> ClaraForRetrievalGeneration:
    """The model to train: a checkpoint, or a new one over a base."""
    fields = script.model_fields or {}
    chosen = {"dtype": script.dtype, "attn_implementation": script.attn_implementation}
    kwargs = {name: value for name, value in chosen.items() if value is not None}
    if script.load_in_4bit or script.load_in_8bit:
        kwargs |= quantized(script)
    if script.model is None:
        model = ClaraForRetrievalGeneration.from_base(os.path.expanduser(script.base), **fields, **kwargs)
    else:
        folder = os.path.expanduser(script.model)
        model = ClaraForRetrievalGeneration.from_pretrained(folder, **fields, **kwargs)
    if script.load_in_4bit or script.load_in_8bit:
        cast_adapters(model, kwargs["dtype"])
    return model


def quantized(script: ScriptArguments) -> dict[str, Any]:
    """Arguments of loading for a base in 4 or 8 bits, on this process's device; adapters are cast apart."""
    dtype = getattr(torch, script.dtype or "bfloat16")
    config = BitsAndBytesConfig(
        load_in_4bit=script.load_in_4bit,
        load_in_8bit=script.load_in_8bit,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    device = PartialState().device
    return {"quantization_config": config, "dtype": dtype, "device_map": {"": device}}


def load_records(script: ScriptArguments, stage: str) -> list[PretrainingRecord] | list[QuestionRecord]:
    """Reads the training rows of a stage, in the order of the files; rows of one document are joined.

    Beyond `train_limit` a draw with seed 0 over all files is kept, or the first rows where streaming.
    """
    sources = [os.path.expanduser(file) for file in script.train_files]
    if stage == "pretraining":
        sources += [os.path.expanduser(file) for file in script.corpus_files]
    else:
        questions = read_questions(sources, streaming=script.streaming)
        wide = (question for question in questions if len(question.documents) >= script.fewest_documents)
        return at_most(script.train_limit, wide, script.streaming)
    records: Iterable[PretrainingRecord] = read_pretraining(sources, "none", streaming=script.streaming)
    records = itertools.chain(records, gold_documents(script.question_files, script.streaming))
    records = join_documents(records, "adjacent" if script.streaming else "all")
    longest = script.max_document_characters
    if longest is not None:
        records = (record for record in records if len(record.document) <= longest)
    return at_most(script.train_limit, records, script.streaming)


def load_corpus(script: ScriptArguments) -> list[str]:
    """The passages of `corpus_files`, among which end-to-end training searches beside the candidates."""
    sources = [os.path.expanduser(file) for file in script.corpus_files]
    found = [record.document for record in read_corpus(sources)] if sources else []
    return draw(found, script.train_limit)


def at_most(limit: int | None, records: Iterable[Any], first: bool = False) -> list[Any]:
    """At most so many records, in their order: a draw with seed 0, or the first ones."""
    return list(itertools.islice(records, limit)) if first else draw(list(records), limit)


def load_held_out(script: ScriptArguments, stage: str) -> list[PretrainingRecord] | list[QuestionRecord]:
    """Reads held-out questions; for pretraining each becomes its first gold document with the question."""
    if not script.eval_files:
        return []
    if stage == "pretraining":
        return list(itertools.islice(join_documents(gold_documents(script.eval_files)), script.eval_limit))
    sources = [os.path.expanduser(file) for file in script.eval_files]
    return list(itertools.islice(read_questions(sources), script.eval_limit))


def gold_documents(files: Sequence[str], streaming: bool = False) -> Iterator[PretrainingRecord]:
    """Each question's first gold document with the question; questions without one are left out."""
    sources = [os.path.expanduser(file) for file in files]
    for row in read_questions(sources, streaming=streaming) if sources else ():
        if row.positives:
            yield PretrainingRecord(row.documents[row.positives[0]], (row.question,), (row.answers,))


def run(script: ScriptArguments, args: ClaraTrainingConfig, command: str | None = None) -> ClaraTrainer:
    """Trains and writes the final checkpoint into `output_dir`/final; goes on where a run was cut off.

    Args:
        script: What is trained, on what.
        args: How.
        command: The command that started the run, for the model card.
    """
    args.output_dir = os.path.expanduser(args.output_dir)
    set_seed(args.seed)
    model = load_model(script)
    train = load_records(script, args.stage)
    held_out = load_held_out(script, args.stage) or None
    corpus = load_corpus(script) if args.stage == "end_to_end" else []
    trainer = ClaraTrainer(model, args, train_dataset=train, eval_dataset=held_out, corpus=corpus)
    files = [
        *script.train_files,
        *script.corpus_files,
        *script.question_files,
        *script.eval_files,
    ]
    names = dict.fromkeys("/".join(Path(file).parts[-2:]) for file in files)
    trainer.origin = {"command": command, "data": list(names)}
    trainer.run_facts = {**trainer.run_facts, "start": start_digest(model)}
    logger.info("%d rows to train on, %d held out", len(train), len(held_out or ()))
    if not script.prepare_only:
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or True)
        dtype = None if script.final_dtype is None else getattr(torch, script.final_dtype)
        trainer.save_final(os.path.join(args.output_dir, "final"), dtype)
    return trainer


def main(arguments: Sequence[str] | None = None, command: str | None = None) -> str | None:
    """Parses the options of `python -m clara.train.run`, trains, and leaves the other processes.

    Returns:
        The run's folder; None if it was only prepared.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    script, args = parse_arguments(given)
    run(script, args, command or shlex.join(["python", "-m", "clara.train.run", *given])).end()
    return None if script.prepare_only else args.output_dir


if __name__ == "__main__":
    main()
