"""Trains compressor, query reasoner and generator at once on one GPU, a captured graph a step.

```bash
python -m clara.train.gpu.train --data rows.npz --base BASE --start CHECKPOINT --output OUT --minutes 9
```

The learning rate falls to 0 as the time ends. `OUT/final` is a checkpoint of the last adapters, `OUT/mean`
one of their running mean.
"""

import argparse
import json
import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader

from .batches import Batches, Builder, Data, packed_passages
from .step import ADAPTERS, Adapter, Base, Model, Shape

logger = logging.getLogger(__name__)
WEIGHTS = "adapter_model.safetensors"
AHEAD, SAVE_SHARE = 4, 0.25  # steps of the host before the GPU; share of the time between two checkpoints
KINDS = ("one", "several", "missing", "copy")


def load(given: argparse.Namespace, passages: int, shape: Shape, device: torch.device) -> Model:
    """The model that a checkpoint's adapters and the base make."""
    config = json.loads((given.start / "config.json").read_text())
    state = load_file(given.base / "model.safetensors")
    base = Base.read(state, config["text_config"], device, torch.bfloat16)
    layers, scaling = config["text_config"]["num_hidden_layers"], config["lora_alpha"] / config["lora_r"]
    adapters = {name: Adapter(load_file(given.start / name / WEIGHTS), layers, scaling) for name in ADAPTERS}
    gain = load_file(given.start / "model.safetensors")["memory_gain"]
    both = given.direction == "bidirectional"
    return Model(base, adapters, gain, passages, shape, both, given.search_weight).to(device)


def save(model: Model, values: dict[str, Tensor], start: Path, output: Path, direction: str) -> None:
    """A checkpoint with these values of the parameters, in bfloat16, beside the start's other files."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])
        shutil.copytree(start, output, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.py"))
        for name, adapter in model.adapters.items():
            state = {key: value.bfloat16().cpu() for key, value in adapter.state().items()}
            save_file(state, output / name / WEIGHTS, metadata={"format": "pt"})
        gain = {"memory_gain": model.gain.detach().bfloat16().cpu()}
        save_file(gain, output / "model.safetensors", metadata={"format": "pt"})
        for name, parameter in model.named_parameters():
            parameter.copy_(before[name])
    config = json.loads((start / "config.json").read_text()) | {"encoder_attention": direction}
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def tensors(batch: dict[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """The arrays of a batch on a device."""
    return {name: torch.from_numpy(value).to(device) for name, value in batch.items()}


def _as_it_is(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """In place of the loader's conversion to shared tensors, each of which would be an open file."""
    return batch


class Step:
    """Forward and backward pass of a batch: captured after three calls on a GPU, plainly where it fails."""

    def __init__(self, model: Model, device: torch.device) -> None:
        self.model, self.device = model, device
        self.batch: dict[str, Tensor] = {}
        self.out: dict[str, Tensor] = {}
        self.graph: Any = None
        self.calls, self.captures = 0, device.type == "cuda"

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Tensor]:
        """Leaves the gradients in the parameters; returns the losses."""
        if not self.batch:
            self.batch = tensors(batch, self.device)
        for name, value in batch.items():
            found = torch.from_numpy(value)
            found = found.pin_memory() if self.device.type == "cuda" else found
            self.batch[name].copy_(found, non_blocking=True)
        self.calls += 1
        if self.calls == 4 and self.captures:
            self._capture()
        if self.graph is not None:
            self.graph.replay()
            return self.out
        return self._run()

    def _run(self) -> dict[str, Tensor]:
        for parameter in self.model.parameters():
            parameter.grad = None
        out = self.model(self.batch)
        out.pop("loss").backward()  # what is kept must hold no graph: its nodes belong to another stream
        return out

    def _capture(self) -> None:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(
                graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"
            ):
                self.out = self._run()
        except RuntimeError:
            logger.exception("no graph: going on without one")
            self.captures = False
            torch.cuda.synchronize()
        else:
            self.graph = graph


class Clock:
    """Share of the time that has passed, and the learning rate by it."""

    def __init__(self, minutes: float, rate: float, warmup: int) -> None:
        self.start, self.seconds, self.rate, self.warmup = time.perf_counter(), 60 * minutes, rate, warmup

    def passed(self) -> float:
        """From 0 to 1 and on."""
        return (time.perf_counter() - self.start) / self.seconds

    def rate_now(self, step: int) -> float:
        """Rises over the first steps, then falls to 0 with the time left."""
        return self.rate * min(1.0, (step + 1) / self.warmup) * max(0.0, 1.0 - self.passed())


@torch.no_grad()
def validate(model: Model, batches: list[dict[str, Tensor]]) -> dict[str, float]:
    """Mean losses of labels by kind, and the share of questions that find their first gold passage first."""
    sums, counts, hits, asked = np.zeros(len(KINDS)), np.zeros(len(KINDS)), 0.0, 0.0
    search = []
    for batch in batches:
        out = model(batch)
        search.append(float(out["search"]))
        for kind in range(len(KINDS)):
            own = (batch["label_kinds"] == kind) & (batch["label_weights"] > 0)
            sums[kind] += float(out["losses"][own].sum())
            counts[kind] += float(own.sum())
        right = (out["found"] == batch["targets"][:, 0]).float() * batch["asked"]
        hits, asked = hits + float(right.sum()), asked + float(batch["asked"].sum())
    found = dict(zip(KINDS, (sums / counts.clip(1)).round(4).tolist(), strict=True))
    return {**found, "search": float(np.mean(search)), "first": hits / max(asked, 1)}


