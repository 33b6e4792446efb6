"""A corpus memory whose sketches, ids and metadata lie in Milvus and whose memories lie in a store.

One client serves all sizes: `./sketches.db` is a file of milvus-lite, an address a server or a cluster. The
store is a folder or anything that fsspec knows; only the candidates' rows are read from it, by byte range.

```python
memory = MilvusMemory.build("my_memory", "./sketches.db")  # later: MilvusMemory("my_memory", "./sketches.db")
answer = model.generate("Who found Titan?", memory, where={"language": "en"})
```

Letters of the shapes: B questions, N passages, K chosen, C candidates, M memory tokens, H hidden width.
"""

import importlib
import json
import tempfile
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from .filters_clara import Where, check_where, passes, to_expression
from .index_clara import Effort
from .index_files_clara import store_digest
from .indexing_clara import RECALL, check_build, choose_effort, mixed_questions, sketch_rows
from .memory_clara import CorpusMemory
from .remote_clara import RemoteFile, open_remote
from .search_clara import check_search, default_block_size, refine, rescore
from .sketch_clara import DIMENSIONS, QuestionSketch, learn_sketches

COLLECTION = "clara"
FIELDS = ["row", "document_id", "parent", "metadata"]
INSERTED_ROWS = 1000
MOST_CANDIDATES = 16384
MOST_CHARACTERS = 65535


