"""Building an index: one pass gives the sketches and the exact neighbours of test questions.

The recall of those neighbours among the candidates then decides how hard a search tries. RAM does not grow
with the corpus but for the index itself; the sketches wait in a temporary file.

Letters of the shapes: N passages, T test questions, M memory tokens, H hidden width, D = M * H, d dimensions.
"""

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .index_clara import Effort, SketchIndex, choose_kind
from .search_clara import block_scores, default_block_size, row_norms, unit_rows
from .searchers_clara import make_searcher
from .sketch_clara import DIMENSIONS, DocumentSketch, learn_sketches, sample_rows

RECALL_AT = 5
RECALL = 0.99
TESTS = 128
CANDIDATES = (2, 4, 8, 16, 20, 32, 40, 48, 64, 128, 256, 512)
REORDERED = (1024, 2048, 4096, 8192)
SCATTERED = 16  # a byte of a row read somewhere takes as long as so many of those that are scanned
logger = logging.getLogger(__name__)


@torch.no_grad()
def build_index(
    memory: Any,
    kind: str | None = None,
    dimensions: int = DIMENSIONS,
    questions: Tensor | None = None,
    tests: Tensor | None = None,
    recall: float = RECALL,
    seed: int = 0,
    scratch: Path | None = None,
    show_progress: bool = False,
) -> SketchIndex:
    """Builds the index of a corpus memory.

    Args:
        memory: N passages; read in blocks, twice for a sample. The index counts rows, deleted ones included.
        kind: One of `searchers_clara.KINDS`. None: by N.
        dimensions: Numbers d of a sketch; fewer if D or N are smaller.
        questions: (T, M, H) memories of questions to learn the sketch from. None: stored memories, which a
            trained query reasoner's questions are far from.
        tests: (T', M, H) memories of other questions, by which recall is measured: half of them choose the
            effort, half say what it reaches. None: means of two stored memories.
        recall: Recall@5 against exact search that the effort must reach on the first half.
        seed: Of all samples.
        scratch: Folder of the temporary file, 4 * d bytes a passage. None: the system's.
        show_progress: Show a progress bar.

    Raises:
        ValueError: If `kind` is unknown, `dimensions` is below 2, `recall` not in (0, 1], or the shape of
            `questions` or `tests` is wrong.
        ModuleNotFoundError: If FAISS is not installed.
    """
    kind = choose_kind(len(memory), kind)
    check_build(memory, dimensions, questions, tests, recall)
    source = "mean of two stored memories" if tests is None else "given questions"
    width = memory.num_memory_tokens * memory.hidden_size
    documents, asked = learn_sketches(len(memory), width, memory.gather, dimensions, questions, seed)
    tests = mixed_questions(memory, seed) if tests is None else tests
    rows = 1 + int(memory.rows_of(torch.tensor([len(memory) - 1])))
    with tempfile.TemporaryFile(dir=scratch) as file:
        sketches = np.memmap(file, np.float32, "w+", shape=(rows, documents.dimensions))
        truth = sketch_rows(memory, documents, tests, sketches, show_progress)
        index = SketchIndex(kind, asked, make_searcher(kind, sketches, seed), Effort(1.0, 0))
        del sketches
    index.effort, found = choose_effort(index, tests, truth, 2 * width, recall)
    index.recall = {"at": truth.shape[1], **found, "of": source}
    return index


def check_build(
    memory: Any, dimensions: int, questions: Tensor | None, tests: Tensor | None, recall: float
) -> None:
    """Checks what an index is to be built from.

    Raises:
        ValueError: As of `build_index`.
    """
    if dimensions < 2:
        raise ValueError(f"`dimensions` must be at least 2, got {dimensions}.")
    if not 0 < recall <= 1:
        raise ValueError(f"`recall` must be above 0 and at most 1, got {recall}.")
    shape = (memory.num_memory_tokens, memory.hidden_size)
    for name, given, least in (("questions", questions, 1), ("tests", tests, 2)):
        if given is not None and (tuple(given.shape[1:]) != shape or len(given) < least):
            raise ValueError(
                f"`{name}` must be (T, M, H) with T of at least {least} and (M, H) = {shape}, got "
                f"{tuple(given.shape)}."
            )


def mixed_questions(memory: Any, seed: int) -> Tensor:
    """Test questions (T, M, H): means of two stored unit memories."""
    generator = torch.Generator().manual_seed(seed + 1)
    rows = sample_rows(len(memory), 2 * TESTS, generator)
    units = unit_rows(memory.gather(rows[torch.randperm(len(rows), generator=generator)])).float()
    mixed = (units + units.roll(1, 0))[: max(2, TESTS)]
    mixed = mixed if len(mixed) > 1 else mixed.expand(2, -1)
    return mixed.unflatten(1, (memory.num_memory_tokens, memory.hidden_size))


