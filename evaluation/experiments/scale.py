"""Shapes of Llama-2-70B and Mistral-Large on the meta device, and a trend over sizes that can run.

Models are built without memory for their weights; counted are parameters, from which follow memory per GPU
layout, which sharding fits, and FLOPs (rules in `evaluation/budget.py`). The trend times compression and a
training step of random models of growing size on this machine.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clara.adapters_clara import adapter_parameters
from clara.configuration_clara import ClaraConfig
from clara.modeling_clara import ClaraForRetrievalGeneration
from transformers import LlamaConfig, MistralConfig, PretrainedConfig

from ..budget import (
    Layout,
    Load,
    Shape,
    compression_flops,
    fits,
    memory_bytes,
    training_bytes,
    training_flops,
)
from ..tables import markdown_table

NEEDS_MODEL = False
COMMON = {"num_key_value_heads": 8, "intermediate_size": 28672}
SETTINGS = (
    "compression_rate",
    "documents",
    "document_tokens",
    "prompt_tokens",
    "label_tokens",
    "utilisation",
)
GIGABYTE, H100_FLOPS = 1e9, 989e12
LAYOUTS = {
    "1 x 80 GB, 4-bit base": Layout(1, 80 * GIGABYTE, sharded=False, base_dtype="4-bit"),
    "8 x 80 GB, replicated": Layout(8, 80 * GIGABYTE, sharded=False),
    "8 x 80 GB, sharded": Layout(8, 80 * GIGABYTE, sharded=True),
    "8 x 141 GB, sharded": Layout(8, 141 * GIGABYTE, sharded=True),
    "16 x 80 GB, sharded": Layout(16, 80 * GIGABYTE, sharded=True),
    "64 x 80 GB, sharded": Layout(64, 80 * GIGABYTE, sharded=True),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment's options."""
    parser.add_argument("--compression-rate", type=int, default=16)
    parser.add_argument("--documents", type=int, default=4, help="documents on a GPU in a step (default: 4)")
    parser.add_argument("--document-tokens", type=int, default=256, help="of each (default: 256)")
    parser.add_argument(
        "--prompt-tokens", type=int, default=256, help="prompt and answer of each (default: 256)"
    )
    parser.add_argument("--label-tokens", type=int, default=160, help="of them with loss (default: 160)")
    parser.add_argument("--utilisation", type=float, default=0.45, help="share of peak FLOPs (default: 0.45)")
    parser.add_argument(
        "--widths", type=int, nargs="*", default=[64, 128, 256, 512], help="of the measured models"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="of each timing; the median counts (default: 5)"
    )


def measure(
    arguments: argparse.Namespace, model: ClaraForRetrievalGeneration | None = None
) -> dict[str, Any]:
    """Budgets of the large shapes and the measured trend, as JSON values."""
    load = Load(
        tokens=arguments.documents * (arguments.document_tokens + arguments.prompt_tokens),
        labels=arguments.documents * arguments.label_tokens,
    )
    return {
        "settings": {name: getattr(arguments, name) for name in SETTINGS},
        "load": asdict(load),
        "shapes": {
            name: budget(shape, load, arguments) for name, shape in large_shapes(arguments.compression_rate)
        },
        "trend": [time_model(width, arguments.repeats) for width in arguments.widths],
        "threads": torch.get_num_threads(),
    }


def large_shapes(compression_rate: int) -> list[tuple[str, Shape]]:
    """Llama-2-70B and Mistral-Large-2407 with adapters, counted on the meta device."""
    llama = LlamaConfig(
        vocab_size=32000, hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, **COMMON
    )
    mistral = MistralConfig(
        vocab_size=32768,
        hidden_size=12288,
        num_hidden_layers=88,
        num_attention_heads=96,
        head_dim=128,
        **COMMON,
    )
    configs = {"Llama-2-70B": llama, "Mistral-Large (123B)": mistral}
    return [(name, count_shape(config, compression_rate)) for name, config in configs.items()]


def count_shape(text_config: PretrainedConfig, compression_rate: int) -> Shape:
    """Builds a model on the meta device and counts it."""
    with torch.device("meta"):
        model = build(text_config, compression_rate, torch.bfloat16)
    adapters = {id(parameter) for parameter in adapter_parameters(model.decoder)}
    base = [(n, p.numel()) for n, p in model.decoder.named_parameters() if id(p) not in adapters]
    return Shape(
        base=sum(count for _, count in base),
        layer=sum(count for name, count in base if ".layers.0." in name),
        adapter=sum(parameter.numel() for parameter in adapter_parameters(model.decoder, ["compressor"])),
        layers=text_config.num_hidden_layers,
        width=text_config.hidden_size,
        inner=text_config.intermediate_size,
        vocabulary=text_config.vocab_size,
        memory_tokens=model.config.num_memory_tokens,
    )


def build(
    text_config: PretrainedConfig, compression_rate: int, dtype: torch.dtype
) -> ClaraForRetrievalGeneration:
    """A model of this shape with random weights and fresh adapters, on the default device."""
    config = ClaraConfig(text_config=text_config, compression_rate=compression_rate)
    return ClaraForRetrievalGeneration._from_config(config, dtype=dtype)


