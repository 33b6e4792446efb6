"""Arguments of training: what TRL users expect, plus CLaRa's own, each checked once."""

import json
import os
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from ..data.collation import SIGNALS
from .losses import CANDIDATES, POSITIVES
from .options import check_options
from .stages import STAGES, get_stage


@dataclass
class ClaraTrainingConfig(TrainingArguments):
    r"""Configuration of [`ClaraTrainer`].

    Unset values of `learning_rate` and `alignment_weight` come from the stage's row in `train/stages.py`, the
    paper's. The batch is that of `TrainingArguments`: `per_device_train_batch_size` 8 on each device, times
    `gradient_accumulation_steps` 1; the paper's is 128 rows a step (32 in end_to_end).

    Defaults that differ from `TrainingArguments`: `lr_scheduler_type` "cosine", `warmup_steps` 0.03 (a share
    of the steps), `num_train_epochs` 1, `logging_steps` 10, `save_steps` 100, `save_total_limit` 2,
    `remove_unused_columns` False, `report_to` "none", `ddp_find_unused_parameters` False.

    Parameters:
        stage: One of "pretraining", "instruction_tuning", "end_to_end".
        model_init_kwargs: Where the trainer is given a model's name: fields of `ClaraConfig` and arguments of
            `from_pretrained` (dtype, attn_implementation, …), a mapping.
        starts: Adapter to "kept", "fresh" or "compressor", over the stage's own starts.
        frozen: Adapters of the stage that are not to train (with the compressor its memory tokens).
        alignment_weight: Weight of the alignment loss (lambda, paper equation 2.4); None: the stage's.
        contrastive_weight: Weight of a contrastive loss of retrieval (0: off). In end_to_end it is supervised
            by the positives of each pool; in pretraining questions of each document, encoded by the
            compressor, are to find their document among those of the batch.
        matched_questions: Pretraining: at most so many questions of a document that are to find it.
        past_passages: Pretraining: so many passages of past batches, by the search vectors they had then, are
            negatives of that loss too (cross-batch memory, arXiv 1912.06798).
        contrastive_candidates: End to end: what a question's positives are to be nearer than: "pool" (its own
            candidates) or "corpus" (all candidates of the run, arXiv 2104.08051).
        contrastive_positives: "any": one near positive is enough (the paper's "Sup"); "each": every one is to
            be near, for questions that need several documents.
        retrieval_teacher: A sentence-transformers model (folder, Hub id or "minilm") whose distribution over
            the passages of the batch (in end_to_end over those of `contrastive_candidates`) the question's
            is to match (TAS-B, arXiv 2104.06967); None: no teacher.
        retrieval_teacher_weight: Weight of that divergence.
        pool_size: End to end: fill the pools to so many candidates with the passages of the whole corpus that
            are nearest to the question at that step; rows need not have more than their gold documents.
        decay_by_time: Let the learning rate fall to 0 at `max_minutes`, or at the last step where that comes
            first, along a cosine.
        positives_are_read: End to end: the generator reads a question's positives and fills the rest of the K
            places by score, so that the answer is always there.
        generation_weight: Weight of the answer's loss (0 with a contrastive weight: the paper's "Sup"
            baseline).
        signals: Pretraining: chance of each signal of a document, a mapping over
            questions_and_answers, answer, paraphrase, reconstruction.
        max_answers: Pretraining: at most this many single questions of a document in an epoch.
        target_max_length: Pretraining: longest target in tokens.
        documents_per_question: Instruction tuning: documents shown with a question.
        pack_questions: Pretraining: put a document's single questions into one prompt, each seeing the memory
            and itself alone (attn_implementation "sdpa" or "eager").
        compression_rates: Rates to train at once (nested rates), multiples of the model's: neighbouring
            vectors are averaged. Empty: the model's rate.
        bucket_by_length: Batch rows of similar length.
        memory_folder: End to end: where the candidates' memories are stored; None: `output_dir`/memory.
        samples: Answers generated and logged at each evaluation.
        controls: Evaluate the answer's loss with the own, a shuffled and no memory at each evaluation.
        peak_tflops: Peak of the device in dense bf16 TFLOP/s, for the utilisation; None: known GPUs, else
            left out.
        max_minutes: Save and stop after so many minutes; the same command then goes on. None: no limit.
        rich_progress: Show progress and logs with TRL's `RichProgressCallback` (needs `trl` and `rich`).
    """

    stage: str = field(default="pretraining", metadata={"help": f"One of {tuple(STAGES)}."})
    model_init_kwargs: dict | str | None = field(default=None, metadata={"help": "For a model's name."})
    starts: dict | None = field(default=None, metadata={"help": "Adapter to kept, fresh or compressor."})
    frozen: list[str] = field(default_factory=list, metadata={"help": "Adapters that are not to train."})
    alignment_weight: float | None = field(default=None, metadata={"help": "Weight of the alignment loss."})
    contrastive_weight: float = field(default=0.0, metadata={"help": "Weight of the contrastive loss."})
    matched_questions: int = field(default=1, metadata={"help": "Questions that find their document."})
    past_passages: int = field(default=0, metadata={"help": "Passages of past batches as negatives."})
    contrastive_candidates: str = field(default="pool", metadata={"help": f"One of {CANDIDATES}."})
    retrieval_teacher: str | None = field(default=None, metadata={"help": "A sentence-transformers model."})
    retrieval_teacher_weight: float = field(default=1.0, metadata={"help": "Weight of the teacher's loss."})
    pool_size: int | None = field(default=None, metadata={"help": "Fill the pools from the corpus."})
    decay_by_time: bool = field(default=False, metadata={"help": "Learning rate 0 at max_minutes."})
    positives_are_read: bool = field(default=False, metadata={"help": "Positives fill the first places."})
    contrastive_positives: str = field(default="any", metadata={"help": f"One of {POSITIVES}."})
    generation_weight: float = field(default=1.0, metadata={"help": "Weight of the answer's loss."})
    signals: dict | str | None = field(default=None, metadata={"help": "Chance of each signal."})
    max_answers: int = field(default=4, metadata={"help": "Single questions of a document in an epoch."})
    target_max_length: int = field(default=192, metadata={"help": "Longest pretraining target in tokens."})
    documents_per_question: int = field(default=5, metadata={"help": "Documents shown with a question."})
    pack_questions: bool = field(default=False, metadata={"help": "Several questions a prompt."})
    compression_rates: list[int] = field(default_factory=list, metadata={"help": "Nested rates to train."})
    bucket_by_length: bool = field(default=True, metadata={"help": "Batch rows of similar length."})
    memory_folder: str | None = field(default=None, metadata={"help": "Store of the candidates' memories."})
    samples: int = field(default=4, metadata={"help": "Answers generated at each evaluation."})
    controls: bool = field(default=True, metadata={"help": "Own, shuffled and no memory at evaluation."})
    peak_tflops: float | None = field(default=None, metadata={"help": "Peak of the device in TFLOP/s."})
    max_minutes: float | None = field(default=None, metadata={"help": "Save and stop after so long."})
    rich_progress: bool = field(default=False, metadata={"help": "Progress and logs as a live panel."})

    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate; None: the stage's."}
    )
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rate."})
    warmup_steps: float = field(
        default=0.03, metadata={"help": "Steps of warm-up, or a share of all below 1."}
    )
    num_train_epochs: float = field(default=1.0, metadata={"help": "Epochs."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between logs."})
    save_steps: float = field(default=100, metadata={"help": "Steps between checkpoints."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Complete checkpoints that are kept."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Kept off: rows are records."})
    report_to: None | str | list[str] = field(default="none", metadata={"help": "Trackers, such as trackio."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Off: every parameter that trains is used in every step."}
    )

    def __post_init__(self) -> None:
        """Fills what the stage decides, then checks."""
        stage = get_stage(self.stage)
        check_options(self)
        self.model_init_kwargs = as_mapping("model_init_kwargs", self.model_init_kwargs)
        if self.learning_rate is None:
            self.learning_rate = stage.learning_rate
        if self.alignment_weight is None:
            self.alignment_weight = stage.alignment_weight
        self.starts = as_mapping("starts", self.starts)
        self.signals = as_mapping("signals", self.signals)
        self._check_weights()
        self._check_together()
        self._check_signals()
        self._check_rates()
        super().__post_init__()
        self._refuse_fsdp_checkpointing()
        self.prediction_loss_only = True  # logits are never gathered; answers are generated
        self.label_names = ["labels"]
        self.disable_tqdm = self.disable_tqdm or self.rich_progress

    def _check_weights(self) -> None:
        for name in (
            "alignment_weight",
            "contrastive_weight",
            "generation_weight",
            "retrieval_teacher_weight",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)}.")
        if self.contrastive_candidates not in CANDIDATES:
            raise ValueError(
                f"`contrastive_candidates` must be one of {CANDIDATES}, got {self.contrastive_candidates!r}."
            )
        if self.contrastive_positives not in POSITIVES:
            raise ValueError(
                f"`contrastive_positives` must be one of {POSITIVES}, got {self.contrastive_positives!r}."
            )
        if self.contrastive_weight and self.stage == "instruction_tuning":
            raise ValueError(
                "`contrastive_weight` works in the stages 'pretraining' and 'end_to_end': set it to 0 in "
                "'instruction_tuning', which does not retrieve."
            )
        if not (self.generation_weight or self.contrastive_weight):
            raise ValueError("`generation_weight` and `contrastive_weight` are both 0: nothing would train.")
        if self.stage == "end_to_end" and self.alignment_weight:
            raise ValueError(
                "`alignment_weight` must be 0 in stage 'end_to_end': the compressor is frozen there."
            )

    def _check_together(self) -> None:
        """What needs another option beside it."""
        if self.decay_by_time and self.max_minutes is None:
            raise ValueError("`decay_by_time` needs `max_minutes`: set both or neither.")
        if self.matched_questions < 1:
            raise ValueError(f"`matched_questions` must be at least 1, got {self.matched_questions}.")
        if self.past_passages < 0:
            raise ValueError(f"`past_passages` must be at least 0, got {self.past_passages}.")
        if self.past_passages and not (self.contrastive_weight and self.stage == "pretraining"):
            raise ValueError(
                f"`past_passages` = {self.past_passages} works beside the contrastive loss of pretraining: "
                "set `contrastive_weight` above 0 there, or leave it out."
            )
        if self.retrieval_teacher and not self.contrastive_weight:
            raise ValueError(
                "`retrieval_teacher` works beside the contrastive loss: set `contrastive_weight` above 0."
            )

    def _check_signals(self) -> None:
        unknown = sorted(set(self.signals or {}) - set(SIGNALS))
        if unknown:
            raise ValueError(f"`signals` must map some of {SIGNALS}, got {unknown}.")
        beyond = {name: chance for name, chance in (self.signals or {}).items() if not 0 <= chance <= 1}
        if beyond:
            raise ValueError(f"`signals` must hold chances between 0 and 1, got {beyond}.")

    def _check_rates(self) -> None:
        if any(rate < 1 for rate in self.compression_rates):
            raise ValueError(
                f"`compression_rates` must hold numbers of at least 1, got {self.compression_rates}."
            )

    def _refuse_fsdp_checkpointing(self) -> None:
        launched = os.environ.get("FSDP_ACTIVATION_CHECKPOINTING", "false").lower() in ("1", "true")
        if launched or (self.fsdp_config or {}).get("activation_checkpointing"):
            raise ValueError(
                "FSDP's own `activation_checkpointing` recomputes layers without the adapters they wore, and "
                "gradients would be silently wrong: use the option `activation_checkpointing: true` of "
                "training instead."
            )


def as_mapping(name: str, value: Any) -> dict | None:
    """A mapping, given as one or as JSON on the command line.

    Raises:
        ValueError: If it is neither.
    """
    mapping = json.loads(value) if isinstance(value, str) and value.startswith("{") else value
    if mapping is not None and not isinstance(mapping, dict):
        raise ValueError(f"`{name}` must be a mapping, or one as JSON such as '{{\"a\": 1}}', got {value!r}.")
    return mapping
