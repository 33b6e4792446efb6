"""CorpusStore: the memories of a corpus in a Lance table, here or on object storage.

Letters of the shapes: B questions, N passages, K chosen, m_i vectors of passage i, H hidden width, D width of
a search vector.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..memory_clara import CorpusMemory, is_corpus_memory
from ..retrieval_clara import check_search, format_name
from . import search as find
from .columns import Column
from .commits import (
    ROWS_PER_FILE,
    check_apart,
    check_new,
    fields_of,
    ids_where,
    insert,
    list_versions,
)
from .indexes import INDEXED_FROM, build_ann, read_effort
from .places import Places, check_files
from .ranking import DEPTH, check_hybrid, cosines, hybrid_indices
from .schema import ROW, Facts, check_row, literals, read_facts, unpack_row
from .vectors import Vectors
from .where import to_sql
from .writing import local_folder, reported, writing

KEEP_VERSIONS = timedelta(days=1)


class CorpusStore:
    """N passages with their memories in one version of a Lance table; what `CorpusMemory` can read, this can.

    Open one with `CorpusStore.open`. A store that is open keeps its version while others write; `refresh`
    takes the latest. A writer works on the latest version, and holds other writers of this machine off; on
    object storage see to it that one process writes at a time.
    """

    def __init__(
        self, dataset: Any, uri: str, options: dict[str, str] | None, dtype: str | None = None
    ) -> None:
        self.uri, self._options, self._dtype = uri, options, dtype
        self._take(dataset)

    @classmethod
    def open(
        cls,
        uri: str,
        fingerprint: str | None = None,
        version: int | str | None = None,
        create: bool = True,
        dtype: torch.dtype | str | None = None,
        storage_options: dict[str, str] | None = None,
    ) -> "CorpusStore":
        """Opens a store.

        Args:
            uri: A folder, or an address such as `s3://bucket/notes.clara`.
            fingerprint: Identity of the compressor and base that must have made the memories. None: any.
            version: Number or tag of a version. Default: the latest.
            create: Where nothing is, give an empty store, which the first `append` makes.
            dtype: Format of the memories of a new store: a float dtype, "int8" or "int4". Default: the
                model's.
            storage_options: Of the object storage, as Lance takes them.

        Raises:
            FileNotFoundError: If there is no store and `create` is False.
            ValueError: If the table is no store, another compressor made it, or there is no such version.
        """
        uri = str(uri)
        dtype = None if dtype is None else format_name(dtype)
        with reported(uri):
            dataset = find.open_table(uri, version, storage_options)
            if dataset is None and not create:
                raise FileNotFoundError(f"There is no store at {uri}: `append` documents to make one.")
            store = cls(dataset, uri, storage_options, dtype)
        if store.facts and fingerprint is not None and store.fingerprint != fingerprint:
            raise ValueError(
                f"The store {uri} was made by another compressor or base (fingerprint {store.fingerprint}, "
                "expected "
                f"{fingerprint}): build it again with this model, or load the model that made it."
            )
        return store

    def _take(self, dataset: Any) -> None:
        folder = local_folder(self.uri)
        if dataset is not None and folder is not None:
            check_files(dataset, folder)
        self._dataset = dataset
        self.facts: Facts | None = None if dataset is None else read_facts(dataset.schema, self.uri)
        self._length = 0 if dataset is None else dataset.count_rows()
        for name in ("document_ids", "texts", "parents", "orders", "metadata", "_places", "_vectors"):
            self.__dict__.pop(name, None)

    def refresh(self) -> None:
        """Takes the latest version."""
        with reported(self.uri):
            self._take(find.open_table(self.uri, None, self._options))

    def __len__(self) -> int:
        return self._length

    @property
    def fingerprint(self) -> str | None:
        """Identity of the compressor, memory tokens and base that made the memories."""
        return self.facts.fingerprint if self.facts else None

    @property
    def base(self) -> dict[str, Any] | None:
        """Name and revision of the base model."""
        return self.facts.base if self.facts else None

    @property
    def dtype(self) -> str | None:
        """Format of the packed memories."""
        return self.facts.dtype if self.facts else self._dtype

    @property
    def hidden_size(self) -> int:
        """H."""
        return self._there().facts.hidden_size

    @property
    def version(self) -> int:
        """Number of the version that is read; 0 for a store that is not there yet."""
        return 0 if self._dataset is None else self._dataset.version

    @cached_property
    def document_ids(self) -> Sequence[str]:
        """N ids of passages, read where they are asked for."""
        return self._column("id")

    @cached_property
    def texts(self) -> Sequence[str]:
        """N texts."""
        return self._column("text")

    @cached_property
    def parents(self) -> Sequence[str]:
        """N ids of the documents that the passages were cut from."""
        return self._column("parent")

    @cached_property
    def orders(self) -> Sequence[int]:
        """N places of the passages in their documents."""
        return self._column("order")

    @cached_property
    def metadata(self) -> Sequence[dict[str, Any]]:
        """N mappings."""
        return self._column("metadata_json", json.loads)

    def _column(self, name: str, convert: Any = None) -> Sequence:
        return [] if self._dataset is None else Column(self._dataset, self.uri, name, convert)

    @cached_property
    def _places(self) -> Places:
        return Places(self._dataset)

    @cached_property
    def _vectors(self) -> Vectors:
        return Vectors(self._dataset, self._places, self.uri, self.facts.width)

    def _there(self) -> "CorpusStore":
        if self._dataset is None:
            raise ValueError(f"The store {self.uri} holds nothing yet: `append` documents first.")
        return self

    def __getitem__(self, index: int) -> dict[str, Any]:
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"`index` must be a whole number, got {index!r}: `gather` takes several.")
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be below the {len(self)} passages, got {index}.")
        row = self._rows([index % len(self)])[0]
        fields = {name: row[name] for name in ("id", "text", "parent", "order")}
        memory = unpack_row(row["memory"], self.facts)
        return {**fields, "metadata": json.loads(row["metadata_json"]), "memory": memory}

    def gather(self, indices: Sequence[int] | Tensor) -> list[Tensor]:
        """Memories (m_i, H) of passages; every one is checked against its checksum.

        Raises:
            IndexError: If an index is negative or not below N.
            ValueError: If a passage was altered on the disk; names its id.
        """
        indices = indices.tolist() if isinstance(indices, Tensor) else list(indices)
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(f"`indices` must be from 0 to {len(self) - 1}, got {index}.")
        return [unpack_row(row["memory"], self.facts) for row in self._rows(indices)]

    def _rows(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        wanted = sorted(set(indices))
        with reported(self.uri):
            rows = self._dataset.take(np.array(wanted, np.int64), columns=[*ROW, "crc"]).to_pylist()
        for row in rows:
            check_row(row, self.uri)
        by_index = dict(zip(wanted, rows, strict=True))
        return [by_index[index] for index in indices]

    @torch.no_grad()
    def search(
        self,
        vectors: Tensor,
        k: int,
        questions: Sequence[str] | None = None,
        where: str | Mapping[str, Any] | None = None,
        hybrid: float | bool | None = None,
        exact: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Finds the passages whose search vectors are nearest to the questions' by cosine.

        Args:
            vectors: (B, D) search vectors of questions.
            k: K.
            questions: B texts; needed by `hybrid`.
            where: Which passages may be found: SQL text in which fields of the metadata go by their names
                (`"year > 2020 AND author.name = 'Ann'"`), or a mapping.
            hybrid: Weight, from 0 to 1, of words (BM25), whose scores are added to the cosines, each on a
                scale from 0 to 1; True: a half.
            exact: True: compare all vectors. False: use the index. None: the index if `build_index` or
                `optimize` made one.

        Returns:
            (B, K) float32 cosines and int64 indices on the CPU, best first; with `hybrid` in the order of the
            sums. Fewer columns if fewer passages pass `where`.

        Raises:
            ValueError: If K is not from 1 to N, there is no index that `exact=False` or `hybrid` needs, or an
                argument is not as above.
        """
        query = check_search(vectors, k, len(self), self._there().facts.width)
        sql, weight = None if where is None else to_sql(where, fields_of(self._dataset)), check_hybrid(hybrid)
        with reported(self.uri, where):
            if not weight:
                return self._nearest(query, k, sql, exact)
            if questions is None or len(questions) != len(query):
                raise ValueError(f"`hybrid` needs `questions`, a text for each of the {len(query)} vectors.")
            if find.WORDS_INDEX not in find.index_names(self._dataset):
                raise ValueError(f"The store {self.uri} has no index of words yet: call `optimize` once.")
            depth = min(len(self), max(k, DEPTH))
            near = self._nearest(query, depth, sql, exact)
            words = find.by_words(self._dataset, self._places, questions, depth, sql)
            indices = hybrid_indices(near, words, weight, k)
            found = self._vectors.at(self._places.addresses(indices.flatten().numpy()))
            vectors = torch.from_numpy(found).float().view(*indices.shape, -1)
            return cosines(query, vectors), indices

    def _nearest(self, query: Tensor, k: int, sql: str | None, exact: bool | None) -> tuple[Tensor, Tensor]:
        effort = None if exact else read_effort(self._dataset)
        if exact is False and effort is None:
            raise ValueError(
                f"The store {self.uri} has no index of vectors: call `build_index`, or leave `exact=False` "
                "out."
            )
        if effort is None:
            return find.exact(self._dataset, self._places, self._vectors, query, k, sql)
        scores, indices = find.approximate(self._dataset, self._places, self._vectors, query, k, effort, sql)
        if indices.shape[1] < k:  # an index may find fewer than there are behind a narrow filter
            return find.exact(self._dataset, self._places, self._vectors, query, k, sql)
        return scores, indices

    def append(self, documents: Iterable[Any], model: Any = None, **options: Any) -> int:
        """Adds documents at the end, all of them at once: a process killed on the way adds none.

        Args:
            documents: Strings or mappings as of `build_memory`, or a corpus memory. Strings and mappings
                without an id are called by numbers, from N on.
            model: The model that compresses them; none for a corpus memory.
            **options: Of `build_memory`: `batch_size`, `show_progress`.

        Returns:
            How many passages were added.

        Raises:
            ValueError: If a document is there already, whole or split, or another model made the store.
                Nothing is added then.
            RuntimeError: If another process writes to the store.
        """
        documents = documents if is_corpus_memory(documents) else _named(documents, len(self))
        check_new(self._dataset, self.uri, _ids(documents))
        memory = self._compressed(documents, model, options)
        with self._writing(memory):
            check_new(self._dataset, self.uri, {*memory.parents, *memory.document_ids})
            self._insert(memory)
        return len(memory)

    def upsert(self, documents: Iterable[Any], model: Any = None, **options: Any) -> int:
        """Adds documents in place of those of the same ids: all passages of these go, at once.

        Args:
            documents: As of `append`.
            model: As of `append`.
            **options: As of `append`.

        Returns:
            How many passages were written.

        Raises:
            ValueError: If a new passage has the id of a passage of a document that stays, or another model
                made the store. Nothing is changed then.
            RuntimeError: If another process writes to the store.
        """
        documents = documents if is_corpus_memory(documents) else _named(documents, len(self))
        memory = self._compressed(documents, model, options)
        with self._writing(memory):
            check_apart(self._dataset, memory)
            self._insert(memory, set(memory.parents))
        return len(memory)

    def delete(self, document_ids: Sequence[str]) -> int:
        """Deletes documents with all their passages, or single passages; their bytes go with `optimize`.

        Returns:
            How many passages were deleted.

        Raises:
            ValueError: If an id is not there. Nothing is deleted then.
            RuntimeError: If another process writes to the store.
        """
        if isinstance(document_ids, str):
            raise ValueError(f"`document_ids` must be a list of ids, got one string {document_ids!r}.")
        wanted = sorted(set(document_ids))
        if not wanted:
            return 0
        names = literals(wanted)
        with self._writing():
            self._there()
            sql = f"parent IN ({names}) OR id IN ({names})"
            there = ids_where(self._dataset, sql, "id") | ids_where(self._dataset, sql, "parent")
            missing = [name for name in wanted if name not in there]
            if missing:
                raise ValueError(f"`document_ids` has {missing[0]!r}, which is not in the store.")
            before = len(self)
            self._dataset.delete(sql)
            self.refresh()
            return before - len(self)

    def optimize(self, keep_versions: timedelta = KEEP_VERSIONS) -> None:
        """Joins small files, drops deleted bytes, brings the indexes up to date and removes old versions.

        From 200,000 passages on, an index of vectors is built if there is none.

        Args:
            keep_versions: Versions younger than this stay, and so does every tagged one; who reads an older
                one has to `refresh`.
        """
        with self._writing():
            self._there()
            names = find.index_names(self._dataset)
            if find.WORDS_INDEX not in names:
                find.index_words(self._dataset)
            if len(self) >= INDEXED_FROM and find.VECTOR_INDEX not in names:
                build_ann(self._dataset, self.uri, len(self))
            self._dataset.optimize.optimize_indices()
            self._dataset.optimize.compact_files(target_rows_per_fragment=ROWS_PER_FILE)
            self._dataset.cleanup_old_versions(keep_versions, error_if_tagged_old_versions=False)
            self.refresh()

    def build_index(self, questions: Tensor | None = None, recall: float = 0.99, **options: Any) -> None:
        """Builds an index of the vectors, in place of one that is there; `search` then uses it.

        Args:
            questions: (Q, D) search vectors of questions, by which the effort of a search is chosen. Default:
                vectors of the store.
            recall: Share of the exact five nearest that the search has to find of `questions`.
            **options: Of Lance's `create_index`: `index_type`, `num_partitions`, `num_bits`, ….
        """
        with self._writing():
            self._there()
            build_ann(self._dataset, self.uri, len(self), questions, recall, **options)
            self.refresh()

    def versions(self) -> list[dict[str, Any]]:
        """The versions that are kept: `version`, `timestamp`, `passages`, `tags`."""
        return list_versions(self._there()._dataset)

    def tag(self, name: str, version: int | None = None) -> None:
        """Names a version, by default the one that is read; it is kept until `untag`."""
        tags = self._there()._dataset.tags
        (tags.update if name in tags.list() else tags.create)(name, version or self.version)

    def untag(self, name: str) -> None:
        """Takes the name from a version.

        Raises:
            ValueError: If no version has it.
        """
        if name not in self._there()._dataset.tags.list():
            raise ValueError(f"`name` {name!r} is the tag of no version: {self.uri} has other tags.")
        self._dataset.tags.delete(name)

    def to_memory(self) -> CorpusMemory:
        """This version as a plain memory in RAM, which needs no Lance."""
        rows = self.gather(range(len(self._there())))
        found = self._vectors.at(self._places.addresses(np.arange(len(self))))
        names = ("texts", "document_ids", "metadata", "parents", "orders")
        return CorpusMemory(
            torch.cat(rows),
            **{name: list(getattr(self, name)) for name in names},
            vectors=torch.from_numpy(found).float(),
            fingerprint=self.fingerprint,
            base=self.base,
            dtype=self.dtype,
            offsets=torch.tensor([0, *map(len, rows)]).cumsum(0),
        )

    def push_to_hub(self, repo_id: str, private: bool | None = None, token: str | bool | None = None) -> str:
        """Uploads this version as a dataset repository; `store.hub.from_hub` opens it.

        Returns:
            The address of the commit.
        """
        from .hub import push

        return push(self._there(), repo_id, private, token)

    @contextmanager
    def _writing(self, memory: Any = None) -> Any:
        """Holds other writers off, on the latest version; tells what a full disk or damage means."""
        with writing(self.uri, self._options), reported(self.uri):
            self.refresh()
            if memory is not None:
                self._check_kin(memory)
            yield

    def _check_kin(self, memory: Any) -> None:
        got = (memory.fingerprint, memory.values.shape[1], memory.vectors.shape[1])
        if self.facts and got != (self.facts.fingerprint, self.facts.hidden_size, self.facts.width):
            raise ValueError(
                f"The store {self.uri} was made by another compressor or base (fingerprint "
                f"{self.fingerprint}, got "
                f"{memory.fingerprint}): build it again with this model, or load the model that made it."
            )

    def _compressed(self, documents: Any, model: Any, options: Mapping[str, Any]) -> Any:
        if is_corpus_memory(documents):
            if not hasattr(documents, "values"):
                got = type(documents).__name__
                raise TypeError(f"`documents` is a {got}, which is not in RAM: give its `to_memory()`.")
            return documents
        if model is None:
            raise ValueError("`model` is missing: documents need the model that compresses them.")
        if self.facts and model.memory_fingerprint() != self.fingerprint:
            raise ValueError(
                f"The store {self.uri} was made by another compressor or base than `model`: build it again "
                "with this "
                "model, or load the model that made it."
            )
        return model.build_memory(documents, **{"show_progress": False, **options})

    def _insert(self, memory: Any, replaced: set[str] | None = None) -> None:
        """Commits rows, at once; also removes all other passages of the `replaced` documents."""
        facts = self.facts or Facts(
            memory.fingerprint,
            memory.base,
            self._dtype or memory.dtype,
            memory.values.shape[1],
            memory.vectors.shape[1],
        )
        insert(self._dataset, self.uri, memory, facts, self._options, replaced)
        self.refresh()


def _named(documents: Iterable[Any], first: int) -> list[Any]:
    """Documents in which those without an id are called by numbers."""
    named = []
    for number, document in enumerate(documents, first):
        entry = {"text": document} if isinstance(document, str) else document
        named.append({"id": str(number), **entry} if isinstance(entry, Mapping) else document)
    return named


def _ids(documents: Any) -> list[str]:
    if is_corpus_memory(documents):
        return list(documents.parents)
    return [str(document["id"]) for document in documents if isinstance(document, Mapping)]
