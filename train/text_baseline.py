"""The fine-tuned text baseline: the same base with one LoRA adapter, on the same rows with documents as text.

It takes a recipe of stage instruction_tuning: rows, order, documents shown, steps, optimizer and LoRA fields
are those of CLaRa's own training, and the prompt is CLaRa's with text where the memories would be. What it
writes is a plain PEFT adapter.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.trainer_utils import set_seed

from ..adapters_clara import lora_config
from ..checkpoint_clara import base_path
from ..configuration_clara import ClaraConfig
from ..data.collation import InstructionCollator, Item, RecordDataset
from ..data.records import QuestionRecord
from ..data.text_prompts import text_prompt_ids
from ..processing_clara import IGNORE_INDEX
from ..prompts_clara import plain_ids, plain_offsets
from .arguments import ClaraTrainingConfig
from .optimizer import master_adamw
from .recipe import ScriptArguments, parse_arguments
from .resuming import ResumableTrainer
from .run import load_held_out, load_records
from .sampling import EpochCallback, EpochSampler, order_seed

# Of the configuration, what shapes the baseline: another value is another run.
OWN_FIELDS = (
    "base_model_name_or_path",
    "doc_max_length",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "lora_rank_pattern",
    "lora_alpha_pattern",
)


@dataclass
class TextCollator:
    """Questions with the text of the documents that CLaRa's instruction tuning would compress.

    Attributes:
        tokenizer: The base's tokenizer.
        documents_per_question: As in `InstructionCollator`, whose choice and order of documents this is.
        doc_max_length: Tokens of a document that are read; what is beyond is cut off, as there.
        prompt_limit: Longest prompt with its answer, in tokens.
        seed: Seed of the order.
    """

    tokenizer: PreTrainedTokenizerBase
    documents_per_question: int = 5
    doc_max_length: int = 256
    prompt_limit: int = 2048
    seed: int = 0

    def __call__(self, items: Sequence[Item]) -> dict[str, Tensor | int]:
        """Makes a batch, padded on the left: `input_ids`, `attention_mask` (B, L), the answers as `labels`.

        Answers stand at the end of every row: `labels` (B, A + 1) are those of the last `logits_to_keep`
        positions, the only ones of which logits are made.

        Raises:
            ValueError: If a prompt with its answer is longer than `prompt_limit`.
        """
        rows = [self.encode(item) for item in items]
        longest = max(len(prompt) + len(answer) for prompt, answer in rows)
        if longest > self.prompt_limit:
            raise ValueError(
                f"a prompt with its answer has {longest} tokens, the limit is {self.prompt_limit}: lower "
                "`documents_per_question`."
            )
        ids = [prompt + answer for prompt, answer in rows]
        pad = self.tokenizer.pad_token_id
        labels = _left([[IGNORE_INDEX, *answer] for _, answer in rows], IGNORE_INDEX)
        return {
            "input_ids": _left(ids, self.tokenizer.eos_token_id if pad is None else pad),
            "attention_mask": _left([[1] * len(row) for row in ids], 0),
            "labels": labels,
            "logits_to_keep": labels.shape[1],
        }

    def encode(self, item: Item) -> tuple[list[int], list[int]]:
        """Ids of a row's prompt and of its answer with the end token."""
        draw = random.Random(f"{self.seed}-{item.epoch}-{item.index}")
        chosen = InstructionCollator(None, self.documents_per_question).documents(item.record, draw)
        texts = [self._cut(text) for text in chosen]
        prompt = text_prompt_ids(self.tokenizer, item.record.question, texts)
        return prompt, [*plain_ids(self.tokenizer, [item.record.target])[0], self.tokenizer.eos_token_id]

    def _cut(self, text: str) -> str:
        offsets = plain_offsets(self.tokenizer, [text])[0]
        return text if len(offsets) <= self.doc_max_length else text[: offsets[self.doc_max_length - 1][1]]


def check_lengths(collator: TextCollator, records: Sequence[QuestionRecord]) -> None:
    """Checks every row before training; only those that may be too long are encoded.

    Raises:
        ValueError: Naming the first row that is too long, or has fewer documents than are shown.
    """
    shown = collator.documents_per_question
    for row, record in enumerate(records):
        sizes = sorted(len(text.encode()) for text in set(record.documents))[-shown:]
        documents = min(sum(sizes), shown * collator.doc_max_length)
        asked = len(record.question.encode()) + len(record.target.encode())
        if 64 + 16 * shown + documents + asked > collator.prompt_limit:
            try:
                collator([Item(row, 0, record)])
            except ValueError as error:
                raise ValueError(f"Row {row}: {error}") from error


