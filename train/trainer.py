"""ClaraTrainer: transformers' Trainer with CLaRa's losses, bucketed rows, adapter checkpoints and metrics."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler
from transformers import EvalPrediction, TrainerCallback
from transformers.trainer_utils import PredictionOutput

from ..data.collation import RecordDataset
from ..data.records import PretrainingRecord, QuestionRecord
from ..retrieval_clara import cosine_scores
from .answers import answer_all, asked_questions
from .arguments import ClaraTrainingConfig
from .checkpoints import last_complete_checkpoint
from .checks import check_model, checked_collator, every_dataset, row_limit
from .collators import RowCollator
from .controls import control_rows, memory_controls, sample_answers, write_rows
from .curves import CurveCallback
from .groups import WHOLE, Group, counts, own_documents
from .inputs import as_dataset
from .limits import TimedCosine, TimeLimitCallback
from .losses import contrastive_loss, corpus_positives, retrieval_distillation
from .memories import filled, searched
from .metrics import RunningMeans, recall
from .optimizer import master_adamw
from .past import PastPassages, passage_keys
from .resolving import resolve_model
from .sampling import EpochCallback, EpochSampler, order_seed
from .saving import SavingMixin
from .stages import adapter_gradient_norms, begin_stage
from .teachers import RetrievalTeacher
from .throughput import Throughput, device_peak_tflops

Records = Sequence[PretrainingRecord] | Sequence[QuestionRecord]
ANSWER = ("input_ids", "attention_mask", "labels")
TEXTS = ("match_texts", "document_texts", "query_texts")
REFUSED_ARGUMENTS: Mapping[str, str] = MappingProxyType(
    {
        "model_init": "give `model`; a search over settings makes a trainer for each",
        "compute_loss_func": "the stage's losses are the trainer's, weighted by its configuration",
        "preprocess_logits_for_metrics": "no logits are gathered; `compute_metrics` gets generated answers",
        "processing_class": "the model has its processor",
    }
)


class ClaraTrainer(SavingMixin):
    """Trains one stage of a CLaRa model.

    Args:
        model: A model of `ClaraForRetrievalGeneration` with its processor; or the folder or Hub id of a CLaRa
            checkpoint, or of a causal LM for a new model. It is put at the start of the stage.
        args: The configuration; its `stage` decides what trains. Default: pretraining, into "clara-output".
        train_dataset: A `datasets.Dataset` or `IterableDataset`, a list of dictionaries, or records. Columns:
            see `train/inputs.py`; pretraining rows of one document are joined.
        eval_dataset: Rows of the same kind, or a mapping of names to them.
        data_collator: Default: the stage's.
        compute_metrics: Called at each evaluation with an `EvalPrediction` of the generated answers (a
            list of texts) and the accepted ones (a list of lists); gives a mapping of names to numbers.
        callbacks: As in `Trainer`; curves are added.
        corpus: End to end: passages that belong to the corpus beside the rows' candidates.
        peft_config: A `peft.LoraConfig` for the adapters of a new model.
        quantization_config: For a model that is given by its name, as in `from_pretrained`.
        **kwargs: As in `Trainer` (optimizers, optimizer_cls_and_kwargs).

    Raises:
        ValueError: If the model has no processor, lacks an adapter of the stage, a row is bad, an argument
            does not work with CLaRa, or one process would drive several GPUs.
        TypeError: If rows are of no kind that is known.
        FloatingPointError: While training, if a loss or a gradient is not finite; the message names the rows.
    """

    _tag_names = ("clara", "rag", "trl")

    def __init__(
        self,
        model: Any,
        args: ClaraTrainingConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        data_collator: Callable | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        corpus: Sequence[str] = (),
        peft_config: Any = None,
        quantization_config: Any = None,
        **kwargs: Any,
    ) -> None:
        args = ClaraTrainingConfig("clara-output") if args is None else args
        check_arguments(args, kwargs, compute_metrics)
        train = as_dataset(train_dataset, args.stage, "train_dataset", row_limit(args))
        held_out = as_dataset(eval_dataset, args.stage, "eval_dataset")
        model = resolve_model(model, args.model_init_kwargs, peft_config, quantization_config)
        check_model(model, args)
        self._ranks_only = begin_stage(model, args)
        self._own_collator = data_collator is None
        collator = data_collator or checked_collator(model, args, every_dataset(train, held_out), corpus)
        self._candidates = getattr(collator, "candidates", None)
        self._teacher, self._teacher_vectors, self._answering = None, None, False
        self._means = {"train": RunningMeans(), "eval": RunningMeans()}
        self._throughput, self._epochs = Throughput(model), EpochCallback()
        self._rows, self._group, self._past = [], Group({}), PastPassages(args.past_passages)
        with adapters_known(model):
            super().__init__(
                model=model,
                args=args,
                data_collator=RowCollator(collator),
                train_dataset=train,
                eval_dataset=held_out,
                compute_metrics=compute_metrics,
                callbacks=[self._epochs, CurveCallback(), *own_callbacks(args), *(callbacks or [])],
                **kwargs,
            )
        self._settle()

    def _settle(self) -> None:
        """What the run is, tags; memories and teacher go to the device, of a corpus the teacher's vectors."""
        self.run_facts = searched(self.args, self._candidates)
        self.model.add_model_tags(list(self._tag_names))
        del self.model.config.use_cache  # set by Trainer; ClaraConfig has no such field, and passes say it
        if self.args.retrieval_teacher:
            self._teacher = RetrievalTeacher(self.args.retrieval_teacher, self.args.device)
        self._place_candidates()

    def _place_candidates(self) -> None:
        if self._candidates is not None:
            self._candidates = self._candidates.to(self.args.device)
            if self._teacher is not None:
                self._teacher_vectors = self._teacher.embed(self._candidates.texts)

    # Data and optimizer

    def _get_train_sampler(self, train_dataset: RecordDataset | None = None) -> Sampler:
        args = self.args
        step = args.train_batch_size * args.gradient_accumulation_steps * max(1, args.world_size)
        dataset = train_dataset or self.train_dataset
        self._epochs.sampler = EpochSampler(dataset, step, args.bucket_by_length, order_seed(args))
        return self._epochs.sampler

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The one of `optim`; AdamW has float32 masters for parameters of a lower precision.

        DeepSpeed has its own masters.

        Raises:
            ValueError: If `optim` is no AdamW and would lose updates of parameters of a lower precision.
        """
        if not self.is_deepspeed_enabled and self.optimizer is None and self.optimizer_cls_and_kwargs is None:
            self.optimizer_cls_and_kwargs = master_adamw(self.model, self.args)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As in `Trainer`; with `decay_by_time` a cosine over the minutes of this command."""
        args = self.args
        if args.decay_by_time and self.lr_scheduler is None:
            factor = TimedCosine(
                args.max_minutes, num_training_steps, args.get_warmup_steps(num_training_steps)
            )
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
        return super().create_scheduler(num_training_steps, optimizer)

    # Loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The stage's weighted loss; see `ClaraTrainingConfig`.

        The answer's loss is divided by the labels of the whole optimizer step on all devices
        (`num_items_in_batch`); losses that are means over documents or questions count by the share of the
        step's documents or questions that this batch has, so 1 x 8 equals 8 x 1.
        """
        rows, positives = inputs.pop("rows").tolist(), inputs.pop("positives", None)
        own = inputs.pop("match_indices", None)
        texts = {name: inputs.pop(name, None) for name in TEXTS}
        indices = inputs.pop("candidate_indices", None)
        if indices is not None:
            indices, positives = self._pools(inputs, indices, positives)
        if self._ranks_only and self.model.training:  # no pass through the generator
            inputs = {key: inputs[key] for key in inputs if key not in ANSWER}
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        if own is not None:
            positives = own_documents(own, inputs["document_input_ids"], inputs["document_attention_mask"])
        grouped = self.model.training and num_items_in_batch is not None
        shares = self._group.shares(inputs, positives) if grouped else WHOLE
        others = self._other_losses(inputs, outputs, positives, (texts, indices, own), shares)
        loss = self._answer_loss(outputs, num_items_in_batch) + others
        if not torch.isfinite(loss):
            self._stop(f"The loss is {loss.item()}", rows)
        if self.model.training:
            self._rows += rows
            self._throughput.add(inputs)
        self._note(inputs, outputs, positives)
        return (loss, outputs) if return_outputs else loss

    def _pools(self, inputs: dict, indices: Tensor, positives: Tensor) -> tuple[Tensor, Tensor]:
        """Puts the candidates' memories into the inputs; fills pools from the corpus if asked for."""
        args, candidates = self.args, self._candidates
        if args.pool_size:
            with torch.no_grad():
                query = self.model.reason(inputs["query_input_ids"], inputs["query_attention_mask"])
                close = cosine_scores(self.model.search_vectors(query), candidates.vectors)
            found = close.topk(min(args.pool_size, len(candidates.vectors)), dim=-1).indices
            given = (indices, inputs["memory_mask"], positives)
            indices, inputs["memory_mask"], positives = filled(*given, found, args.pool_size)
        inputs |= candidates.batch(indices, self.model.config.num_memory_tokens)
        if args.positives_are_read:
            inputs["wanted"] = positives
        return indices, positives

    def _answer_loss(self, outputs: Any, num_items: Tensor | int | None) -> Tensor | float:
        if outputs.loss is None:
            return 0.0
        everywhere = num_items is not None and self.args.average_tokens_across_devices
        return self.args.generation_weight * outputs.loss * (self.args.world_size if everywhere else 1)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | int | None]:
        """As in `Trainer`; counts also the documents and questions of the optimizer step."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        everywhere = self.args.world_size > 1 and self.args.average_tokens_across_devices
        self._group = Group.of(batches, device, self.accelerator if everywhere else None)
        return batches, num_items

    def _other_losses(
        self,
        inputs: dict,
        outputs: Any,
        positives: Tensor | None,
        given: tuple[dict, Tensor | None, Tensor | None],
        shares: Mapping[str, float],
    ) -> Tensor | float:
        args, total = self.args, 0.0
        if outputs.alignment_loss is not None:
            total = total + shares["documents"] * args.alignment_weight * outputs.alignment_loss
        if not args.contrastive_weight:
            return total
        scores = outputs.scores if outputs.match_scores is None else outputs.match_scores
        if scores is None:
            return total
        texts, indices, own = given
        mask, temperature = inputs.get("memory_mask"), self.model.config.retrieval_temperature
        teacher = self._teacher_scores(texts, indices)
        if args.contrastive_candidates == "corpus" and indices is not None:
            scores = cosine_scores(outputs.query_vectors, self._candidates.vectors)
            positives, mask = corpus_positives(indices, positives, scores.shape), None
        found = self._with_past(inputs, outputs, (scores, positives, mask), own)
        extra = contrastive_loss(found[0], found[1], temperature, found[2], args.contrastive_positives)
        total = total + shares["questions"] * args.contrastive_weight * extra
        if teacher is not None:
            if mask is not None:
                scores, teacher = (part.masked_fill(~mask, -1e4) for part in (scores, teacher))
            divergence = retrieval_distillation(scores, teacher, temperature)
            self._note_means(
                {"contrastive_loss": float(extra.detach()), "teacher_loss": float(divergence.detach())}
            )
            total = total + shares["rows"] * args.retrieval_teacher_weight * divergence
        return total

    def _with_past(self, inputs: dict, outputs: Any, found: tuple, own: Tensor | None) -> tuple:
        """Scores, positives and mask of a pretraining batch (Q, D), with the passages of past batches."""
        if own is None or not self.args.past_passages or not self.model.training:
            return found
        scores, positives, _ = found
        keys = passage_keys(inputs["document_input_ids"], inputs["document_attention_mask"])
        if len(self._past):
            past, others = self._past.scores(outputs.query_vectors, [keys[i] for i in own.tolist()])
            mask = torch.cat([torch.ones_like(positives), others], dim=-1)
            positives = torch.cat([positives, torch.zeros_like(others)], dim=-1)
            found = torch.cat([scores, past], dim=-1), positives, mask
        self._past.push(keys, outputs.document_vectors)
        return found

    def _save_rng_state(self, output_dir: str) -> None:
        """As in `Trainer`; each process saves its passages of past batches beside."""
        super()._save_rng_state(output_dir)
        if self.args.past_passages:  # also none yet: a resume reads them back
            self._past.save(output_dir, self.args.process_index)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint and self.args.past_passages:
            self._past.load(checkpoint, self.args.process_index)

    def _teacher_scores(self, texts: dict[str, list[str] | None], indices: Tensor | None) -> Tensor | None:
        """The teacher's cosines of the batch's questions with the batch's passages, a pool or the corpus."""
        if self._teacher is None:
            return None
        if indices is None:
            return self._teacher.scores(texts["match_texts"], texts["document_texts"])
        questions = self._teacher.embed(texts["query_texts"])
        if self.args.contrastive_candidates == "corpus":
            return questions @ self._teacher_vectors.T
        return torch.einsum("bd,bnd->bn", questions, self._teacher_vectors[indices])

    def _stop(self, found: str, rows: list[int]) -> None:
        last = last_complete_checkpoint(self.args.output_dir)
        kept = f"{last} is from before it" if last else "there is no checkpoint yet"
        data = "training" if self.model.training else "evaluation"
        raise FloatingPointError(
            f"{found} at step {self.state.global_step}, rows {rows} of the {data} data: look at these rows, "
            f"or lower the learning rate; {kept}."
        )

    # Metrics

    def _note_means(self, values: dict[str, float]) -> None:
        self._means["train" if self.model.training else "eval"].add(values)

    def _note(self, inputs: dict, outputs: Any, positives: Tensor | None) -> None:
        means = self._means["train" if self.model.training else "eval"]
        if outputs.alignment_loss is not None:
            means.add({"alignment_loss": float(outputs.alignment_loss.detach())}, counts(inputs)["documents"])
        if outputs.match_scores is not None:
            values, count = recall(outputs.match_scores, positives)
            means.add({f"match_{name}": value for name, value in values.items()}, count)
        if outputs.scores is not None and positives is not None:
            mask = inputs.get("memory_mask")
            values, count = recall(outputs.scores, positives, mask)
            means.add(values, count)
            width = positives.shape[-1] if mask is None else float(mask.sum(-1).float().mean())
            means.add({"pool_size": width}, len(positives))

    def _clip_grad_norm(self, model: Any) -> Any:
        self._note_gradients()
        return super()._clip_grad_norm(model)

    def _note_gradients(self) -> None:
        if (self.state.global_step + 1) % max(1, int(self.args.logging_steps)):
            return
        norms = adapter_gradient_norms(self.model)
        self._means["train"].add({f"grad_norm/{name}": norm for name, norm in norms.items()})

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The norm before clipping; stops before the optimizer's step if it is not finite."""
        if grad_norm is None:
            self._note_gradients()
        norm = super()._get_grad_norm(model, grad_norm)
        rows, self._rows = self._rows, []
        if norm is not None and not self.args.fp16 and not math.isfinite(float(norm)):
            self._stop(f"The gradient's norm is {float(norm)}", rows)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a training log the stage's metrics, tokens per second and model FLOP utilisation."""
        if "loss" in logs:
            logs.update(self._means["train"].pop(self._gather))
            peak = self.args.peak_tflops or device_peak_tflops(self.args.device)
            logs.update(self._throughput.pop(peak))
        super().log(logs, start_time)

    def _gather(self, values: list) -> list:
        return gather_object(values) if self.args.world_size > 1 else values

    # Evaluation

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in `Trainer`; `eval_dataset` may be rows of any kind that the trainer takes."""
        with self._reading(eval_dataset, "eval_dataset") as rows:
            return super().evaluate(rows, *args, **kwargs)

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> PredictionOutput:
        """Generated answers as `predictions`, the accepted ones as `label_ids`, and the metrics."""
        check_answers(self.args, "predict")
        with self._reading(test_dataset, "test_dataset") as rows:
            self._answering = True
            try:
                return super().predict(rows, *args, **kwargs)
            finally:
                self._answering = False

    @contextmanager
    def _reading(self, rows: Any, name: str) -> Iterator[Any]:
        """Rows as a dataset; new ones are checked, and their candidates compressed."""
        known = every_dataset(self.train_dataset, self.eval_dataset)
        plain = rows is None or isinstance(rows, (str, Mapping)) or any(rows is one for one in known)
        if plain or not self._own_collator:
            yield rows if plain else as_dataset(rows, self.args.stage, name)
            return
        dataset = as_dataset(rows, self.args.stage, name)
        collator = checked_collator(self.model, self.args, [dataset], stored=False)
        before = self.data_collator, self._candidates, self._teacher_vectors
        self.data_collator = RowCollator(collator)
        self._candidates = getattr(collator, "candidates", None)
        self._place_candidates()
        try:
            yield dataset
        finally:
            self.data_collator, self._candidates, self._teacher_vectors = before

    def evaluation_loop(
        self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> Any:
        """As in `Trainer`, with the stage's metrics, controls, sample answers and `compute_metrics`."""
        records = dataloader.dataset.records
        compute, self.compute_metrics = self.compute_metrics, None
        try:
            with self._throughput.paused():
                output = super().evaluation_loop(
                    dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs
                )
                found = {**self._means["eval"].pop(self._gather), **self._controls(records)}
                if self._answering or compute is not None:
                    answers, accepted = self._answers(records)
                    output = output._replace(predictions=answers, label_ids=accepted)
                    found |= {} if compute is None else compute(EvalPrediction(answers, accepted))
        finally:
            self.compute_metrics = compute
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output

    def _answers(self, records: Records) -> tuple[list[str], list[list[str]]]:
        """Generated and accepted answers to every question of the records; each process answers its share."""
        args = self.args
        asked = asked_questions(records, args.stage, args.documents_per_question)
        places = range(args.process_index, len(asked), max(1, args.world_size))
        own = answer_all(self.model, [asked[i] for i in places], args.stage, args.per_device_eval_batch_size)
        answers = dict(self._gather(list(zip(places, own, strict=True))))
        return [answers[i] for i in range(len(asked))], [one.answers for one in asked]

    def _controls(self, records: Records) -> dict[str, float]:
        """Answer loss by memory; writes `memory_controls.jsonl` and `samples.jsonl` in the output folder."""
        rows, losses = control_rows(records), {}
        if self.args.controls and len(rows) > 1:
            losses = memory_controls(self.model, rows)
            self._write("memory_controls.jsonl", [losses])
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.args.samples and rows and not sharded:
            self._write("samples.jsonl", sample_answers(self.model, rows[: self.args.samples]))
        return {f"loss/{name}": value for name, value in losses.items()}

    def _write(self, name: str, rows: list[dict]) -> None:
        if self.is_world_process_zero():
            write_rows(os.path.join(self.args.output_dir, name), self.state.global_step, rows)


