"""CorpusMemory: the memories of a corpus in RAM, with ids, texts and metadata; search, append, save, load.

A stored memory is a folder of three files. `memory.json` holds the checksums of the other two and is replaced
last; until then new data lie beside the old as `*.new`. A process killed at any moment leaves the old memory
or the new one.

The letters of shapes are those of retrieval_clara.
"""

import hashlib
import importlib
import itertools
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock, Timeout
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .processing_clara import check_unique
from .retrieval_clara import (
    FORMATS,
    PACKED_KINDS,
    check_finite,
    check_ragged,
    check_search,
    format_name,
    mean_vectors,
    nearest,
    pack,
    row_blocks,
    unpack,
)

VERSION = 1
VALUES_FILE, PASSAGES_FILE, FACTS_FILE = "memory.safetensors", "passages.parquet", "memory.json"
FILES = (VALUES_FILE, PASSAGES_FILE, FACTS_FILE)
PROTOCOL = ("texts", "document_ids", "parents", "orders", "metadata", "fingerprint", "search", "gather")
LOCK, NEW = ".memory.lock", ".new"
PACKED = ("values", "scales")
MOST_BYTES = 1 << 20  # of memory.json
TEXT = pa.large_string()
SCHEMA = pa.schema({"id": TEXT, "text": TEXT, "parent": TEXT, "order": pa.int64(), "metadata": TEXT})
CARD = """---
tags: [clara, corpus-memory]
---
# Corpus memory

{passages} passages in {vectors} vectors of width {hidden_size} ({dtype}), made by a CLaRa compressor over
{base}.
Only the model whose fingerprint is `{fingerprint}` can read it:

```python
memory = model.load_memory("{repo_id}")
answer = model.generate("question", memory)
```
"""


def is_corpus_memory(value: Any) -> bool:
    """Whether a value meets the protocol that `retrieve` and `generate` ask of a memory."""
    return hasattr(value, "__len__") and all(hasattr(value, name) for name in PROTOCOL)


