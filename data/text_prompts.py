"""Prompts of the baselines as token ids: the model's own answering prompt with documents as text, or none."""

from collections.abc import Sequence

from clara.prompts_clara import SLOTS, TEXT, answer_prompt, render_chat
from transformers import PreTrainedTokenizerBase

CLOSED_BOOK_SYSTEM = (
    "You answer questions from what you know. Reply with the answer alone, as short as possible."
)
CLOSED_BOOK_USER = "Question: {question}"


def text_prompt_ids(tokenizer: PreTrainedTokenizerBase, question: str, documents: Sequence[str]) -> list[int]:
    """Ids of the prompt that CLaRa answers from, with the documents' text where the memories would be."""
    before, _, after = render_chat(tokenizer, answer_prompt()).partition(SLOTS)
    return _join(tokenizer, before, "\n".join(documents), after, question)


def closed_book_ids(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """Ids of a prompt without documents."""
    messages = [
        {"role": "system", "content": CLOSED_BOOK_SYSTEM},
        {"role": "user", "content": CLOSED_BOOK_USER.format(question=TEXT)},
    ]
    return _join(tokenizer, render_chat(tokenizer, messages), "", "", question)


def first_tokens(tokenizer: PreTrainedTokenizerBase, text: str, rate: int) -> str:
    """The first 1 / rate of a text's tokens (rounded up), decoded: compression by dropping."""
    ids = _plain(tokenizer, text)
    return tokenizer.decode(ids[: -(-len(ids) // rate)]).strip()


def _join(
    tokenizer: PreTrainedTokenizerBase, before: str, documents: str, after: str, question: str
) -> list[int]:
    ids = []
    for piece in (before, after):
        head, mark, tail = piece.partition(TEXT)
        ids += [
            *_marked(tokenizer, head),
            *_plain(tokenizer, question if mark else ""),
            *_marked(tokenizer, tail),
        ]
        ids += _plain(tokenizer, documents if piece is before else "")
    return ids


def _marked(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of template text, whose special tokens count."""
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a user's text, in which nothing is special."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] if text else []
