"""Soft top-k against discrete top-k: agreement of the choice, bias and variance of the gradient.

A discrete top-k has no gradient. What the estimators are to approximate is the gradient of the expected
loss when k documents are drawn without replacement with probabilities softmax(scores / temperature)
(Plackett and Luce), which small pools allow to enumerate exactly:

    J(s) = sum over ordered choices c of p(c) · L(c),   L(c) = |mean of the chosen memories - target|²

Each estimator's gradient over many draws is compared with dJ/ds. `score_function` (REINFORCE with the exact
J as its baseline) is unbiased and stands for what one would use without relaxation.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.retrieval_clara import Memories, select, soft_topk
from torch import Tensor

from ..tables import markdown_table

NEEDS_MODEL = False
ESTIMATORS = ("straight_through", "gumbel", "score_function")
LINES = (":", "-", "--", "-.")
WIDTH = 8
MEASURES = ("cosine", "bias", "spread", "overlap", "mass")
EXPLANATION = (
    "`cosine`: of the mean gradient and the exact one. `bias`: |mean gradient - exact| / |exact|. "
    "`spread`: root mean squared distance of one draw's gradient from the mean / |exact|. `overlap`: "
    "share of the chosen documents that the discrete top-k chooses too. `mass`: softmax weight of "
    "the chosen document in its slot. Medians over {problems} random problems (scores normal with "
    "mean 0.4 and standard deviation {spread}), {draws} draws each, seed {seed}."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment's options."""
    parser.add_argument("--pools", type=int, nargs="+", default=[4, 8], help="pool sizes N (default: 4 8)")
    parser.add_argument(
        "--ks", type=int, nargs="+", default=[1, 2, 3], help="documents chosen K (default: 1 2 3)"
    )
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.02, 0.05, 0.2, 1.0])
    parser.add_argument(
        "--problems", type=int, default=20, help="random problems for each setting (default: 20)"
    )
    parser.add_argument("--draws", type=int, default=500, help="draws of a problem (default: 500)")
    parser.add_argument("--score-spread", type=float, default=0.05, help="standard deviation of the scores")
    parser.add_argument("--seed", type=int, default=0)


def measure(
    arguments: argparse.Namespace, model: ClaraForRetrievalGeneration | None = None
) -> dict[str, Any]:
    """Medians over random problems for each setting and estimator, as JSON values."""
    grid = itertools.product(arguments.pools, arguments.ks, arguments.temperatures, ESTIMATORS)
    names = ("pool", "k", "temperature", "estimator")
    rows = [
        {**dict(zip(names, setting, strict=True)), **_medians(arguments, *setting)}
        for setting in grid
        if setting[1] <= setting[0]
    ]
    kept = ("problems", "draws", "score_spread", "seed")
    return {"rows": rows, **{name: getattr(arguments, name) for name in kept}}


