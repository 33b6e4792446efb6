"""The key-value cache of the answers being written: rows join and leave between two steps.

Letters of the shapes: B rows, L columns, H hidden width, V vocabulary. Rows are padded on the left, so all
write into the same next column; a joining row is aligned at the right edge. Its keys carry the positions they
were made with, so a shift to the right changes nothing.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from ..adapters_clara import wearing
from ..modeling_clara import positions

# Tokens of prompts in one pass. What a pass needs on the way grows with them, on a CPU by 0.4 MB a token with
# SmolLM2-135M: without a bound, memory would follow the number of questions that happen to come together.
READ_TOKENS = 512


class RunningBatch:
    """B rows in one cache. The decoder wears the generator during a pass only.

    Args:
        model: A `ClaraForRetrievalGeneration` in eval mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._last = {"logits_to_keep": 1} if model.decoder._supports_logits_to_keep() else {}
        self.clear()

    def clear(self) -> None:
        """Forgets every row."""
        self.cache = DynamicCache()
        self.mask = torch.empty(0, 0, dtype=torch.long, device=self.model.device)

    def __len__(self) -> int:
        return len(self.mask)

    @torch.no_grad()
    def read(self, embeds: Tensor, mask: Tensor) -> tuple[Tensor, DynamicCache]:
        """Reads prompts, in passes of `READ_TOKENS` at most or of one prompt, each as wide as its longest.

        Args:
            embeds: (B, L, H).
            mask: (B, L).

        Returns:
            The logits behind them (B, V), and a cache to `change` with.
        """
        parts, logits = [], []
        for rows in passes(mask.sum(dim=-1).tolist()):
            kept = mask[rows]
            first = int(kept.any(dim=0).long().argmax())
            kept, some = kept[:, first:], embeds[rows][:, first:]
            parts.append(DynamicCache())
            logits.append(self._pass(parts[-1], kept, inputs_embeds=some, position_ids=positions(kept)))
        return torch.cat(logits), _stack(parts, mask.shape[1])

    @torch.no_grad()
    def step(self, tokens: list[int]) -> Tensor:
        """Reads one more token of every row: B ids -> logits (B, V)."""
        ids = torch.tensor(tokens, device=self.mask.device).unsqueeze(1)
        self.mask = functional.pad(self.mask, (0, 1), value=1)
        place = self.mask.sum(dim=-1, keepdim=True) - 1
        return self._pass(self.cache, self.mask, input_ids=ids, position_ids=place)

    def _pass(self, cache: DynamicCache, mask: Tensor, **inputs: Tensor) -> Tensor:
        decoder = self.model.decoder
        with self.model.lock, wearing(decoder, "generator"):
            out = decoder(attention_mask=mask, past_key_values=cache, use_cache=True, **self._last, **inputs)
        return out.logits[:, -1]

    def change(self, keep: list[int], mask: Tensor | None = None, cache: DynamicCache | None = None) -> None:
        """Lets rows leave and others join, in one copy.

        Args:
            keep: Rows that stay, in their new order.
            mask: (B', L') of the joining rows, which come after those.
            cache: Theirs, from `read`.
        """
        parts = [(self.cache, keep, self.mask[keep])] if keep else []
        if mask is not None:
            parts.append((cache, slice(None), mask))
        if not parts:
            self.clear()
            return
        cuts = [int(mask.any(dim=0).long().argmax()) for _, _, mask in parts]
        width = max(mask.shape[1] - cut for (_, _, mask), cut in zip(parts, cuts, strict=True))
        merged = DynamicCache()
        for number in range(len(parts[0][0].layers)):
            layers = [(cache.layers[number], rows) for cache, rows, _ in parts]
            keys = [
                _align(layer.keys, rows, cut, width) for (layer, rows), cut in zip(layers, cuts, strict=True)
            ]
            values = [
                _align(layer.values, rows, cut, width)
                for (layer, rows), cut in zip(layers, cuts, strict=True)
            ]
            merged.update(torch.cat(keys), torch.cat(values), number)
        masks = [mask[:, cut:] for (_, _, mask), cut in zip(parts, cuts, strict=True)]
        self.mask = torch.cat([functional.pad(mask, (width - mask.shape[1], 0)) for mask in masks])
        self.cache = merged


def passes(lengths: list[int]) -> Iterator[slice]:
    """Neighbouring prompts that are read at once: as many as `READ_TOKENS` hold at the longest's length."""
    start = 0
    while start < len(lengths):
        stop = start + 1
        while stop < len(lengths) and (stop + 1 - start) * max(lengths[start : stop + 1]) <= READ_TOKENS:
            stop += 1
        yield slice(start, stop)
        start = stop


def _stack(parts: list[DynamicCache], width: int) -> DynamicCache:
    """The rows of caches, one after the other, padded on the left to `width` columns."""
    whole, rows = DynamicCache(), slice(None)
    for number in range(len(parts[0].layers)):
        layers = [part.layers[number] for part in parts]
        keys = [_align(layer.keys, rows, 0, width) for layer in layers]
        whole.update(
            torch.cat(keys), torch.cat([_align(layer.values, rows, 0, width) for layer in layers]), number
        )
    return whole


def _align(states: Tensor, rows: list[int] | slice, cut: int, width: int) -> Tensor:
    """Rows of (B, heads, L, D) without their first columns, padded on the left to `width` columns."""
    states = states[:, :, cut:][rows]
    return functional.pad(states, (0, 0, width - states.shape[2], 0))
