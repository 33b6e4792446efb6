"""Building a store in parts, by any number of processes and machines, with one commit.

A part is written as fragments of Lance that no version names yet; its `part-….json` says that it is
complete. The commit names all of them, in the order of their numbers. Killed at any moment, a build goes on
where it stopped.
"""

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from lance.fragment import FragmentMetadata, write_fragments

from .commits import ROWS_PER_FILE
from .schema import Facts, empty_fields, table_schema, to_table
from .search import WORDS_INDEX, index_names, index_words
from .store import CorpusStore
from .writing import BUILD, PLAN, clean, local_folder

FRAGMENT_BYTES = 1 << 28


@dataclass(frozen=True)
class BuildPlan:
    """Everything that decides the rows of a store; the number of workers is no part of it.

    Attributes:
        parts: How many parts there are.
        fingerprint: Identity of the compressor and base.
        base: Name and revision of the base model.
        dtype: Format of the memories.
        hidden_size: H.
        width: D, the width of a search vector.
        fields: What `encode_fields` gives of the fields of the metadata.
        source: Whatever else decides the rows: files with checksums, batch size; a change of it is refused.
    """

    parts: int
    fingerprint: str | None
    base: dict[str, Any] | None
    dtype: str
    hidden_size: int
    width: int
    fields: str = ""
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def facts(self) -> Facts:
        """What all rows share."""
        return Facts(self.fingerprint, self.base, self.dtype, self.hidden_size, self.width)


def encode_fields(fields: pa.StructType) -> str:
    """The fields of metadata as text for a plan."""
    return base64.b64encode(pa.schema(list(fields)).serialize().to_pybytes()).decode()


def decode_fields(text: str) -> pa.StructType:
    """The fields of metadata of a plan."""
    if not text:
        return empty_fields()
    return pa.struct(list(pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))))


