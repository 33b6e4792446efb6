"""Memories that are not stored: passages compressed when they are asked for, the latest ones kept in RAM.

Letters of the shapes: n passages of a shard, k rows asked for, M memory tokens, H hidden width.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

RECOMPUTE = "recompute"
CACHE_ROWS = 4096
Compress = Callable[[list[str]], Tensor]


class Recompressor:
    """Compresses passages for a store of texts alone, with a cache of the latest; all its shards share one.

    Args:
        compress: Gives memories (k, M, H) for k texts. None until a model is attached.
        size: Most memories in the cache.
    """

    def __init__(self, compress: Compress | None = None, size: int = CACHE_ROWS) -> None:
        self.compress, self.size = compress, size
        self._cache: OrderedDict[str, Tensor] = OrderedDict()

    def fresh(self, texts: list[str], shape: tuple[int, int]) -> Tensor:
        """Memories (k, M, H) of texts, float32 on the CPU, past the cache.

        Raises:
            ValueError: If no model is attached, or it makes memories of another shape.
        """
        if self.compress is None:
            raise ValueError(
                "This corpus memory stores texts alone (`dtype` recompute) and has no model to compress "
                "them: open it with `model.load_memory(folder)`."
            )
        if not texts:
            return torch.empty(0, *shape)
        memory = self.compress(texts).float().cpu()
        if tuple(memory.shape) != (len(texts), *shape):
            raise ValueError(f"The model makes memories of (M, H) {tuple(memory.shape[1:])}, not {shape}.")
        return memory

    def cached(self, texts: list[str], shape: tuple[int, int]) -> Tensor:
        """Memories (k, M, H) of texts; only those that are not in the cache are compressed, each once."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._cache]
        made = dict(zip(missing, self.fresh(missing, shape), strict=True)) if missing else {}
        found = [made[text] if text in made else self._cache[text] for text in texts]
        for text in dict.fromkeys(texts):
            self._cache[text] = self._cache.pop(text) if text in self._cache else made[text].clone()
        while len(self._cache) > self.size:
            self._cache.popitem(last=False)
        return torch.stack(found) if found else torch.empty(0, *shape)

    def __getstate__(self) -> dict:
        return {"size": self.size}

    def __setstate__(self, state: dict) -> None:
        self.__init__(size=state["size"])


class TextMemory:
    """Memories (n, M, H) of a shard that stores texts alone.

    Rows at indices go through the cache; a slice, as of a pass over all passages, goes past it.

    Args:
        texts: n texts.
        shape: (M, H).
        source: What compresses them.
    """

    dtype = RECOMPUTE

    def __init__(self, texts: Sequence[str], shape: tuple[int, int], source: Recompressor) -> None:
        self._texts, self._shape, self.source = texts, tuple(shape), source

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        if isinstance(rows, slice):
            return self.source.fresh(list(self._texts[rows]), self._shape)
        return self.source.cached([self._texts[row] for row in rows.tolist()], self._shape)

    def packed(self, rows: slice | Tensor) -> tuple[Tensor, ...]:
        """The tensors that are stored: none."""
        return ()
