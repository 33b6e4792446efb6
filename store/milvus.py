"""The search vectors of a store in Milvus; ids, texts and memories stay in the store.

Letters of the shapes: B questions, N passages, K chosen, D width of a search vector.
"""

import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..retrieval_clara import check_search
from .ranking import COMPARISONS, check_where, condition_values, read_ids
from .store import CorpusStore

COLLECTION = "clara"
INSERTED_ROWS = 1000
MOST_CHARACTERS = 65535


class MilvusMemory:
    """Searches in Milvus and reads everything else from the version of the store that `build` was given.

    Args:
        store: The store, at the version that Milvus was built from.
        uri: Milvus: a file that ends in `.db` (milvus-lite), or `http://host:19530`.
        collection: Beginning of the collection's name; the rest is the version of the store.
        token: Of the server.

    Raises:
        ValueError: If Milvus holds no vectors of this version.
        ModuleNotFoundError: If pymilvus is not installed.
        ConnectionError: If Milvus does not answer.
    """

    def __init__(self, store: CorpusStore, uri: str, collection: str = COLLECTION, token: str = "") -> None:
        self._store, self._client = store, connect(uri, token)
        self._name = f"{collection}_{store.version}"
        if not self._client.has_collection(self._name):
            raise ValueError(
                f"{uri} holds no vectors of version {store.version} of the store {store.uri}: use "
                "`MilvusMemory.build`, or open the version that it was built from."
            )
        self._client.load_collection(self._name)

    @classmethod
    def build(
        cls, store: CorpusStore, uri: str, collection: str = COLLECTION, token: str = ""
    ) -> "MilvusMemory":
        """Puts vectors, ids and metadata of a store into Milvus, in place of those of the same version."""
        client, name = connect(uri, token), f"{collection}_{store.version}"
        _make_collection(client, name, store.facts.width)
        waiting, index = [], 0
        columns = ["id", "parent", "metadata_json", "vector"]
        for batch in store._dataset.to_batches(columns=columns, batch_size=INSERTED_ROWS):
            for row in batch.to_pylist():
                vector = np.asarray(row["vector"], np.float32).tolist()
                metadata = json.loads(row["metadata_json"])
                names = {"document_id": row["id"], "parent": row["parent"]}
                waiting.append({"row": index, **names, "metadata": metadata, "vector": vector})
                index += 1
            client.insert(name, waiting)
            waiting = []
        client.flush(name)
        client.close()
        return cls(store, uri, collection, token)

    def search(
        self,
        vectors: Tensor,
        k: int,
        questions: Sequence[str] | None = None,
        where: str | Mapping[str, Any] | None = None,
        hybrid: float | bool | None = None,
        exact: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `CorpusStore.search`, by Milvus; what it cannot do (`hybrid`, `exact=True`, SQL) the store does.

        Returns:
            (B, K) float32 cosines and int64 indices on the CPU, best first; fewer columns if fewer pass.
        """
        if hybrid or exact or isinstance(where, str):
            return self._store.search(vectors, k, questions, where, hybrid, exact)
        query = check_search(vectors, k, len(self), self._store.facts.width)
        found = self._client.search(
            self._name,
            data=query.tolist(),
            anns_field="vector",
            limit=k,
            filter="" if where is None else to_expression(where),
            output_fields=["row"],
        )
        columns = min(len(hits) for hits in found)
        rows = [[hit["entity"]["row"] for hit in hits[:columns]] for hits in found]
        scores = [[hit["distance"] for hit in hits[:columns]] for hits in found]
        indices = torch.tensor(rows, dtype=torch.long).view(len(query), columns)
        return torch.tensor(scores, dtype=torch.float32).view(len(query), columns).clamp(-1, 1), indices

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._store[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._store, name)


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


def _make_collection(client: Any, name: str, width: int) -> None:
    kinds = importlib.import_module("pymilvus").DataType
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("row", kinds.INT64, is_primary=True)
    for column in ("document_id", "parent"):
        schema.add_field(column, kinds.VARCHAR, max_length=MOST_CHARACTERS)
    schema.add_field("metadata", kinds.JSON)
    schema.add_field("vector", kinds.FLOAT_VECTOR, dim=width)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
    if client.has_collection(name):
        client.drop_collection(name)
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")


def to_expression(where: Mapping[str, Any]) -> str:
    """A filter (see `check_where`) in the language of Milvus.

    Raises:
        ValueError: If it is malformed.
    """
    check_where(where)
    parts = []
    for name, condition in read_ids(where).items():
        columns = {"id": "document_id", "parent": "parent"}
        place = columns.get(name) or "metadata" + "".join(f"[{_literal(key)}]" for key in name.split("."))
        if isinstance(condition, Mapping):
            parts += [
                f"{place} {sign} {_literal(condition[sign])}" for sign in COMPARISONS if sign in condition
            ]
        else:
            equal = [f"{place} == {_literal(value)}" for value in condition_values(condition)]
            parts.append(f"({' or '.join(equal)})")
    return " and ".join(parts)


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