class MilvusMemory:
    """Searches in Milvus, reads texts and memories from the store; what a `CorpusMemory` can read, this can.

    Args:
        store: Folder or address of the store.
        uri: Milvus: a file that ends in `.db`, or `http://host:19530`.
        collection: Beginning of the collection's name; the rest is the digest of the store.
        token: Of the server.
        fingerprint: Identity of the compressor and base that must have made the memories. None: any.
        **options: Of the store's file system.

    Raises:
        FileNotFoundError: If there is no store.
        ValueError: If Milvus holds no sketches of this store, or another compressor made it.
        ModuleNotFoundError: If pymilvus is not installed.
    """

    def __init__(
        self,
        store: str,
        uri: str,
        collection: str = COLLECTION,
        token: str = "",
        fingerprint: str | None = None,
        **options: Any,
    ) -> None:
        self._table = open_remote(str(store), fingerprint, **options)
        self._client = connect(uri, token)
        self._collection = f"{collection}_{store_digest(self._table._entries)[:16]}"
        if not self._client.has_collection(self._collection):
            raise ValueError(
                f"{uri} holds no sketches of the store {store} (collection {self._collection}): it was built "
                "for another store, or the store was written anew; use `MilvusMemory.build`."
            )
        self._sketch, self.effort, self.recall = _read_sketch(_sketch_file(store, self._collection, options))
        self._client.load_collection(self._collection)

    @classmethod
    def build(
        cls,
        store: str,
        uri: str,
        collection: str = COLLECTION,
        token: str = "",
        dimensions: int = DIMENSIONS,
        questions: Tensor | None = None,
        tests: Tensor | None = None,
        recall: float = RECALL,
        **options: Any,
    ) -> "MilvusMemory":
        """Puts the sketches of a store into Milvus, in place of earlier ones of the same store.

        Args:
            store: As of the class; its folder also gets a file `sketch-….milvus` with the projection.
            uri: As of the class.
            collection: As of the class.
            token: As of the class.
            dimensions: Numbers of a sketch.
            questions: As of `CorpusMemory.build_index`; [`BuildingMixin.index_questions`] makes both.
            tests: As of `CorpusMemory.build_index`.
            recall: Recall@5 to be reached.
            **options: Of the store's file system.
        """
        table, client = open_remote(str(store), **options), connect(uri, token)
        name = f"{collection}_{store_digest(table._entries)[:16]}"
        width = table.num_memory_tokens * table.hidden_size
        check_build(table, dimensions, questions, tests, recall)
        documents, asked = learn_sketches(len(table), width, table.gather, dimensions, questions)
        tests = mixed_questions(table, 0) if tests is None else tests
        with tempfile.TemporaryFile() as file:
            rows = 1 + int(table.rows_of(torch.tensor([len(table) - 1])))
            sketches = np.memmap(file, np.float32, "w+", shape=(rows, documents.dimensions))
            truth = sketch_rows(table, documents, tests, sketches, False)
            _make_collection(client, name, documents.dimensions)
            _insert(client, name, table, sketches)
            del sketches
        client.load_collection(name)
        proposer = _Proposer(client, name, asked, rows)
        effort, found = choose_effort(proposer, tests, truth, 2 * width, recall)
        facts = {"candidates": str(effort.candidates), "recall": json.dumps({"at": truth.shape[1], **found})}
        target = _sketch_file(store, name, options)
        target.system.pipe_file(target.path, save({"axes": asked.axes.contiguous()}, metadata=facts))
        client.close()
        return cls(store, uri, collection, token, **options)

    def search(
        self,
        query: Tensor,
        retrieval_top_k: int,
        block_size: int | None = None,
        where: Where | None = None,
        exact: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `CorpusMemory.search`: Milvus proposes, exact cosines decide; `exact=True` reads all memories.

        Raises:
            TypeError: If `where` is a function, which cannot run inside Milvus.
        """
        check_search(query, self._table._shape, len(self), retrieval_top_k, block_size)
        check_where(where)
        if exact:
            return self._table.search(query, retrieval_top_k, block_size, where, True)
        count = min(len(self), int(np.ceil(self.effort.candidates * retrieval_top_k)), MOST_CANDIDATES)
        count = max(count, retrieval_top_k)
        found = self._proposed(query, count, where)
        if int((found >= 0).sum(dim=1).min()) < retrieval_top_k:  # deleted rows, or an approximate filter
            found = self._proposed(query, min(self._table._row_count(), MOST_CANDIDATES), where)
            if where is not None:
                rows = _all_passing(self._client, self._collection, where)
                passing = self._table.indices_of(rows).expand(len(query), -1)
                found = passing if len(rows) < MOST_CANDIDATES else found
        k = min(retrieval_top_k, int((found >= 0).sum(dim=1).min())) if found.shape[1] else 0
        if k == 0:
            return query.new_empty(len(query), 0).float(), query.new_empty(len(query), 0, dtype=torch.long)
        block_size = block_size or default_block_size(self.num_memory_tokens * self.hidden_size)
        candidates = refine(query, found, self.gather, k, block_size)
        return rescore(query, candidates, self.gather, k)

    def _proposed(self, query: Tensor, count: int, where: Where | None) -> Tensor:
        """Indices (B, C) of passages that Milvus proposes, -1 where there are fewer or one was deleted."""
        found = _propose(self._client, self._collection, self._sketch, query, count, where)
        return self._table.indices_of(found)

    def append(self, other: Any) -> None:
        """Raises ValueError: the store is read here."""
        raise ValueError("A memory in Milvus is read only: append to the store, then `MilvusMemory.build`.")

    def delete(self, document_ids: Any) -> int:
        """Raises ValueError: the store is read here."""
        raise ValueError("A memory in Milvus is read only: delete in the store, then `MilvusMemory.build`.")

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, key: int | slice) -> Tensor:
        return self._table[key]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._table, name)


class _Proposer:
    """What `choose_effort` needs of an index."""

    num_cells = sketch_bytes = 0

    def __init__(self, client: Any, collection: str, sketch: QuestionSketch, rows: int) -> None:
        self._where, self._rows = (client, collection, sketch), rows
        self.code_bytes = 4 * sketch.dimensions

    def __len__(self) -> int:
        return self._rows

    def propose(self, query: Tensor, count: int, cells: int = 0, reordered: int = 0) -> Tensor:
        return _propose(*self._where, query, min(count, MOST_CANDIDATES))


def connect(uri: str, token: str = "") -> Any:
    """A client of Milvus.

    Raises:
        ModuleNotFoundError: If pymilvus, or for a file milvus-lite, is not installed.
        ConnectionError: If Milvus does not answer or refuses the token.
    """
    try:
        library = importlib.import_module("pymilvus")
        return library.MilvusClient(uri=str(uri), token=token)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"Milvus needs `pip install 'clara-rag[milvus]'` ({error}).") from error
    except library.MilvusException as error:
        raise ConnectionError(
            f"Milvus at {uri} cannot be used ({error}): start it, or give another address or token."
        ) from error


def _make_collection(client: Any, name: str, dimensions: int) -> None:
    kinds = importlib.import_module("pymilvus").DataType
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("row", kinds.INT64, is_primary=True)
    for column in ("document_id", "parent"):
        schema.add_field(column, kinds.VARCHAR, max_length=MOST_CHARACTERS)
    schema.add_field("metadata", kinds.JSON)
    schema.add_field("sketch", kinds.FLOAT_VECTOR, dim=dimensions)
    index = client.prepare_index_params()
    index.add_index("sketch", index_type="AUTOINDEX", metric_type="IP")
    if client.has_collection(name):
        client.drop_collection(name)
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")


def _insert(client: Any, name: str, table: CorpusMemory, sketches: np.ndarray) -> None:
    columns = zip(table.document_ids, table.parents, table.metadata, strict=True)
    rows = table.rows_of(torch.arange(len(table))).tolist()
    waiting = []
    for row, (document_id, parent, metadata) in zip(rows, columns, strict=True):
        fields = {"row": row, "document_id": document_id, "parent": parent, "metadata": metadata}
        waiting.append({**fields, "sketch": sketches[row].tolist()})
        if len(waiting) == INSERTED_ROWS:
            client.insert(name, waiting)
            waiting = []
    if waiting:
        client.insert(name, waiting)
    client.flush(name)


def _propose(
    client: Any, name: str, sketch: QuestionSketch, query: Tensor, count: int, where: Where | None = None
) -> Tensor:
    """Rows (B, C), best first, -1 where there are fewer; what passes Milvus' filter is checked again."""
    found = client.search(
        name,
        data=sketch.project(query).tolist(),
        anns_field="sketch",
        limit=count,
        filter="" if where is None else to_expression(where),
        output_fields=["row"] if where is None else FIELDS,
    )
    rows = torch.full((len(query), count), -1)
    for number, hits in enumerate(found):
        entities = [hit["entity"] for hit in hits]
        kept = [item["row"] for item in entities if where is None or passes(where, _fields(item))]
        rows[number, : len(kept)] = torch.tensor(kept, dtype=torch.long)
    return rows


def _all_passing(client: Any, name: str, where: Where) -> Tensor:
    """Rows (n,) that pass a filter under which the index found too few; at most 16,384."""
    found = client.query(name, filter=to_expression(where), output_fields=FIELDS, limit=MOST_CANDIDATES)
    return torch.tensor([item["row"] for item in found if passes(where, _fields(item))], dtype=torch.long)


def _fields(entity: Any) -> dict[str, Any]:
    return {**entity["metadata"], "document_id": entity["document_id"], "parent": entity["parent"]}


def _sketch_file(store: str, collection: str, options: dict[str, Any]) -> RemoteFile:
    system, root = importlib.import_module("fsspec").core.url_to_fs(str(store), **options)
    return RemoteFile(system, f"{root}/sketch-{collection}.milvus")


def _read_sketch(file: RemoteFile) -> tuple[QuestionSketch, Effort, dict[str, Any]]:
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    return (
        QuestionSketch(load(content)["axes"]),
        Effort(float(header["candidates"]), 0),
        json.loads(header["recall"]),
    )