def budget(shape: Shape, load: Load, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the shape costs, as JSON values; times are those of one H100 at the given utilisation."""
    speed = arguments.utilisation * H100_FLOPS
    tokens = arguments.document_tokens + arguments.prompt_tokens
    return {
        **asdict(shape),
        "memory_bytes_per_document": memory_bytes(shape),
        "adapter_file_bytes": 2 * shape.adapter,
        "gpu_hours_to_train_on_1m_documents": 1e6 * training_flops(shape, tokens) / speed / 3600,
        "gpu_hours_to_compress_1m_documents": 1e6
        * compression_flops(shape, arguments.document_tokens)
        / speed
        / 3600,
        "layouts": {
            name: {**training_bytes(shape, load, layout), "fits": fits(shape, load, layout)}
            for name, layout in LAYOUTS.items()
        },
    }


def time_model(width: int, repeats: int) -> dict[str, float]:
    """Median seconds of compressing, and of one training step on, 4 texts of 240 tokens."""
    text_config = LlamaConfig(
        vocab_size=2048,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=8,
        num_attention_heads=width // 32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(text_config, 16, torch.float32).eval()
        ids = torch.randint(0, 2048, (4, 240))
    model.set_trainable(["compressor"], memory_tokens=True)
    base = sum(p.numel() for p in model.decoder.parameters() if not p.requires_grad)
    tokens = ids.numel() + 4 * model.config.num_memory_tokens
    seconds = median_seconds(torch.no_grad()(lambda: model.compress(ids).values), repeats)
    step_seconds = median_seconds(lambda: model.compress(ids).values.square().mean().backward(), repeats)
    return {
        "width": width,
        "base": base,
        "compress_seconds": seconds,
        "compress_flops_per_second": 2 * base * tokens / seconds,
        "step_seconds": step_seconds,
        "step_flops_per_second": 4 * base * tokens / step_seconds,
    }


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median wall-clock seconds of a call, after one that does not count."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def exponent(trend: list[Mapping[str, float]], key: str) -> float:
    """Slope of log seconds over log weights: 1 where time grows as the weights do."""
    return float(np.polyfit(np.log([r["base"] for r in trend]), np.log([r[key] for r in trend]), 1)[0])


def render(result: Mapping[str, Any]) -> str:
    """The result as a page."""
    return "\n\n".join(["# Scale", _facts(result), _layouts(result), _trend(result)]) + "\n"


def _facts(result: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            f"{s['base'] / 1e9:.2f} B",
            f"{s['adapter'] / 1e6:.1f} M",
            f"{s['adapter_file_bytes'] / 1e6:.0f} MB",
        ]
        + [f"{s['memory_tokens']} x {s['width']}, {s['memory_bytes_per_document'] / 1024:.0f} KiB"]
        + [
            f"{s['gpu_hours_to_train_on_1m_documents']:,.0f}",
            f"{s['gpu_hours_to_compress_1m_documents']:,.0f}",
        ]
        for name, s in result["shapes"].items()
    ]
    header = ["shape", "base", "one adapter", "its file (bf16)", "memory of a document"]
    header += ["H100 hours, training on 1M documents", "H100 hours, compressing 1M"]
    share = 100 * result["settings"]["utilisation"]
    note = f"Computed, not run; hours at {share:.0f} % of an H100's dense bf16 peak."
    return f"{note}\n\n{markdown_table(header, rows)}"


def _layouts(result: Mapping[str, Any]) -> str:
    rows = [
        [shape, layout]
        + [f"{parts[part] / 1e9:.1f}" for part in ("base", "gathered", "adapters", "activations", "total")]
        + ["yes" if parts["fits"] else "no"]
        for shape, facts in result["shapes"].items()
        for layout, parts in facts["layouts"].items()
    ]
    header = ["shape", "layout", "base", "gathered", "adapters", "activations", "total (GB)", "fits"]
    return (
        f"GB per GPU in training, {result['load']['tokens']} tokens a GPU and step, with activation "
        f"checkpointing, two adapters training:\n\n{markdown_table(header, rows)}"
    )


def _trend(result: Mapping[str, Any]) -> str:
    trend = result["trend"]
    if len(trend) < 2:
        return "No trend was measured."
    rows = [
        [str(row["width"]), f"{row['base'] / 1e6:.2f} M", f"{row['compress_seconds']:.3f}"]
        + [f"{row['compress_flops_per_second'] / 1e9:.1f}", f"{row['step_seconds']:.3f}"]
        + [f"{row['step_flops_per_second'] / 1e9:.1f}"]
        for row in trend
    ]
    header = ["width", "base", "compress (s)", "GFLOP/s", "training step (s)", "GFLOP/s"]
    return (
        f"Measured on this CPU ({result['threads']} threads), 4 texts of 240 tokens. Seconds grow with the "
        f"weights to the power {exponent(trend, 'compress_seconds'):.2f} (compression) and "
        f"{exponent(trend, 'step_seconds'):.2f} (training step).\n\n{markdown_table(header, rows)}"
    )


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Measured seconds over weights, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for key, label in (("compress_seconds", "compression"), ("step_seconds", "training step")):
        axes.loglog(
            [r["base"] for r in result["trend"]], [r[key] for r in result["trend"]], "o-", label=label
        )
    axes.set(xlabel="weights of the base", ylabel="seconds", title="random models on this machine")
    axes.legend()
    figure.savefig(path, dpi=150)
