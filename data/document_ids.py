"""The ids of a corpus: each once, and none named as a part of another document."""

from ..processing_clara import PART, part_clash


class DocumentIds:
    """Ids that were seen."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._parts: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, document_id: str, place: str) -> None:
        """Adds an id.

        Raises:
            ValueError: If it was there already; begins with the place.
        """
        if document_id in self._seen:
            raise ValueError(f"{place}: the id {document_id!r} occurs twice: ids must be unique.")
        self._seen.add(document_id)
        if PART.fullmatch(document_id):
            self._parts.append((document_id, place))

    def check(self) -> None:
        """Called when all are there.

        Raises:
            ValueError: If one is named as a part of another (`d#1` beside `d`); begins with its place.
        """
        for document_id, place in self._parts:
            parent = PART.fullmatch(document_id)[1]
            if parent in self._seen:
                raise ValueError(f"{place}: {part_clash(document_id, parent)}")
