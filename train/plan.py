"""What a training run would take: parameters, memory by part, tokens, hours and cost; nothing is loaded.

One micro-batch runs through the real modules on fake tensors, and every storage that they would hold is
counted: activations and logits are those of the base's own layers, whatever its architecture. Weights,
gradients and optimizer follow from the parameters. Lengths are those that the options allow at most.
"""

import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from ..adapters_clara import wearing
from ..checkpoint_clara import base_path
from ..configuration_clara import ClaraConfig
from ..modeling_clara import ClaraForRetrievalGeneration
from .arguments import ClaraTrainingConfig
from .optimizer import LOW_PRECISION
from .recipe import ScriptArguments, parse_arguments
from .stages import prepare_stage
from .throughput import PEAK_TFLOPS, StepFlops

GIGABYTE = 1e9
# The shapes of bases that recipes and papers use, for a machine without network.
SHAPES: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "mistralai/Mistral-7B-Instruct-v0.2": (
            "mistral",
            {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
             "num_attention_heads": 32, "num_key_value_heads": 8, "sliding_window": None},
        ),
        "microsoft/Phi-4-mini-instruct": (
            "phi3",
            {"vocab_size": 200064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
             "num_attention_heads": 24, "num_key_value_heads": 8, "tie_word_embeddings": True,
             "partial_rotary_factor": 0.75, "pad_token_id": 199999},
        ),
        "meta-llama/Meta-Llama-3-70B-Instruct": (
            "llama",
            {"vocab_size": 128256, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
             "num_attention_heads": 64, "num_key_value_heads": 8},
        ),
    }
)  # fmt: skip
# Bytes of a weight: NF4 has 4 bits and, quantised twice, 0.127 bits of scales.
QUANTIZED_BYTES = {"load_in_4bit": 4.127 / 8, "load_in_8bit": 1.0}
# Memory, and dollars an hour where GPUs are rented (an assumption: prices change).
GPUS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "4090": (24, 0.5),
        "A10": (24, 0.8),
        "L40S": (48, 1.2),
        "A100": (80, 1.8),
        "H100": (80, 2.8),
        "H200": (141, 3.5),
    }
)
# Share of a GPU's memory that tensors may use, and of its peak that training reaches (an assumption).
USABLE, UTILISATION = 0.92, 0.35
# Tokens of a prompt beside memories, question and answer; of a question; of a short answer.
FRAME, QUESTION, ANSWER = 64, 32, 32


