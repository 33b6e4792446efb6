"""What was left out while documents were read, and why."""

import logging
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)


class Skipped:
    """A list of files and rows that gave no document, each with the reason.

    Args:
        strict: Raise an error at the first one.
        quiet: Do not log them, for instance because they were logged when the files were surveyed.
    """

    def __init__(self, strict: bool = False, quiet: bool = False) -> None:
        self.strict, self.quiet = strict, quiet
        self._found: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._found)

    def add(self, place: str | Path, reason: str) -> None:
        """Notes a file or row; if `strict`, raises it as a ValueError."""
        if self.strict:
            raise ValueError(f"{place} {reason}.")
        self._found.append((str(place), reason))
        if not self.quiet:
            logger.warning("%s %s and is left out.", place, reason)

    def told(self, most: int = 3) -> str:
        """The first ones in a line."""
        shown = "; ".join(f"{place} {reason}" for place, reason in self._found[:most])
        return shown + (f"; and {len(self) - most} more" if len(self) > most else "")
