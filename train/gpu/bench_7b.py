"""A model of Mistral-7B's shape with random weights on one GPU: training steps, compression, answering.

Writes one JSON object: tokens a second, model FLOP utilisation, seconds, peak bytes. Shapes alone matter.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MistralConfig

from ...configuration_clara import ClaraConfig
from ...modeling_clara import ClaraForRetrievalGeneration
from ...prompts_clara import SLOT_ID
from ..stages import prepare_stage
from ..throughput import StepFlops, device_peak_tflops


def make_model(layers: int) -> Any:
    """Random bf16 weights on the GPU, adapters of the paper's rank."""
    text = MistralConfig(
        num_hidden_layers=layers, max_position_embeddings=4096, sliding_window=None, pad_token_id=2
    )
    config = ClaraConfig(text_config=text, compression_rate=16, pooling="mean", lora_dropout=0.0)
    with torch.device("cuda"):
        return ClaraForRetrievalGeneration._from_config(config, dtype=torch.bfloat16).cuda()


def batch(documents: int, length: int, answer: int) -> dict[str, Tensor]:
    """A pretraining batch: one prompt a document, its slots, a question's worth of ids and an answer."""
    slots, question = length // 16, 48
    ids = torch.randint(5, 30000, (documents, question + slots + answer), device="cuda")
    ids[:, 8 : 8 + slots] = SLOT_ID
    labels = torch.full_like(ids, -100)
    labels[:, -answer:] = ids[:, -answer:]
    documents_ids = torch.randint(5, 30000, (documents, length), device="cuda")
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "document_input_ids": documents_ids,
        "document_attention_mask": torch.ones_like(documents_ids),
    }


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call, the device waited for, after one to warm up."""
    call()
    found = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def training(model: Any, given: argparse.Namespace, checkpointing: bool) -> dict[str, float]:
    """Forward and backward pass of pretraining."""
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    inputs = batch(given.documents, 256, 64)
    torch.cuda.reset_peak_memory_stats()

    def step() -> None:
        model(**inputs).loss.backward()
        model.zero_grad()

    took, flops = seconds(step, given.repeats), StepFlops(model)
    peak = device_peak_tflops(torch.device("cuda")) or float("nan")
    return {
        "seconds": took,
        "tokens_per_second": flops.tokens(inputs) / took,
        "mfu": flops(inputs) / took / 1e12 / peak,
        "peak_bytes": torch.cuda.max_memory_allocated(),
    }


@torch.no_grad()
def answering(model: Any, given: argparse.Namespace) -> dict[str, float]:
    """Compression of a batch, and 32 new tokens for one question from five memories."""
    model.eval()
    inputs = batch(given.documents, 256, 64)
    took = seconds(lambda: model.compress(inputs["document_input_ids"]), given.repeats)
    embeds = torch.randn(1, 48 + 5 * 16, model.config.get_text_config().hidden_size, device="cuda").bfloat16()
    options = {"max_new_tokens": 32, "min_new_tokens": 32, "do_sample": False, "pad_token_id": 2}
    mask = torch.ones(embeds.shape[:2], dtype=torch.long, device="cuda")
    return {
        "compression_tokens_per_second": given.documents * 256 / took,
        "answer_seconds": seconds(lambda: model._generate_from(embeds, mask, **options), given.repeats),
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    model = make_model(given.layers)
    prepare_stage(model, "pretraining")
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "layers": given.layers,
        **answering(model, given),
    }
    found["training"] = training(model, given, checkpointing=False)
    found["training_checkpointed"] = training(model, given, checkpointing=True)
    given.output.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
