"""A question that leans on the turns before it, in words that stand alone: CLaRa reads single questions."""

from collections.abc import Sequence
from typing import Any

from ..adapters_clara import wearing
from ..prompts_clara import plain_ids, standalone_prompt

LONGEST_QUESTION = 64


def standalone_question(model: Any, turns: Sequence[tuple[str, str]]) -> tuple[str, int]:
    """What the base, wearing no adapter, makes of a chat's last question; the model's lock is held meanwhile.

    Args:
        model: A `ClaraForRetrievalGeneration` with its processor, in eval mode.
        turns: Role and text of each turn, the question last.

    Returns:
        The question, as it was given if the base writes nothing, and how many turns were read: the last ones
        that fill half a prompt at most.
    """
    processor, texts = model.processor, [f"{role}: {text}" for role, text in turns]
    room = processor.prompt_max_length // 2
    while texts and len(plain_ids(processor.tokenizer, ["\n".join(texts)])[0]) > room:
        del texts[0]
    if len(texts) < 2:
        return turns[-1][1], 1
    batch = processor.encode_messages([standalone_prompt()], [[]], ["\n".join(texts)]).to(model.device)
    options = {"generation_config": model.generation_config, "do_sample": False}
    with model.lock, wearing(model.decoder):
        ids = model.decoder.generate(**batch, **options, max_new_tokens=LONGEST_QUESTION)[0]
    written = processor.tokenizer.decode(ids[batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return written.strip().partition("\n")[0].strip() or turns[-1][1], len(texts)