def sketch_rows(
    memory: Any, sketch: DocumentSketch, tests: Tensor, sketches: np.ndarray, show_progress: bool
) -> Tensor:
    """Writes the sketch of every row and returns the exact nearest rows (T, K) of the test questions."""
    unit = unit_rows(tests.cpu()).float()
    k = min(RECALL_AT, len(memory))
    scores, indices = torch.empty(len(unit), 0), torch.empty(len(unit), 0, dtype=torch.long)
    size = default_block_size(unit.shape[1])
    with tqdm(total=len(memory), desc="sketching", unit="passage", disable=not show_progress) as bar:
        for start in range(0, len(memory), size):
            rows = memory[start : start + size].flatten(1).float()
            places = torch.arange(start, start + len(rows))
            norms = row_norms(rows, places)
            numbers = memory.rows_of(places)
            sketches[numbers.numpy()] = sketch.project(rows, norms).numpy()
            scores = torch.cat([scores, block_scores(unit, rows, norms)], 1)
            indices = torch.cat([indices, numbers.expand(len(unit), -1)], 1)
            scores, best = scores.topk(min(k, scores.shape[1]), dim=1)
            indices = indices.gather(1, best)
            bar.update(len(rows))
    return indices


def choose_effort(
    index: SketchIndex, tests: Tensor, truth: Tensor, row_bytes: int, recall: float = RECALL
) -> tuple[Effort, dict[str, Any]]:
    """The cheapest effort that reaches a recall on the even tests, and what it reaches on the odd ones.

    What is chosen on few questions does a little worse on others, and the last few rows may cost more than
    all before. So an effort may miss no more than the best one and a quarter of what may be missed; of those
    the cheapest is chosen that reaches the recall by a standard error, else one that reaches it, else any.

    Candidates are scored exactly later, so the recall of a search is that of its candidates. An effort costs
    the bytes that it touches: codes of the cells looked at, sketches of the codes ordered anew, memories of
    the candidates.

    Args:
        index: A built index.
        tests: (T, M, H).
        truth: (T, K) their exact nearest rows.
        row_bytes: Of a memory.
        recall: To be reached; a warning says if no effort does.

    Returns:
        The effort, and `{"mean", "questions"}`.
    """
    options = []
    k = truth.shape[1]
    most = min(len(index), k * CANDIDATES[-1])
    for cells in _cells(index.num_cells):
        scanned = len(index) * (cells / index.num_cells if cells else 1.0) * index.code_bytes
        for reordered in REORDERED if index.sketch_bytes else (0,):
            proposed = index.propose(tests, min(most, reordered or most), cells=cells, reordered=reordered)
            ranks = _ranks(proposed, truth)
            for factor in CANDIDATES:
                found = (ranks < factor * k).float().mean(dim=1)
                chosen, held_out = found[::2], float(found[1::2].mean())
                scattered = reordered * index.sketch_bytes + min(most, factor * k) * row_bytes
                effort = Effort(float(factor), cells, reordered)
                error = float(chosen.std(correction=0)) / len(chosen) ** 0.5
                options.append(
                    (scanned + SCATTERED * scattered, effort, float(chosen.mean()), error, held_out)
                )
    best = max(mean for _, _, mean, _, _ in options)
    if best < recall:
        logger.warning("The index reaches recall@%d %.3f at most, below %.3f.", k, best, recall)
    near = [option for option in options if option[2] >= best - (1 - recall) / 4]
    reached = [option for option in near if option[2] >= recall]
    surely = [option for option in reached if option[2] - option[3] >= recall]
    _, effort, _, _, held_out = min(surely or reached or near, key=lambda option: option[0])
    return effort, {"mean": held_out, "questions": len(truth) // 2}


def _cells(count: int) -> list[int]:
    """Numbers of cells to try: powers of two up to all of them; [0] for kinds without cells."""
    return sorted({min(count, 2**power) for power in range(count.bit_length() + 1)}) if count else [0]


def _ranks(proposed: Tensor, truth: Tensor) -> Tensor:
    """Place (T, K) of each true row among the proposed (T, C); C or more where it is missing."""
    hits = proposed.unsqueeze(1) == truth.unsqueeze(2)
    places = hits.float().argmax(dim=2)
    return places.masked_fill(~hits.any(dim=2), torch.iinfo(torch.long).max)
