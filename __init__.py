"""CLaRa: retrieval and generation in one continuous space.

The names below are imported when they are first used, so that importing the package alone is quick.
"""

import importlib

__version__ = "0.1.0"
_NAMES = {
    "ClaraConfig": "configuration_clara",
    "ClaraForRetrievalGeneration": "modeling_clara",
    "ClaraProcessor": "processing_clara",
    "ClaraTrainer": "train",
    "ClaraTrainingConfig": "train",
    "CorpusMemory": "memory_clara",
    "CorpusStore": "store",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> object:
    """Imports one of the names."""
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}.")
    return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """The names that can be imported."""
    return [*globals(), *__all__]
