"""The index of a store on this machine: a graph of its vectors (HNSW, arXiv 1603.09320), by FAISS.

It lies in a file beside the table and is read from a memory map, so that its pages are the system's. Rows
that came after it are compared one by one, those that are gone are left out, and cosines decide.

Letters of the shapes: B questions, K chosen, n candidates, N passages, D width of a search vector.
"""

import importlib
import json
import os
import uuid
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .places import Places, local_folder
from .search import compare, exact
from .vectors import Vectors

FOLDER, KEY = "_graph", "clara.graph"
WIDTH = 128  # principal directions that a vector is reduced to
LINKS, CARE = 32, 200  # links of a vector; how many are looked at for each while building
SAMPLE, BLOCK = 20_000, 8192
EFFORTS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
UNTAUGHT = 1024  # effort where no questions chose it: those lie farther off than passages from each other
COMPARED = 20  # candidates by the reduced vectors for each passage that is looked for


def library() -> Any:
    """FAISS.

    Raises:
        ModuleNotFoundError: If it is not installed; says how.
    """
    try:
        return importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"The index of a store needs `pip install 'clara-rag[store]'` ({error})."
        ) from error


def graph_facts(dataset: Any) -> dict[str, Any] | None:
    """What a version says of its graph: `file`, `crc`, `effort`, `fragments`; None if it has none."""
    found = dataset.config().get(KEY)
    return None if found is None else json.loads(found)


class Graph:
    """A graph that lies in a file.

    Args:
        folder: Of the store.
        facts: Of the graph.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it was altered: FAISS would follow any link.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        path = folder / FOLDER / facts["file"]
        if checksum(path) != facts["crc"]:
            raise ValueError(f"{path} was altered or cut short: call `build_index` again.")
        self.file, self._faiss = path.name, library()
        self._index = self._faiss.read_index(str(path), self._faiss.IO_FLAG_MMAP_IFC)

    def candidates(self, query: Tensor, depth: int, effort: int) -> list[np.ndarray]:
        """Addresses (n,) of at most `depth` rows near each of the questions (B, D)."""
        options = self._faiss.SearchParametersHNSW(efSearch=max(effort, depth))
        options = self._faiss.SearchParametersPreTransform(index_params=options)
        found = self._index.search(query.numpy(), depth, params=options)[1]
        return [row[row >= 0] for row in found]


def open_graph(uri: str, facts: dict[str, Any] | None, opened: Graph | None) -> Graph | None:
    """The graph of a version, which may be `opened`; None if there is none, or a later one took its place."""
    folder = local_folder(uri)
    if facts is None or folder is None:
        return None
    if opened is not None and opened.file == facts["file"]:
        return opened
    try:
        return Graph(folder, facts)
    except FileNotFoundError:
        return None


def by_graph(
    dataset: Any, places: Places, vectors: Vectors, graph: Graph, query: Tensor, k: int, facts: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Scores and indices (B, K): the graph proposes, cosines decide; fewer columns if one finds fewer."""
    found = graph.candidates(query, k * COMPARED, facts["effort"])
    found = [addresses[places.holds(addresses)] for addresses in found]
    scores, indices = compare(places, vectors, query, k, found)
    later = [f for f in dataset.get_fragments() if f.fragment_id not in facts["fragments"]]
    if not later or scores.shape[1] < k:
        return scores, indices
    fresh = exact(dataset, places, vectors, query, k, fragments=later)
    scores, order = torch.cat([scores, fresh[0]], 1).sort(dim=1, descending=True, stable=True)
    indices = torch.cat([indices, fresh[1]], 1).gather(1, order)
    return scores[:, :k], indices[:, :k]


def make_graph(
    dataset: Any,
    folder: Path,
    places: Places,
    vectors: Vectors,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Writes the graph of a version; `keep_graph` makes the version use it.

    Args:
        dataset: The Lance dataset, at its latest version.
        folder: Where it lies.
        places: Its rows.
        vectors: Its vectors.
        show_progress: Show a progress bar.

    Returns:
        Its facts, as of `graph_facts`, with the effort 1,024.

    Raises:
        OSError: If the file cannot be written.
        ModuleNotFoundError: If FAISS is not installed.
    """
    size, faiss = dataset.count_rows(), library()
    sample = places.addresses(np.unique(np.linspace(0, size - 1, min(SAMPLE, size)).astype(np.int64)))
    index = _empty(faiss, vectors.at(sample).astype(np.float32))
    with tqdm(total=size, desc="indexing", unit="passage", disable=not show_progress) as bar:
        for start in range(0, size, BLOCK):
            rows = places.addresses(np.arange(start, min(size, start + BLOCK)))
            index.add_with_ids(vectors.at(rows).astype(np.float32), rows)
            bar.update(len(rows))
    path = folder / FOLDER / f"{uuid.uuid4().hex}.faiss"
    write(index, path)
    numbers = [fragment.fragment_id for fragment in dataset.get_fragments()]
    return {"file": path.name, "crc": checksum(path), "effort": UNTAUGHT, "fragments": numbers}


def _empty(faiss: Any, sample: np.ndarray) -> Any:
    """An empty graph of vectors like these (n, D), in the directions in which they are longest, in 8 bits."""
    width = min(WIDTH, sample.shape[1])
    directions = np.linalg.eigh(sample.T @ sample)[1][:, ::-1][:, :width]
    reduced = faiss.LinearTransform(sample.shape[1], width, False)
    faiss.copy_array_to_vector(np.ascontiguousarray(directions.T).ravel(), reduced.A)
    reduced.is_trained = True
    inner = faiss.IndexHNSWSQ(width, faiss.ScalarQuantizer.QT_8bit, LINKS, faiss.METRIC_INNER_PRODUCT)
    inner.hnsw.efConstruction = CARE
    inner.train(sample @ directions)
    return faiss.IndexPreTransform(reduced, faiss.IndexIDMap(inner))


def keep_graph(dataset: Any, folder: Path, facts: dict[str, Any] | None) -> None:
    """Commits a graph, or that there is none, and removes the files of others."""
    if facts is not None:
        dataset.update_config({KEY: json.dumps(facts)})
    elif KEY in dataset.config():
        dataset.delete_config_keys([KEY])
    sweep(dataset, folder)


def write(index: Any, path: Path) -> None:
    """Writes a graph, and waits until it is on the disk."""
    path.parent.mkdir(exist_ok=True)
    try:
        library().write_index(index, str(path))
    except RuntimeError as error:
        path.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: {error}") from error
    with path.open("rb") as file:
        os.fsync(file.fileno())


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            found = zlib.crc32(block, found)
    return found


def sweep(dataset: Any, folder: Path) -> None:
    """Removes graphs that the latest version does not name."""
    facts = graph_facts(dataset)
    for path in (folder / FOLDER).glob("*.faiss"):
        if facts is None or path.name != facts["file"]:
            path.unlink()