@dataclass(frozen=True)
class Load:
    """One micro-batch of one device.

    Attributes:
        documents: Documents that are compressed.
        document_tokens: Tokens of each.
        queries: Questions that are encoded, `QUESTION` tokens each.
        prompts: Prompts that the generator reads.
        prompt_tokens: Tokens of each, slots and answer included.
        labels: Labelled tokens of all.
    """

    documents: int
    document_tokens: int
    queries: int
    prompts: int
    prompt_tokens: int
    labels: int


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that are alive, real or fake.

    Args:
        known: Tensors that do not count.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs an operation and counts what it made."""
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._known:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        size = storage.nbytes()
        self._known.add(storage)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.live -= size


def make_plan(stage: str, options: Sequence[str]) -> str:
    """The plan of a training command as text."""
    folder = [] if "--output_dir" in options else ["--output_dir", "plan"]
    script, args = parse_arguments([*options, *folder, "--stage", stage, "--use_cpu", "True"])
    model = planned_model(script, args)
    load = planned_load(args, model.config)
    parts = memory_parts(model, load, script)
    tokens = step_tokens(load)
    return "\n".join([*_head(script, model, load, parts, tokens), *_gpus(script, args, model, load, parts)])


def planned_model(script: ScriptArguments, args: ClaraTrainingConfig) -> nn.Module:
    """The model of a run at the start of its stage, without any data (meta tensors)."""
    fields = script.model_fields or {}
    if script.model is not None:
        config = ClaraConfig.from_pretrained(os.path.expanduser(script.model), **fields)
    else:
        config = ClaraConfig(
            text_config=base_config(script.base), base_model_name_or_path=script.base, **fields
        )
    dtype = getattr(torch, script.dtype) if script.dtype else torch.float32
    with torch.device("meta"):
        model = ClaraForRetrievalGeneration._from_config(config, dtype=dtype)
    prepare_stage(model, args.stage, {}, 0, args.frozen)
    if args.activation_checkpointing or args.gradient_checkpointing:
        model.activation_checkpointing_enable()
    return model.train()


def base_config(base: str) -> PreTrainedConfig:
    """The configuration of a base; of `SHAPES` where it cannot be read.

    Raises:
        OSError: If it can be read from nowhere.
    """
    try:
        return AutoConfig.from_pretrained(base_path(os.path.expanduser(base)))
    except OSError:
        if base not in SHAPES:
            raise
        kind, fields = SHAPES[base]
        return CONFIG_MAPPING[kind](**fields)


def planned_load(args: ClaraTrainingConfig, config: ClaraConfig) -> Load:
    """The longest micro-batch that the options allow."""
    rows, size = args.per_device_train_batch_size, config.num_memory_tokens
    if args.stage == "pretraining":
        chances = args.signals or dict.fromkeys(("questions_and_answers", "answer", "paraphrase"), 1.0)
        each = sum(chance * (args.max_answers if name == "answer" else 1) for name, chance in chances.items())
        prompts = max(1, round(rows * each))
        labels = prompts * args.target_max_length
        return Load(rows, config.doc_max_length, 0, prompts, FRAME + size + args.target_max_length, labels)
    k = args.documents_per_question if args.stage == "instruction_tuning" else config.retrieval_top_k
    prompt = FRAME + k * size + QUESTION + ANSWER
    if args.stage == "instruction_tuning":
        return Load(rows * k, config.doc_max_length, 0, rows, prompt, rows * ANSWER)
    return Load(0, config.doc_max_length, rows, rows, prompt, rows * ANSWER)


def step_tokens(load: Load) -> int:
    """Tokens of a micro-batch that pass through the base."""
    return load.documents * load.document_tokens + load.queries * QUESTION + load.prompts * load.prompt_tokens


def memory_parts(model: nn.Module, load: Load, script: ScriptArguments | None = None) -> dict[str, float]:
    """Bytes on one device at the peak of a step, by part.

    Args:
        model: A CLaRa model at the start of its stage; its parameters may be meta tensors.
        load: The micro-batch.
        script: How the base is loaded (4 or 8 bits).
    """
    parameters = dict(model.named_parameters())
    adapters = {name: p for name, p in parameters.items() if ".lora_" in name or "." not in name}
    trained = [p for p in parameters.values() if p.requires_grad]
    activations, logits = simulated_bytes(model, load)
    return {
        "base": base_bytes(model, script),
        "adapters": float(sum(p.nbytes for p in adapters.values())),
        "gradients": float(sum(p.nbytes for p in trained)),
        "optimizer": float(sum(p.numel() * (12 if p.dtype in LOW_PRECISION else 8) for p in trained)),
        "activations": activations,
        "logits": logits,
    }


def base_bytes(model: nn.Module, script: ScriptArguments | None) -> float:
    """Bytes of the base's weights; of a quantised one the linear layers of its body are smaller."""
    small = next(
        (QUANTIZED_BYTES[name] for name in QUANTIZED_BYTES if script and getattr(script, name)), None
    )
    head = model.decoder.get_output_embeddings().weight
    linear = [
        module.weight
        for name, module in model.decoder.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name and module.weight is not head
    ]
    inner = {id(weight) for weight in linear} if small else set()
    total = 0.0
    for name, parameter in model.decoder.named_parameters():
        if ".lora_" not in name:
            total += parameter.numel() * small if id(parameter) in inner else parameter.nbytes
    widest = max((weight.nbytes for weight in linear), default=0)
    return total + (2 * widest if small else 0)  # weights are unpacked when they are used


def simulated_bytes(model: nn.Module, load: Load) -> tuple[float, float]:
    """Peak bytes of activations, and what logits and their loss add, of one forward and backward pass.

    The parameters of the model are replaced by fake ones where they hold no data.
    """
    fake, made = FakeTensorMode(allow_non_fake_inputs=True), {}
    with fake:
        for module in model.modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        made[id(tensor)] = table[name] = made.get(id(tensor), _fake(tensor))  # tied ones stay
        known = [*model.parameters(), *model.buffers()]
        with LiveBytes(known) as live:
            states = _forward(model, load)
            before = live.live
            head = model.decoder.get_output_embeddings()
            logits = head(states[: load.labels].unsqueeze(0))[0]
            targets = torch.zeros(load.labels, dtype=torch.long)
            loss = functional.cross_entropy(logits.float(), targets, reduction="sum") / load.labels
            del logits, states
            loss.backward()
            gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    return float(before), float(max(0, live.peak - before - gradients))


def _fake(tensor: Tensor) -> Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    return (
        nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    )