class CorpusMemory:
    """N passages with their memories in RAM, for search and for generation.

    Args:
        values: N memories (m_i, H) of float32, float16 or bfloat16, a list or (N, M, H); or with `offsets`
            (T, H), the vectors of all memories, one after the other.
        texts: N texts.
        document_ids: N unique strings. Default: "0", "1", …
        metadata: N JSON-serialisable mappings. Default: empty.
        parents: N ids of the documents that the passages were cut from. Default: each passage's own id.
        orders: N places of the passages in their documents. Default: as they come.
        offsets: (N + 1,) int64: memory i is `values[offsets[i]:offsets[i + 1]]`, one vector at least.
        vectors: (N, D) search vectors. Default: the mean of each memory's vectors.
        fingerprint: Identity of what made the memories. `base`: `{"name", "revision"}` of its base model.
        dtype: Format in which the memories are kept: a float dtype, "int8" or "int4". Default: that of
            `values`.

    Raises:
        ValueError: If shapes or lengths do not fit, there is no passage, an id occurs twice, a value is NaN
            or infinite, or a text is no valid Unicode. The message names the argument and the index.

    The arguments are attributes too; `texts`, `document_ids`, `parents` and `orders` are lists.
    """

    def __init__(
        self,
        values: Tensor | Sequence[Tensor],
        texts: Sequence[str],
        document_ids: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        parents: Sequence[str] | None = None,
        orders: Sequence[int] | None = None,
        offsets: Tensor | None = None,
        vectors: Tensor | None = None,
        fingerprint: str | None = None,
        base: Mapping[str, Any] | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> None:
        values, offsets = check_ragged(values, offsets)
        columns = check_passages(len(offsets) - 1, texts, document_ids, metadata, parents, orders)
        vectors = mean_vectors(check_finite(values), offsets) if vectors is None else vectors
        vectors = vectors.detach().float().cpu()
        if vectors.dim() != 2 or len(vectors) != len(offsets) - 1:
            raise ValueError(
                f"`vectors` must be ({len(offsets) - 1}, D), one a passage, got {tuple(vectors.shape)}."
            )
        self.dtype, self.fingerprint = format_name(dtype or values.dtype), fingerprint
        self.base = None if base is None else dict(base)
        self._hold(pack(values, self.dtype), offsets, check_finite(vectors), columns)

    def _hold(self, parts: dict[str, Tensor], offsets: Tensor, vectors: Tensor, columns: dict) -> None:
        self._parts, self.offsets, self.vectors, self._columns = parts, offsets, vectors.contiguous(), columns
        self.words: Any = None  # made by the first search by words
        self.lengths = self.vectors.norm(dim=1).clamp_min(1e-12)
        self.document_ids, self.texts = columns["id"], columns["text"]
        self.parents, self.orders = columns["parent"], columns["order"]

    def __len__(self) -> int:
        return len(self._columns["id"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"`index` must be a whole number, got {index!r}: `gather` takes several.")
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be below the {len(self)} passages, got {index}.")
        row = {name: column[index] for name, column in self._columns.items()}
        memory = self.gather([index % len(self)])[0]
        return {**row, "metadata": json.loads(row["metadata"]), "memory": memory}

    @property
    def metadata(self) -> list[dict[str, Any]]:
        """N mappings, made anew at every call."""
        return [json.loads(entry) for entry in self._columns["metadata"]]

    @property
    def hidden_size(self) -> int:
        """H."""
        return self._parts["values"].shape[1] * (2 if self.dtype == "int4" else 1)

    @property
    def values(self) -> Tensor:
        """(T, H) vectors of all memories, as `gather` reads them."""
        return unpack(self._parts, self.dtype)

    def gather(self, indices: Sequence[int] | Tensor) -> list[Tensor]:
        """Memories (m_i, H) of passages, of the format's dtype; float32 from int8 and int4.

        Raises an IndexError if an index is negative or not below N.
        """
        found = []
        for index in indices.tolist() if isinstance(indices, Tensor) else indices:
            if not 0 <= index < len(self):
                raise IndexError(f"`indices` must be from 0 to {len(self) - 1}, got {index}.")
            rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
            found.append(unpack({name: part[rows] for name, part in self._parts.items()}, self.dtype))
        return found

    @torch.no_grad()
    def search(
        self,
        vectors: Tensor,
        k: int,
        questions: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        hybrid: float | bool | None = None,
        exact: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Finds the passages whose search vectors are nearest to the questions' by cosine.

        Args:
            vectors: (B, D) search vectors of questions, or their memories (B, M, H).
            k: K.
            questions: B texts; needed by `hybrid`.
            where: Which passages may be found, by their metadata (`clara.store.ranking.check_where`).
            hybrid: Weight, from 0 to 1, of words (BM25), whose scores are added to the cosines, each on a
                scale from 0 to 1; True: a half.
            exact: A store may search with an index; here the search is always exact.

        Returns:
            (B, K) float32 cosines and int64 indices on the CPU, best first; with `hybrid` in the order of the
            sums. Fewer columns if fewer passages pass `where`.

        Raises:
            ValueError: If K is not from 1 to N, or an argument is not as above.
            ModuleNotFoundError: If `where` or `hybrid` is asked for without the package clara-rag, or bm25s.
        """
        query = check_search(vectors, k, len(self), self.vectors.shape[1])
        if where is None and (hybrid is None or hybrid is False):
            return nearest(query, row_blocks(self.vectors, self.lengths), k)
        try:
            ranking = importlib.import_module("clara.store.ranking")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("`where` and `hybrid` need `pip install clara-rag`.") from error
        return ranking.search_plain(self, query, k, questions, where, hybrid)

    def append(self, other: Any) -> None:
        """Adds the passages of another corpus memory, in place; its memories take this one's format.

        Raises a ValueError if another model made it or one of its documents is here; nothing is added then.
        """
        if not hasattr(other, "values"):
            got = type(other).__name__
            raise TypeError(f"`other` must be a `CorpusMemory`, got a {got}: use `to_memory`.")
        if other.fingerprint != self.fingerprint:
            raise ValueError(
                f"`other` has fingerprint {other.fingerprint}, this memory {self.fingerprint}: another "
                "compressor or base made it; build it again with this memory's model."
            )
        values, sizes = other.values, (self.hidden_size, self.vectors.shape[1])
        got = (values.shape[1], other.vectors.shape[1])
        if got != sizes:
            raise ValueError(f"`other` has (H, D) = {got}, this memory {sizes}: not equal.")
        here = sorted(({*self.parents} & {*other.parents}) | ({*self.document_ids} & {*other.document_ids}))
        if here:
            raise ValueError(f"`other` has the document {here[0]!r}, which is here already: rename it.")
        packed = pack(values, self.dtype)
        parts = {name: torch.cat([part, packed[name]]) for name, part in self._parts.items()}
        offsets = torch.cat([self.offsets, other.offsets[1:] + self.offsets[-1]])
        added = (other.texts, other.document_ids, other.metadata, other.parents, other.orders)
        new = check_passages(len(other), *added)
        columns = {name: [*column, *new[name]] for name, column in self._columns.items()}
        self._hold(parts, offsets, torch.cat([self.vectors, other.vectors]), columns)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes the memory to a folder of three files, in place of one that is there.

        Raises a NotADirectoryError if `folder` is a file; a RuntimeError if another process writes there.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"`folder` {folder} is a file: give the path of a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / LOCK, timeout=0):
                self._write(folder)
        except Timeout as error:
            raise RuntimeError(f"Another process writes to {folder}: wait, or take another one.") from error

    def _write(self, folder: Path) -> None:
        _settle(folder)
        new = {name: folder / f"{name}{NEW}" for name in FILES}
        try:
            parts = {**self._parts, "offsets": self.offsets, "vectors": self.vectors}
            save_file({name: part.contiguous() for name, part in parts.items()}, new[VALUES_FILE])
            table = pa.table(self._columns, schema=SCHEMA)
            pq.write_table(table, new[PASSAGES_FILE], compression="zstd", row_group_size=4096)
            own = {name: getattr(self, name) for name in ("fingerprint", "base", "dtype", "hidden_size")}
            counts = {"passages": len(self), "vectors": int(self.offsets[-1])}
            files = {name: file_digest(new[name]) for name in FILES[:2]}
            facts = {"version": VERSION, **own, **counts, "files": files}
            new[FACTS_FILE].write_text(json.dumps(facts, indent=2, allow_nan=False), encoding="utf-8")
            for path in new.values():
                sync(path)
            os.replace(new[FACTS_FILE], folder / FACTS_FILE)
        finally:
            _settle(folder)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike, fingerprint: str | None = None, **options: Any
    ) -> "CorpusMemory":
        """Loads a memory from a folder, or from a dataset repository on the Hub; every file is checked.

        Args:
            folder: The folder, or `owner/name` on the Hub.
            fingerprint: Identity of the compressor and base that must have made the memories. None: any.
            **options: Of `huggingface_hub.snapshot_download`: `revision`, `token`, `cache_dir`.

        Raises:
            FileNotFoundError: If there is no memory.
            ValueError: If a file is damaged, or another compressor or base made the memories.
        """
        path = Path(folder)
        try:
            if not path.is_dir():
                ours = {"repo_type": "dataset", "allow_patterns": [*FILES]}
                path = Path(snapshot_download(str(folder), **ours, **options))
        except (HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError) as error:
            raise FileNotFoundError(
                f"{str(folder)!r} is neither a folder nor a dataset repository that can be reached: {error}"
            ) from error
        facts, digest = read_facts(path)
        if fingerprint is not None and facts["fingerprint"] != fingerprint:
            raise ValueError(
                f"The memories in {folder} were made by another compressor or base (fingerprint "
                f"{facts['fingerprint']}, expected {fingerprint}): build them again with this model, or load "
                "the model that made them."
            )
        try:
            parts, table = _read_values(path, facts), _read_passages(path, facts)
        except (FileNotFoundError, ValueError):
            if read_facts(path)[1] == digest:
                raise
            return cls.from_pretrained(folder, fingerprint)  # another process replaced it in between
        memory = cls.__new__(cls)
        offsets, vectors = parts.pop("offsets"), parts.pop("vectors")
        memory.dtype, memory.fingerprint, memory.base = facts["dtype"], facts["fingerprint"], facts["base"]
        memory._hold(parts, offsets, vectors, table)
        return memory

    def push_to_hub(self, repo_id: str, private: bool | None = None, token: str | bool | None = None) -> str:
        """Uploads the memory with a card to a dataset repository; returns the address of the commit."""
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as name:
            self.save_pretrained(name)
            facts = read_facts(Path(name))[0]
            base = (facts.pop("base") or {}).get("name") or "an unknown base"
            card = CARD.format(**facts, base=base, repo_id=repo_id)
            (Path(name) / "README.md").write_text(card, encoding="utf-8")
            sent = {"commit_message": "Upload corpus memory", "allow_patterns": [*FILES, "README.md"]}
            return api.upload_folder(repo_id=repo_id, folder_path=name, repo_type="dataset", **sent)


def _settle(folder: Path) -> None:
    """Gives the new files of a memory their names if it is complete, and removes what a dead writer left."""
    sync(folder)
    named = read_facts(folder)[0]["files"] if (folder / FACTS_FILE).exists() else {}
    for name in FILES:
        new = folder / f"{name}{NEW}"
        if new.exists() and name in named and file_digest(new) == named[name]:
            os.replace(new, folder / name)
        new.unlink(missing_ok=True)
    sync(folder)


def read_facts(folder: Path) -> tuple[dict[str, Any], str]:
    """Reads `memory.json`; also returns the digest of its bytes, by which a change is seen."""
    path = folder / FACTS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no {FACTS_FILE}: it is no stored corpus memory; make one with `build_memory` "
            "and `save_pretrained`."
        )
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    try:
        facts = json.loads(content) if len(content) <= MOST_BYTES else None
        right = facts["version"] == VERSION and facts["dtype"] in FORMATS
        right &= all(type(facts[name]) is int for name in ("passages", "vectors", "hidden_size"))
        right &= set(facts["files"]) == set(FILES[:2]) and {"base", "fingerprint"} <= set(facts)
    except (TypeError, KeyError, ValueError, RecursionError):
        right = False
    if not right:
        raise ValueError(f"{path} is damaged or of another version than {VERSION}: build the memory again.")
    return facts, hashlib.sha256(content).hexdigest()


def _file(folder: Path, facts: Mapping[str, Any], name: str) -> Path:
    """The file of this name whose checksum is right; it may not have got its name yet."""
    for path in (folder / name, folder / f"{name}{NEW}"):
        if path.is_file() and file_digest(path) == facts["files"][name]:
            return path
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{folder / name} is missing: copy the memory again or build it again.")
    raise ValueError(f"{folder / name} was altered or cut short: copy the memory again or build it again.")


def _read_values(folder: Path, facts: Mapping[str, Any]) -> dict[str, Tensor]:
    path = _file(folder, facts, VALUES_FILE)
    try:
        parts = load_file(path)
        offsets, vectors = parts["offsets"], parts["vectors"]
        values, packed = parts["values"], {name: part for name, part in parts.items() if name in PACKED}
        right = offsets.dtype == torch.int64 and vectors.dtype == torch.float32
        right = right and {*packed, "offsets", "vectors"} == set(parts)
        unpacked, kind = check_ragged(unpack(packed, facts["dtype"]), offsets)[0], values.dtype
        right = right and (kind, unpacked.shape[1]) == (PACKED_KINDS[facts["dtype"]], facts["hidden_size"])
        shape = (len(offsets) - 1, len(values))
        right = right and len(vectors) == shape[0] and shape == (facts["passages"], facts["vectors"])
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is no file of memories: {error}") from error
    if not right:
        raise ValueError(f"{path} does not fit {FACTS_FILE}: copy the memory again or build it again.")
    return parts


def _read_passages(folder: Path, facts: Mapping[str, Any]) -> dict[str, list]:
    path, rows = _file(folder, facts, PASSAGES_FILE), facts["passages"]
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows != rows or file.metadata.num_row_groups > rows:
                raise ValueError(f"{file.metadata.num_rows} rows instead of {rows}")
            columns = file.read().cast(SCHEMA).to_pydict()
        columns["metadata"] = [json.loads(entry) for entry in columns["metadata"]]
        return check_passages(
            rows, *(columns[name] for name in ("text", "id", "metadata", "parent", "order"))
        )
    except (pa.ArrowException, OSError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no table of passages: {error}") from error


def check_passages(
    rows: int,
    texts: Sequence[str],
    document_ids: Sequence[str] | None,
    metadata: Sequence[Mapping[str, Any]] | None,
    parents: Sequence[str] | None,
    orders: Sequence[int] | None,
) -> dict[str, list]:
    """The passages of `rows` memories, checked, as the columns of `SCHEMA` with defaults filled in."""
    ids = [str(row) for row in range(rows)] if document_ids is None else document_ids
    parents = ids if parents is None else parents
    places: defaultdict = defaultdict(itertools.count)
    given = {
        "document_ids": ids,
        "texts": texts,
        "parents": parents,
        "orders": [next(places[parent]) for parent in parents] if orders is None else orders,
        "metadata": [{}] * rows if metadata is None else metadata,
    }
    for name, entries in given.items():
        if isinstance(entries, str) or len(entries) != rows:
            got = "one string" if isinstance(entries, str) else f"{len(entries)} entries"
            raise ValueError(f"`{name}` must have one entry for each of the {rows} memories, got {got}.")
    for name in ("document_ids", "texts", "parents"):
        _check_strings(name, given[name])
    given["metadata"] = [json_text(index, entry) for index, entry in enumerate(given["metadata"])]
    for index, order in enumerate(given["orders"]):
        if type(order) is not int or not 0 <= order < 2**63:
            raise ValueError(f"`orders[{index}]` must be a whole number of at least 0, got {order!r}.")
    check_unique("document_ids", ids)
    check_unique("parents, orders", list(zip(parents, given["orders"], strict=True)))
    return {column: list(entries) for column, entries in zip(SCHEMA.names, given.values(), strict=True)}


def _check_strings(name: str, entries: Sequence[str]) -> None:
    for index, entry in enumerate(entries):
        if not isinstance(entry, str):
            raise ValueError(f"`{name}[{index}]` must be a string, got {entry!r}: convert it with str().")
        try:
            entry.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"`{name}[{index}]` is not valid Unicode (a lone surrogate at character {error.start}): "
                "replace it, for instance with .encode('utf-8', 'replace').decode()."
            ) from error


def json_text(index: int, entry: Mapping[str, Any]) -> str:
    """Metadata as JSON text; raises ValueError, which names the index, if they cannot be written so."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"`metadata[{index}]` must be a mapping, got {type(entry).__name__}.")
    try:
        text = json.dumps(dict(entry), allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"`metadata[{index}]` cannot be written as JSON: {error}.") from error
    return text


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