def _left(rows: Sequence[list[int]], value: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[value] * (width - len(row)) + row for row in rows])


class TextTrainer(ResumableTrainer):
    """`Trainer` with CLaRa's order of rows and checkpoints."""

    def _get_train_sampler(self, train_dataset: RecordDataset | None = None) -> EpochSampler:
        args = self.args
        step = args.train_batch_size * args.gradient_accumulation_steps * max(1, args.world_size)
        dataset = train_dataset or self.train_dataset
        sampler = EpochSampler(dataset, step, args.bucket_by_length, order_seed(args))
        for callback in self.callback_handler.callbacks:
            if type(callback) is EpochCallback:
                callback.sampler = sampler
        return sampler


def check_used(script: ScriptArguments, args: ClaraTrainingConfig) -> None:
    """Raises a `ValueError` for what a recipe may ask for and the text baseline does not do."""
    unused = {
        "max_minutes": args.max_minutes,
        "load_in_4bit": script.load_in_4bit,
        "load_in_8bit": script.load_in_8bit,
    }
    for name, value in unused.items():
        if value:
            raise ValueError(f"the text baseline has no `{name}`, got {value!r}: leave it out.")


def make_trainer(script: ScriptArguments, args: ClaraTrainingConfig) -> TextTrainer:
    """The trainer of a recipe, over the base of its checkpoint or the one that it names.

    Raises:
        ValueError: If the recipe is of another stage, asks for a time limit or a quantised base, or its
            checkpoint changed the base.
    """
    if args.stage != "instruction_tuning":
        raise ValueError(
            f"the text baseline takes a recipe of stage 'instruction_tuning', got {args.stage!r}."
        )
    check_used(script, args)
    config = config_of(script)
    path = base_path(os.path.expanduser(config.base_model_name_or_path))
    dtype = "auto" if script.dtype is None else getattr(torch, script.dtype)
    attention = {"attn_implementation": script.attn_implementation} if script.attn_implementation else {}
    base = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_cache=False, **attention)
    lora = lora_config(config)
    lora.base_model_name_or_path, lora.revision = None, None  # PEFT names the folder that was read
    model = get_peft_model(base, lora, autocast_adapter_dtype=False)
    tokenizer = AutoTokenizer.from_pretrained(path)
    limit = getattr(base.config, "max_position_embeddings", None) or 2048
    collator = TextCollator(tokenizer, args.documents_per_question, config.doc_max_length, limit, args.seed)
    args.output_dir, args.prediction_loss_only = os.path.expanduser(args.output_dir), True
    records = load_records(script, args.stage)
    held_out = load_held_out(script, args.stage)
    for rows in (records, held_out):
        check_lengths(collator, rows)
    if not held_out:
        args.eval_strategy = "no"
    trainer = TextTrainer(
        model=model,
        args=args,
        data_collator=collator,
        train_dataset=RecordDataset(records),
        eval_dataset=RecordDataset(held_out) if held_out else None,
        callbacks=[EpochCallback()],
        processing_class=tokenizer,
        optimizer_cls_and_kwargs=master_adamw(model, args),
    )
    trainer.run_facts = {"dtype": script.dtype, **{name: getattr(config, name) for name in OWN_FIELDS}}
    return trainer


def config_of(script: ScriptArguments) -> ClaraConfig:
    """Where base, LoRA fields and longest document stand: the checkpoint's, or those of the recipe itself."""
    if script.model is None:
        return ClaraConfig(base_model_name_or_path=script.base, **(script.model_fields or {}))
    config = ClaraConfig.from_pretrained(os.path.expanduser(script.model))
    if config.base_is_changed:
        raise ValueError(f"{script.model} changed its base's weights: name the base itself as `base`.")
    return config


def run(script: ScriptArguments, args: ClaraTrainingConfig) -> TextTrainer:
    """Trains and writes the PEFT adapter with its tokenizer into `output_dir`/final; goes on after a cut.

    With `prepare_only` every row is checked, and nothing more.
    """
    set_seed(args.seed)
    trainer = make_trainer(script, args)
    if not script.prepare_only:
        trainer.train(resume_from_checkpoint=True)
        if script.final_dtype is not None:
            trainer.model.to(getattr(torch, script.final_dtype))
        trainer.save_model(os.path.join(args.output_dir, "final"))
    return trainer


def main(arguments: Sequence[str]) -> str | None:
    """Parses the options of `clara train text_baseline`, trains; the run's folder, None if only prepared."""
    script, args = parse_arguments([*arguments, "--stage", "instruction_tuning"])
    run(script, args)
    return None if script.prepare_only else args.output_dir