def _forward(model: nn.Module, load: Load) -> Tensor:
    """States (tokens, H) of the generator over prompts that hold what was compressed."""
    found = torch.zeros((), dtype=model.dtype)
    for adapter, count, length in (
        (model.compress, load.documents, load.document_tokens),
        (model.reason, load.queries, QUESTION),
    ):
        if count:
            ids = torch.ones(count, length, dtype=torch.long)
            memories = adapter(ids, torch.ones(count, length, dtype=torch.long))
            found = found + memories.values.sum().to(model.dtype)
    ids = torch.ones(load.prompts, load.prompt_tokens, dtype=torch.long)
    embeds = model.get_input_embeddings()(ids) + found
    mask = torch.ones(load.prompts, load.prompt_tokens, dtype=torch.long)
    with wearing(model.decoder, "generator"):
        body = model.decoder.base_model
        return body(inputs_embeds=embeds, attention_mask=mask, use_cache=False).last_hidden_state.flatten(
            0, 1
        )


def planned_rows(script: ScriptArguments) -> int | None:
    """Rows of local files, at most `train_limit`; None if they cannot be counted here."""
    files = [Path(file).expanduser() for file in [*script.train_files, *script.corpus_files]]
    if not all(file.suffix == ".jsonl" and file.is_file() for file in files):
        return script.train_limit
    count = 0
    for file in files:
        with file.open("rb") as lines:
            count += sum(1 for line in lines if line.strip())
    return min(count, script.train_limit or count)


def step_flops(args: ClaraTrainingConfig, model: nn.Module, load: Load) -> float:
    """Operations of a micro-batch: 4 a weight and token, 6 with recomputation; and of the head."""
    flops = StepFlops(model)
    factor = 6 if args.activation_checkpointing or args.gradient_checkpointing else 4
    return factor * flops.body * step_tokens(load) + 4.0 * flops.head * load.labels


def _head(
    script: ScriptArguments, model: nn.Module, load: Load, parts: Mapping[str, float], tokens: int
) -> list[str]:
    counted = {name: sum(p.numel() for p in group) for name, group in _groups(model).items()}
    lines = [f"{name:<24}{count:>16,}" for name, count in counted.items()]
    memory = [f"  {name:<22}{size / GIGABYTE:>12.2f} GB" for name, size in parts.items()]
    return [
        f"base: {script.base or script.model}",
        "parameters",
        *(f"  {line}" for line in lines),
        f"micro-batch: {load.documents} documents of {load.document_tokens} tokens, {load.prompts} prompts "
        f"of {load.prompt_tokens}, {load.labels} labelled; {tokens:,} tokens",
        "memory on one device, at the longest rows",
        *memory,
        f"  {'total':<22}{sum(parts.values()) / GIGABYTE:>12.2f} GB",
    ]


def _groups(model: nn.Module) -> dict[str, list[Tensor]]:
    named = list(model.named_parameters())
    return {
        "base": [p for n, p in named if n.startswith("decoder.") and ".lora_" not in n],
        "adapters": [p for n, p in named if ".lora_" in n or not n.startswith("decoder.")],
        "of them trained": [p for _, p in named if p.requires_grad],
    }


def _gpus(
    script: ScriptArguments,
    args: ClaraTrainingConfig,
    model: nn.Module,
    load: Load,
    parts: Mapping[str, float],
) -> list[str]:
    """Where it fits, how long it takes there, and what that costs."""
    per_row = step_flops(args, model, load) / args.per_device_train_batch_size
    rows = planned_rows(script)
    seen = 1000 if rows is None else round(rows * args.num_train_epochs)
    if args.max_steps > 0:
        seen = args.max_steps * args.per_device_train_batch_size * args.gradient_accumulation_steps
    lines = [
        f"{seen:,} rows at the longest, {100 * UTILISATION:.0f} % of a GPU's peak and these prices "
        "(assumptions); N GPUs take an Nth of the hours"
    ]
    for name, (size, price) in GPUS.items():
        fits = sum(parts.values()) <= USABLE * size * GIGABYTE
        hours = per_row * seen / (UTILISATION * PEAK_TFLOPS[name] * 1e12) / 3600
        told = f"{hours:>9.2f} h {hours * price:>9.2f} $ at {price} $/h" if fits else "  does not fit"
        lines.append(f"  {name:<6}{size:>4.0f} GB {told}")
    if not any("$ at" in line for line in lines):
        lines.append(
            "it fits nowhere: set `activation_checkpointing`, a smaller `per_device_train_batch_size` (with "
            "more `gradient_accumulation_steps`) or `load_in_4bit`, or shard it with train/accelerate"
        )
    return lines
