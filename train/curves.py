"""Learning curves of a run: every logged number as JSON, the main ones as a picture."""

import importlib.util
import json
import logging
import os
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

PANELS = {
    "loss": ("loss", "eval_loss"),
    "alignment": ("alignment_loss", "eval_alignment_loss"),
    "answer loss by memory": ("eval_loss/own", "eval_loss/shuffled", "eval_loss/none"),
    "recall": ("recall@1", "recall@5", "eval_recall@1", "eval_recall@5"),
    "gradient norm": ("grad_norm/compressor", "grad_norm/query_reasoner", "grad_norm/generator"),
}


def series(history: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one logged name."""
    points = [(row["step"], row[name]) for row in history if name in row]
    return [step for step, _ in points], [value for _, value in points]


def write_curves(history: list[dict[str, Any]], folder: str) -> None:
    """Writes `curves.json` and, where matplotlib is installed, `curves.png`.

    Args:
        history: The trainer's `state.log_history`.
        folder: The run's folder.
    """
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "curves.json"), "w", encoding="utf-8") as file:
        json.dump(history, file, indent=1)
    panels = {title: [n for n in names if series(history, n)[0]] for title, names in PANELS.items()}
    panels = {title: names for title, names in panels.items() if names}
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning("matplotlib is not installed: curves.json is written, curves.png is not")
    elif panels:
        _draw(history, panels, os.path.join(folder, "curves.png"))


def _draw(history: list[dict[str, Any]], panels: dict[str, list[str]], file: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(panels), 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, names) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for name in names:
            axes.plot(*series(history, name), label=name, marker="." if name.startswith("eval") else None)
        axes.set(title=title, xlabel="optimizer steps")
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


class CurveCallback(TrainerCallback):
    """Writes the curves at every checkpoint and at the end."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Called after a checkpoint."""
        self._write(args, state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Called at the end of training."""
        self._write(args, state)

    @staticmethod
    def _write(args: TrainingArguments, state: TrainerState) -> None:
        if state.is_world_process_zero:
            write_curves(state.log_history, args.output_dir)