class StoreBuild:
    """A build of a store in a folder of this machine, or of a file system that all workers share.

    Args:
        uri: The folder of the store.

    Raises:
        ValueError: If it is an address of object storage.
    """

    def __init__(self, uri: str | os.PathLike) -> None:
        folder = local_folder(str(uri))
        if folder is None:
            raise ValueError(
                f"`uri` {uri} is no folder: build on a file system that all workers share, and copy the "
                "folder."
            )
        self.uri, self.folder, self._state = str(uri), folder, folder / BUILD

    @property
    def state(self) -> Path:
        """The folder of what is known of the build; it goes with the end of the build."""
        return self._state

    @property
    def begun(self) -> bool:
        """Whether there is a build that is not finished."""
        return (self._state / PLAN).is_file()

    @property
    def plan(self) -> BuildPlan:
        """The plan.

        Raises:
            FileNotFoundError: If no build was begun.
        """
        if not self.begun:
            raise FileNotFoundError(f"No build was begun in {self.uri}: call `begin`.")
        return BuildPlan(**json.loads((self._state / PLAN).read_text(encoding="utf-8")))

    def begin(self, plan: BuildPlan) -> None:
        """Writes the plan, or checks that the build there was begun with the same one.

        Raises:
            FileExistsError: If there is a store already.
            ValueError: If it was begun with another plan; names what differs.
        """
        if not self.begun:
            if CorpusStore.open(self.uri).version:
                raise FileExistsError(
                    f"{self.uri} holds a store already: append to it, or name another folder."
                )
            shutil.rmtree(self._state, ignore_errors=True)  # of a build that was ended half
            self._state.mkdir(parents=True)
            self._put(PLAN, asdict(plan))
            return
        there = asdict(self.plan)
        changed = [
            name for name, value in json.loads(json.dumps(asdict(plan))).items() if there[name] != value
        ]
        changed += [f"source {name}" for name in _differing(there["source"], plan.source)]
        if changed:
            raise ValueError(
                f"The build in {self.uri} was begun with another {', '.join(changed)}: finish it as it was "
                "begun, or "
                "`discard` it and begin again."
            )

    def is_done(self, part: int) -> bool:
        """Whether a part is complete."""
        return (self._state / f"part-{part:05d}.json").is_file()

    def waiting(self) -> list[int]:
        """The parts that are not complete."""
        return [part for part in range(self.plan.parts) if not self.is_done(part)]

    def write(self, part: int, memories: Iterable[Any]) -> None:
        """Writes one part, unless it is complete.

        Args:
            part: Its number, from 0.
            memories: Corpus memories of the plan's model, whose passages come one after the other.

        Raises:
            ValueError: If another model made a memory.
            RuntimeError: If another process is at work on the part.
        """
        if self.is_done(part):
            return
        try:
            with FileLock(self._state / f"part-{part:05d}.lock", timeout=0, thread_local=False):
                self._write(part, memories)
        except Timeout as error:
            raise RuntimeError(f"Another process is at work on part {part} of {self.uri}.") from error

    def _write(self, part: int, memories: Iterable[Any]) -> None:
        plan, digests, waiting, written = self.plan, [], [], []
        fields = decode_fields(plan.fields)
        schema = table_schema(plan.facts, fields)

        def flush() -> None:
            table = pa.concat_tables(waiting)
            options = {"schema": schema, "mode": "create", "max_rows_per_file": ROWS_PER_FILE}
            written.extend(write_fragments(table, self.uri, **options))
            waiting.clear()

        for memory in memories:
            if memory.fingerprint != plan.fingerprint:
                raise ValueError(
                    f"The model of fingerprint {memory.fingerprint} is not the one of the build "
                    f"({plan.fingerprint}): give the model as then."
                )
            digests.extend(map(_digest, memory.document_ids))
            waiting.append(to_table(memory, plan.facts, fields))
            if sum(table.nbytes for table in waiting) >= FRAGMENT_BYTES:
                flush()
        if waiting:
            flush()
        np.save(self._state / f"part-{part:05d}.npy", np.array(digests, "S16"))
        self._put(f"part-{part:05d}.json", {"fragments": [fragment.to_json() for fragment in written]})

    def commit(self) -> CorpusStore:
        """Makes the store of all parts, at once, and ends the build.

        Raises:
            FileNotFoundError: If a part is not complete.
            ValueError: If an id of a passage occurs twice.
            RuntimeError: If another process commits.
        """
        try:
            with FileLock(self._state / "commit.lock", timeout=0, thread_local=False):
                return self._commit()
        except Timeout as error:
            raise RuntimeError(f"Another process commits the build in {self.uri}.") from error

    def _commit(self) -> CorpusStore:
        plan, waiting = self.plan, self.waiting()
        if waiting:
            raise FileNotFoundError(
                f"{len(waiting)} parts are not complete, first {waiting[0]}: write them first."
            )
        if not CorpusStore.open(self.uri).version:
            self._check_unique(plan.parts)
            schema = table_schema(plan.facts, decode_fields(plan.fields))
            found = [
                FragmentMetadata.from_json(json.dumps(text) if isinstance(text, dict) else text)
                for part in range(plan.parts)
                for text in json.loads((self._state / f"part-{part:05d}.json").read_text())["fragments"]
            ]
            lance.LanceDataset.commit(self.uri, lance.LanceOperation.Overwrite(schema, found))
        dataset = lance.dataset(self.uri)
        if WORDS_INDEX not in index_names(dataset):
            index_words(dataset)
        clean(self.uri, None)
        self._end()
        return CorpusStore.open(self.uri)

    def _end(self) -> None:
        """Removes what is known of the build; without its plan the rest of it means nothing."""
        (self._state / PLAN).unlink(missing_ok=True)
        shutil.rmtree(self._state, ignore_errors=True)

    def _check_unique(self, parts: int) -> None:
        digests = np.concatenate([np.load(self._state / f"part-{part:05d}.npy") for part in range(parts)])
        if len(np.unique(digests)) < len(digests):
            raise ValueError(
                f"Passages of the build in {self.uri} share an id, such as the document 'x#0' and the "
                "first passage of "
                "a split document 'x': rename the document, `discard` the build and begin again."
            )

    def discard(self) -> None:
        """Removes a build that is not finished, with all its parts; a store that is there stays."""
        if CorpusStore.open(self.uri).version:
            clean(self.uri, None)
            self._end()
        elif self._state.is_dir():
            self._end()
            shutil.rmtree(self.folder / "data", ignore_errors=True)

    def _put(self, name: str, content: Any) -> None:
        temporary = self._state / f"{name}.{os.getpid()}.tmp"
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._state / name)


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    plain = json.loads(json.dumps(new))
    return [name for name in {**old, **plain} if old.get(name) != plain.get(name)]


def file_facts(path: str | os.PathLike) -> dict[str, Any]:
    """Size and SHA-256 of a source file: in `BuildPlan.source` an edit is noticed when the build goes on."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"path": str(path), "bytes": os.path.getsize(path), "sha256": digest.hexdigest()}
