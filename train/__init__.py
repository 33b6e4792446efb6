"""The three training stages: arguments, stages, losses, trainer."""

import importlib

_NAMES = {
    "ClaraTrainer": "trainer",
    "ClaraTrainingConfig": "arguments",
    "PretrainingRecord": "trainer",
    "QuestionRecord": "trainer",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> object:
    """Imports a name when it is first used: importing the package alone loads nothing."""
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}.")
    return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """The names that can be imported."""
    return [*globals(), *__all__]
