"""A corpus memory kept in a Lance table: durable, versioned, filtered, indexed."""

from .store import CorpusStore

__all__ = ["CorpusStore"]