def own_callbacks(args: ClaraTrainingConfig) -> list[TrainerCallback]:
    """What the configuration asks for: a limit of time, TRL's live panel of progress and logs."""
    callbacks: list[TrainerCallback] = []
    if args.max_minutes is not None:
        callbacks.append(TimeLimitCallback(args.max_minutes))
    if args.rich_progress:
        from trl import RichProgressCallback

        callbacks.append(RichProgressCallback())
    return callbacks


def check_arguments(args: Any, kwargs: Mapping[str, Any], compute_metrics: Any) -> None:
    """Checks the arguments of the trainer itself.

    Raises:
        TypeError: If the configuration is another trainer's.
        ValueError: If an argument would change nothing.
    """
    if not hasattr(args, "stage"):
        raise TypeError(
            f"`args` must be a `ClaraTrainingConfig`, got {type(args).__name__}: it takes the same fields."
        )
    for name, value in kwargs.items():
        if name in REFUSED_ARGUMENTS and value is not None:
            raise ValueError(f"`{name}` does not work with CLaRa: {REFUSED_ARGUMENTS[name]}. Leave it out.")
    if compute_metrics is not None:
        check_answers(args, "compute_metrics")


def check_answers(args: Any, name: str) -> None:
    """Raises a `ValueError` if answers are asked for that a sharded model cannot generate."""
    if args.fsdp or args.deepspeed or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true"):
        raise ValueError(
            f"`{name}` needs generated answers, which a sharded model cannot give: evaluate the final "
            "checkpoint on one device."
        )


@contextmanager
def adapters_known(model: Any) -> Iterator[None]:
    """Lets `Trainer` see that a quantised model has adapters: it looks for a flag on the model itself."""
    model._hf_peft_config_loaded = True
    try:
        yield
    finally:
        del model._hf_peft_config_loaded
