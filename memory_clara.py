"""CorpusMemory: the memories of a corpus with ids, texts and metadata; append, delete, search, save, load.

Letters of the shapes: B questions, N passages, K chosen, M memory tokens, H hidden width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .columns_clara import arrow_chunks
from .formats_clara import check_memory, format_name
from .manifest_clara import check_identity
from .passages_clara import check_passages
from .recompute_clara import RECOMPUTE, Compress, Recompressor, TextMemory
from .rows_clara import PackedMemory
from .shards_clara import Shard
from .table_clara import MemoryTable
from .tombstones_clara import find_passages, first_common
from .words_clara import WordsMixin
from .writer_clara import StoreWriter

INTERFACE = (
    "texts",
    "document_ids",
    "num_memory_tokens",
    "hidden_size",
    "stored_dtype",
    "fingerprint",
    "gather",
    "search",
    "append",
    "delete",
)


def is_corpus_memory(value: Any) -> bool:
    """Whether a value is a corpus memory, be it of another copy of this class (remote code makes copies)."""
    return all(hasattr(value, name) for name in INTERFACE)


class CorpusMemory(WordsMixin):
    """N passages with their memories, for search and for generation.

    Args:
        memory: (N, M, H) float32, float16 or bfloat16. It is not copied: do not change it afterwards.
        texts: N texts.
        document_ids: N unique strings. Default: "0", "1", …
        metadata: N JSON-serialisable mappings. Default: empty.
        parents: N ids of the documents that the passages were cut from. Default: each passage's own id.
        orders: N places of the passages in their parents. Default: 0.
        fingerprint: Identity of the compressor, memory tokens and base that made the memories.
        base: `{"name", "revision"}` of the base model, for the reader of the manifest.
        dtype: Format in which the memories are kept and stored: a float dtype, "int8" or "int4". Default: the
            dtype of `memory`.

    Raises:
        ValueError: If there is no passage, lengths differ, an id occurs twice, a memory holds NaN or an
            infinity, or a text is not valid Unicode. The message names the index.

    A memory that was loaded from a folder reads rows and texts from there when they are asked for: keep the
    folder while the memory is in use.
    """

    def __init__(
        self,
        memory: Tensor,
        texts: Sequence[str],
        document_ids: Sequence[str] | None = None,
        metadata: Sequence[dict] | None = None,
        parents: Sequence[str] | None = None,
        orders: Sequence[int] | None = None,
        fingerprint: str | None = None,
        base: dict | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> None:
        memory = check_memory(memory)
        if dtype == RECOMPUTE:
            raise ValueError("`dtype` recompute stores no memory: use `of_texts` or `model.build_memory`.")
        columns = check_passages(len(memory), texts, document_ids, metadata, parents, orders)
        check_identity(fingerprint, base)
        shards = [Shard(PackedMemory.joined([memory], format_name(dtype or memory.dtype)), columns)]
        MemoryTable.__init__(self, shards, memory.shape[1:], shards[0].memory.dtype, fingerprint, base)

    @classmethod
    def of_texts(
        cls,
        shape: tuple[int, int],
        columns: dict[str, list],
        fingerprint: str | None,
        base: dict | None,
        compress: Compress | None = None,
    ) -> "CorpusMemory":
        """A memory that stores texts alone and compresses passages when they are asked for (`recompute`).

        Args:
            shape: (M, H).
            columns: The passages, as `check_passages` gives them.
            fingerprint: Identity of the model that compresses them.
            base: Its base.
            compress: Gives memories (k, M, H) for k texts.
        """
        memory = cls.__new__(cls)
        shard = Shard(TextMemory(columns["text"], shape, Recompressor(compress)), columns)
        MemoryTable.__init__(memory, [shard], shape, RECOMPUTE, fingerprint, base)
        return memory

    def append(self, other: "CorpusMemory") -> None:
        """Adds the passages of another corpus memory, in place; its memories take this one's format.

        Memories of the same format are not copied: keep the folder of a stored one until this one is saved.

        Raises:
            TypeError: If `other` is not a corpus memory.
            ValueError: If another compressor or base made it, M or H differ, or an id is here already.
                Nothing is added then.
        """
        if not is_corpus_memory(other):
            raise TypeError(f"`other` must be a corpus memory, got {type(other).__name__}.")
        self._check_kin(other)
        self._check_new(other)
        shards = [shard.flat() for shard in other._shards]
        if other.stored_dtype != self.stored_dtype:
            shards = [shard.converted(self.stored_dtype) for shard in shards]
        self._hold([*self._shards, *shards])

    def _check_new(self, other: "CorpusMemory") -> None:
        """Compares ids as Arrow arrays: no Python string is made of the ids of either."""
        for theirs in other._shards:
            for wanted in arrow_chunks(theirs.column("document_id")):
                hit = first_common(self._shards, wanted)
                if hit is not None:
                    raise ValueError(f"`other` has the id {hit!r}, which this memory has already: rename it.")

    def delete(self, document_ids: Sequence[str]) -> int:
        """Deletes passages, in place: no search, index, text or length counts them any more.

        In the store that this memory was loaded from, `save_pretrained` marks them as deleted; `compact` also
        removes their bytes.

        Args:
            document_ids: Ids of passages, or of split documents, which lose all their passages.

        Returns:
            How many passages were deleted.

        Raises:
            ValueError: If an id is not here, or none would be left. Nothing is deleted then.
        """
        masks = find_passages(self._shards, document_ids)
        deleted = np.concatenate(masks)
        count = int(deleted.sum())
        if count == len(self):
            raise ValueError("`document_ids` are all of this memory: one passage at least must stay.")
        self._norms = self._norms[~deleted[: len(self._norms)]]
        self._hold([shard.without(mask) for shard, mask in zip(self._shards, masks, strict=True)])
        return count

    def _check_kin(self, other: "CorpusMemory") -> None:
        if other.fingerprint != self.fingerprint:
            raise ValueError(
                f"`other` has fingerprint {other.fingerprint}, this memory {self.fingerprint}: another "
                "compressor or base made it; build it again with this memory's model."
            )
        shape = (other.num_memory_tokens, other.hidden_size)
        if shape != self._shape:
            raise ValueError(f"`other` has (M, H) = {shape}, this memory {self._shape}: they must be equal.")


class CorpusMemoryWriter(StoreWriter):
    """Writes a corpus memory to a folder as its passages come, so that it may be larger than RAM.

    ```python
    with CorpusMemoryWriter(folder, fingerprint=model.memory_fingerprint()) as writer:
        for batch in batches:
            writer.add(batch.memory, batch.texts, batch.document_ids)
        memory = writer.finish()
    ```
    """

    def finish(self) -> CorpusMemory:
        """Completes the store and opens it.

        Raises:
            ValueError: If no passage was added.
            RuntimeError: If the writer is finished or was stopped.
        """
        self.finish_store()
        return CorpusMemory.from_pretrained(self.folder, verify=False)