def refresh(model: Model, data: Data, rows: int, device: torch.device) -> None:
    """Makes the vectors of all passages anew."""

    def moved() -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for batch, numbers in packed_passages(data, rows, model.shape.width):
            yield {name: value.to(device) for name, value in batch.items()}, numbers.to(device)

    start = time.perf_counter()
    model.refresh(moved())
    logger.info("bank of %d passages in %.1f s", data.passages, time.perf_counter() - start)


def train(given: argparse.Namespace, shape: Shape, device: torch.device) -> None:
    """The whole run."""
    data = Data(given.data)
    loader = DataLoader(
        Batches(data, shape, given.seed),
        batch_size=None,
        num_workers=given.workers,
        prefetch_factor=8 if given.workers else None,
        collate_fn=_as_it_is,
    )
    batches = iter(loader)  # the workers start before the GPU does
    model = load(given, data.passages, shape, device)
    rng = np.random.default_rng(given.seed + 1)
    held = [Builder(data, shape, rng, validation=True).build() for _ in range(given.validation)]
    held = [tensors(batch, device) for batch in held]
    clock = Clock(given.minutes, given.learning_rate, given.warmup)
    renew = partial(refresh, model, data, given.refresh_rows, device)
    renew()
    Run(model, held, given).all_steps(batches, clock, renew)


class Run:
    """The steps of a run: optimizer, running mean, what is logged and kept on the way.

    Args:
        model: On its device.
        held: Held-out batches on the device.
        given: The command's arguments.
    """

    def __init__(self, model: Model, held: list[dict[str, Tensor]], given: argparse.Namespace) -> None:
        self.model, self.held, self.given = model, held, given
        self.parameters = list(model.parameters())
        self.step = Step(model, self.parameters[0].device)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )
        self.mean = [parameter.detach().clone() for parameter in self.parameters]
        self.number, self.since = 0, time.perf_counter()
        self.log: list[Tensor] = []
        self.waiting: deque = deque()

    def all_steps(
        self, batches: Iterator[dict[str, np.ndarray]], clock: Clock, renew: Callable[[], None]
    ) -> None:
        """Steps until the time is over; `renew` makes the bank anew at the shares of it that are given."""
        refreshes, saved = list(self.given.refresh), clock.passed()
        self.validate("before")
        while clock.passed() < 1:
            self.one_step(next(batches), clock.rate_now(self.number))
            if self.number % self.given.log_every == 0:
                self.tell(clock.rate_now(self.number))
            if self.number % self.given.validate_every == 0:
                self.validate("held out")
            if refreshes and clock.passed() > refreshes[0]:
                refreshes.pop(0)
                renew()
                self.since = time.perf_counter()
            if clock.passed() - saved > SAVE_SHARE:
                saved = clock.passed()
                self.keep("last", self.parameters)
        self.validate("the last, held out")
        self.keep("final", self.parameters)
        self.keep("mean", self.mean)

    def one_step(self, batch: dict[str, np.ndarray], rate: float) -> None:
        """A step of AdamW, left out where a gradient is not finite, and of the running mean."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        out = self.step(batch)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.found_inf = (~norm.isfinite()).float()
        self.optimizer.step()
        share = max(1 - self.given.mean_decay, 1 / (self.number + 1))
        torch._foreach_lerp_(self.mean, self.parameters, share)
        self.log.append(torch.stack([out["answer"], out["search"], norm]))
        self.number += 1
        if norm.is_cuda:  # the host stays at most four steps ahead
            self.waiting.append(torch.cuda.Event())
            self.waiting[-1].record()
            if len(self.waiting) > AHEAD:
                self.waiting.popleft().synchronize()

    def tell(self, rate: float) -> None:
        """Logs the means since the last line, and how long a step took."""
        found = torch.stack(self.log).mean(0).tolist()
        took = 1000 * (time.perf_counter() - self.since) / len(self.log)
        line = "step %d: answer %.4f search %.4f norm %.3f lr %.2e, %.1f ms a step"
        logger.info(line, self.number, *found, rate, took)
        self.log, self.since = [], time.perf_counter()

    def validate(self, what: str) -> None:
        """Logs the held-out losses."""
        logger.info("step %d, %s: %s", self.number, what, json.dumps(validate(self.model, self.held)))
        self.since = time.perf_counter()

    def keep(self, name: str, values: list[Tensor]) -> None:
        """Writes a checkpoint."""
        names = [key for key, _ in self.model.named_parameters()]
        kept = {key: value.detach().clone() for key, value in zip(names, values, strict=True)}
        save(self.model, kept, self.given.start, self.given.output / name, self.given.direction)


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="arrays of rows.py, NPZ")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base")
    parser.add_argument("--start", type=Path, required=True, help="checkpoint to start from")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--minutes", type=float, required=True, help="how long to train")
    parser.add_argument("--direction", choices=("causal", "bidirectional"), default="bidirectional")
    parser.add_argument("--learning-rate", type=float, default=7e-4)
    parser.add_argument("--warmup", type=int, default=150)
    parser.add_argument("--search-weight", type=float, default=0.5)
    parser.add_argument("--mean-decay", type=float, default=0.998)
    parser.add_argument("--refresh", type=float, nargs="*", default=[0.3, 0.7], help="shares of the time")
    parser.add_argument("--refresh-rows", type=int, default=64)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--validation", type=int, default=6, help="held-out batches")
    parser.add_argument("--validate-every", type=int, default=500)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shape", type=json.loads, default={}, help="other sizes of a step, JSON")
    return parser


def main() -> None:
    """Parses and trains."""
    given = make_parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(given.seed)
    if device.type == "cuda":
        # a graph cannot be captured beside work of the default stream
        torch.cuda.set_stream(torch.cuda.Stream())
    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.enable_cudnn_sdp(False)  # what is left takes masks, and a graph captures it
    train(given, Shape(**given.shape), device)


if __name__ == "__main__":
    main()
