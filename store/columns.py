"""A column of a store, read where it is asked for."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from .writing import reported

KEPT = 4096
BATCH_ROWS = 8192


class Column(Sequence):
    """One column of a version of a store as a sequence of N values; the last few thousand read stay in RAM.

    Args:
        dataset: The Lance dataset.
        uri: Where it lies.
        name: The column.
        convert: What becomes of each value.
    """

    def __init__(
        self, dataset: Any, uri: str, name: str, convert: Callable[[Any], Any] | None = None
    ) -> None:
        self._dataset, self._uri, self._name = dataset, uri, name
        self._convert = convert or (lambda value: value)
        self._length = dataset.count_rows()
        self._kept: dict[int, Any] = {}

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be below the {len(self)} passages, got {index}.")
        return self.take([index % len(self)])[0]

    def __iter__(self) -> Iterator[Any]:
        batches = self._dataset.to_batches(columns=[self._name], batch_size=BATCH_ROWS)
        while True:
            with reported(self._uri):
                batch = next(batches, None)
            if batch is None:
                return
            yield from self._values(batch.column(0))

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None

    def take(self, indices: Sequence[int]) -> list:
        """The values at indices from 0 to N - 1."""
        missing = [index for index in dict.fromkeys(indices) if index not in self._kept]
        if missing:
            if len(self._kept) + len(missing) > KEPT:
                self._kept = {index: self._kept[index] for index in indices if index in self._kept}
            with reported(self._uri):
                table = self._dataset.take(np.array(missing, np.int64), columns=[self._name])
            self._kept.update(zip(missing, self._values(table.column(0)), strict=True))
        return [self._kept[index] for index in indices]

    def _values(self, column: Any) -> list:
        if column.null_count:
            raise ValueError(
                f"`{self._name}` is missing in passages of {self._uri}: the store was altered, restore an "
                "earlier version."
            )
        return [self._convert(value) for value in column.to_pylist()]
