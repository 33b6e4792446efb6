"""Prompts of the baselines as token ids: the model's own answering prompt with documents as text, or none."""

import re
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from ..prompts_clara import SLOTS, TEXT, Messages, answer_prompt, plain_ids, render_chat, template_ids

CLOSED_BOOK_SYSTEM = (
    "You answer questions from what you know. Reply with the answer alone, as short as possible."
)
CLOSED_BOOK_USER = "Question: {question}"


def text_prompt_ids(tokenizer: PreTrainedTokenizerBase, question: str, documents: Sequence[str]) -> list[int]:
    """Ids of the prompt that CLaRa answers from, with the documents' text where the memories would be."""
    return _filled(tokenizer, answer_prompt(), {SLOTS: "\n".join(documents), TEXT: question})


def closed_book_ids(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """Ids of a prompt without documents."""
    messages = [
        {"role": "system", "content": CLOSED_BOOK_SYSTEM},
        {"role": "user", "content": CLOSED_BOOK_USER.format(question=TEXT)},
    ]
    return _filled(tokenizer, messages, {TEXT: question})


def first_tokens(tokenizer: PreTrainedTokenizerBase, text: str, rate: int) -> str:
    """The first 1 / rate of a text's tokens (rounded up), decoded: compression by dropping."""
    ids = plain_ids(tokenizer, [text])[0]
    return tokenizer.decode(ids[: -(-len(ids) // rate)]).strip()


def _filled(tokenizer: PreTrainedTokenizerBase, messages: Messages, texts: Mapping[str, str]) -> list[int]:
    """Ids of a rendered chat in whose marks users' texts stand; only the template's tokens are special."""
    marks = "|".join(map(re.escape, texts))
    ids = []
    for piece in re.split(f"({marks})", render_chat(tokenizer, messages)):
        ids += plain_ids(tokenizer, [texts[piece]])[0] if piece in texts else template_ids(tokenizer, piece)
    return ids
