"""One model at other compression rates than its own."""

from collections.abc import Iterator
from contextlib import contextmanager

from clara.modeling_clara import ClaraForRetrievalGeneration


@contextmanager
def at_rate(model: ClaraForRetrievalGeneration, num_memory_tokens: int) -> Iterator[None]:
    """Makes M memory tokens of a passage for a block of code, and slots for as many in the prompts.

    With mean pooling any M is possible: the text is cut into M spans. With memory tokens only the first of
    those that were trained can be used, so M may not be above the model's own.

    Args:
        model: Left as it was afterwards.
        num_memory_tokens: M; it must divide `doc_max_length`.

    Raises:
        ValueError: If this model cannot make M memory tokens.
    """
    config, processor = model.config, model.processor
    learned = config.pooling == "memory_tokens"
    most = config.num_memory_tokens if learned else config.doc_max_length
    if not 1 <= num_memory_tokens <= most or config.doc_max_length % num_memory_tokens:
        raise ValueError(
            f"`num_memory_tokens` must divide `doc_max_length` = {config.doc_max_length} and be at most "
            f"{most} for this model, got {num_memory_tokens}."
        )
    rate, slots = config.compression_rate, processor.num_memory_tokens
    tokens = model.memory_tokens.data if learned else None
    try:
        config.compression_rate = config.doc_max_length // num_memory_tokens
        processor.num_memory_tokens = num_memory_tokens
        if learned:
            model.memory_tokens.data = tokens[:num_memory_tokens]
        yield
    finally:
        config.compression_rate, processor.num_memory_tokens = rate, slots
        if learned:
            model.memory_tokens.data = tokens