def _medians(
    arguments: argparse.Namespace, pool: int, k: int, temperature: float, estimator: str
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(arguments.seed)
    with torch.random.fork_rng():
        torch.manual_seed(arguments.seed)
        values = [
            compare(
                *problem(pool, arguments.score_spread, generator), k, temperature, estimator, arguments.draws
            )
            for _ in range(arguments.problems)
        ]
    return dict(zip(MEASURES, torch.tensor(values).median(dim=0).values.tolist(), strict=True))


def problem(pool: int, spread: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Random scores (N,), memories (N, H) and target (H,)."""
    scores = 0.4 + spread * torch.randn(pool, generator=generator)
    return scores, torch.randn(pool, WIDTH, generator=generator), torch.randn(WIDTH, generator=generator)


def exact_gradient(
    scores: Tensor, memory: Tensor, target: Tensor, k: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """J(s) and dJ/ds by enumeration of the N! / (N - k)! ordered choices.

    Args:
        scores: (N,).
        memory: (N, H).
        target: (H,).
        k: documents chosen K.
        temperature: of the softmax.

    Returns:
        Scalar and (N,).
    """
    scores = scores.clone().requires_grad_(True)
    choices = torch.tensor(list(itertools.permutations(range(len(scores)), k)))
    expected = (
        slot_log_probabilities(scores / temperature, choices).sum(-1).exp() * loss(memory[choices], target)
    ).sum()
    return expected.detach(), torch.autograd.grad(expected, scores)[0]


def slot_log_probabilities(logits: Tensor, choices: Tensor) -> Tensor:
    """Log p of each document of ordered choices, given those before it: (N,) or (C, N), (C, K) -> (C, K)."""
    logits = logits.expand(len(choices), -1)
    taken = torch.zeros_like(logits, dtype=torch.bool)
    slots = []
    for slot in choices.T.unsqueeze(-1):
        slots.append(logits.masked_fill(taken, float("-inf")).log_softmax(-1).gather(1, slot))
        taken = taken.scatter(1, slot, True)
    return torch.cat(slots, dim=1)


def loss(chosen: Tensor, target: Tensor) -> Tensor:
    """|mean of the chosen memories - target|²: (…, K, H) -> (…)."""
    return (chosen.mean(dim=-2) - target).square().sum(dim=-1)


def drawn_gradients(
    scores: Tensor, memory: Tensor, target: Tensor, k: int, temperature: float, estimator: str, draws: int
) -> tuple[Tensor, Tensor]:
    """Gradients of single draws (draws, N) and their choices (draws, K)."""
    rows = scores.expand(draws, -1).clone().requires_grad_(True)
    if estimator == "score_function":
        baseline, _ = exact_gradient(scores, memory, target, k, temperature)
        _, choices = soft_topk(rows.detach(), k, temperature, "gumbel")
        advantage = loss(memory[choices], target) - baseline
        total = (advantage * slot_log_probabilities(rows / temperature, choices).sum(-1)).sum()
    else:
        weights, choices = soft_topk(rows, k, temperature, estimator)
        single = Memories(memory.expand(draws, -1, -1).unsqueeze(2), torch.ones(draws, len(memory)).long())
        total = loss(select(weights, choices, single).values.squeeze(2), target).sum()
    return torch.autograd.grad(total, rows)[0], choices


def compare(
    scores: Tensor, memory: Tensor, target: Tensor, k: int, temperature: float, estimator: str, draws: int
) -> tuple[float, ...]:
    """The values of `MEASURES` for one problem."""
    count = 1 if estimator == "straight_through" else draws
    _, exact = exact_gradient(scores, memory, target, k, temperature)
    gradients, choices = drawn_gradients(scores, memory, target, k, temperature, estimator, count)
    mean, size = gradients.mean(dim=0), exact.norm().clamp(min=1e-12)
    discrete = scores.topk(k).indices
    return (
        torch.cosine_similarity(mean, exact, dim=0).item(),
        ((mean - exact).norm() / size).item(),
        ((gradients - mean).square().sum(dim=1).mean().sqrt() / size).item(),
        torch.isin(choices, discrete).float().mean().item(),
        slot_log_probabilities(scores / temperature, choices).exp().mean().item(),
    )


def render(result: Mapping[str, Any]) -> str:
    """The result as a page."""
    rows = [
        [str(row["pool"]), str(row["k"]), f"{row['temperature']:g}", row["estimator"]]
        + [f"{row[name]:.3g}" for name in MEASURES]
        for row in result["rows"]
    ]
    note = EXPLANATION.format(
        problems=result["problems"], draws=result["draws"], spread=result["score_spread"], seed=result["seed"]
    )
    header = ["N", "k", "temperature", "estimator", *MEASURES]
    return f"# Soft top-k against discrete top-k\n\n{note}\n\n{markdown_table(header, rows)}\n"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Cosine and spread over temperature, one line for each estimator and k, at the largest pool."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    largest = max(row["pool"] for row in result["rows"])
    for axes, name in zip(figure.subplots(1, 2), ("cosine", "spread"), strict=True):
        for (estimator, k), rows in _lines([row for row in result["rows"] if row["pool"] == largest]).items():
            axes.plot(
                [row["temperature"] for row in rows],
                [row[name] for row in rows],
                marker="o",
                color=f"C{ESTIMATORS.index(estimator)}",
                linestyle=LINES[k % len(LINES)],
                label=f"{estimator}, k={k}",
            )
        axes.set_xscale("log")
        axes.set(xlabel="temperature", ylabel=name, title=f"{name} of the gradient, N = {largest}")
        axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.savefig(path, dpi=150)


def _lines(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], list[Mapping[str, Any]]]:
    lines: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["estimator"], row["k"]), []).append(row)
    return lines
