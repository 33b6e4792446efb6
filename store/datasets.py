"""A store as a `datasets.Dataset` and back, for corpora that fit into RAM; `hub.push` sends larger ones."""

import json
from typing import Any

import torch
from datasets import Dataset, Features, List, Value

from ..memory_clara import CorpusMemory
from .store import CorpusStore

FEATURES = Features(
    {
        "id": Value("string"),
        "text": Value("string"),
        "parent": Value("string"),
        "order": Value("int64"),
        "metadata": Value("string"),
        "vector": List(Value("float32")),
        "memory": List(List(Value("float32"))),
        "made_by": Value("string"),
    }
)
MAKER = ("fingerprint", "base", "dtype")


def to_dataset(store: CorpusStore) -> Dataset:
    """The passages of a store, a row each.

    Args:
        store: A `CorpusStore`.

    Returns:
        A data set with the columns of `FEATURES`. `metadata` and `made_by` (the compressor's fingerprint, the
        base and the format of the memories) are JSON; `vector` is the search vector (D,), `memory` is (m, H).

    Raises:
        ValueError: If the store is empty, or a passage was altered on the disk.
    """
    memory = store.to_memory()
    columns = {
        "id": memory.document_ids,
        "text": memory.texts,
        "parent": memory.parents,
        "order": memory.orders,
        "metadata": [json.dumps(entry) for entry in memory.metadata],
        "vector": memory.vectors.tolist(),
        "memory": [rows.float().tolist() for rows in memory.gather(range(len(memory)))],
        "made_by": [json.dumps({name: getattr(memory, name) for name in MAKER})] * len(memory),
    }
    return Dataset.from_dict(columns, features=FEATURES)


def from_dataset(dataset: Dataset, uri: Any) -> CorpusStore:
    """A new store from the rows of `to_dataset`.

    Args:
        dataset: What `to_dataset` gave, or rows of it.
        uri: Where the store is to be.

    Raises:
        ValueError: If columns are missing, there is no row, rows of several compressors are mixed, or the
            store holds one of the documents already.
    """
    missing = sorted(set(FEATURES) - set(dataset.column_names))
    if missing:
        raise ValueError(f"`dataset` lacks the columns {missing}: make it with `to_dataset`.")
    makers = dataset.unique("made_by")
    if len(makers) != 1:
        raise ValueError(f"`dataset` must hold rows of one compressor, got those of {len(makers)}.")
    made_by = json.loads(makers[0])
    columns = dataset.to_dict()
    memory = CorpusMemory(
        [torch.tensor(rows) for rows in columns["memory"]],
        texts=columns["text"],
        document_ids=columns["id"],
        metadata=[json.loads(text) for text in columns["metadata"]],
        parents=columns["parent"],
        orders=columns["order"],
        vectors=torch.tensor(columns["vector"]),
        **made_by,
    )
    store = CorpusStore.open(uri, fingerprint=made_by["fingerprint"], dtype=made_by["dtype"])
    store.append(memory)
    return store
