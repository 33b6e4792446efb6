"""A corpus memory kept in a Lance table: durable, versioned, filtered, indexed."""

import importlib

__all__ = ["CorpusStore"]


def __getattr__(name: str) -> object:
    """Imports `CorpusStore` when it is asked for: filters and words of a plain memory need no Lance."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}.")
    try:
        return importlib.import_module(".store", __name__).CorpusStore
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"A store needs Lance: `pip install 'clara-rag[store]'` ({error})."
        ) from error
