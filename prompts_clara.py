"""Text to token ids, cutting long texts, every prompt, and which answer to it is told.

A prompt is a list of chat messages in which `SLOTS` marks the place of the memories and `TEXT` the user's
text. Marks are found before the user's text is put in, so no text can forge one.
"""

import logging
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

_reading = threading.Lock()


def _read(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], plain: bool, **options: Any) -> Any:
    settings = {"add_special_tokens": False, "split_special_tokens": plain, "verbose": False}
    with _reading:
        return tokenizer(list(texts), **{**settings, **options})


def length_buckets(texts: Sequence[str], batch_size: int) -> Iterator[list[int]]:
    """Indices of the texts in batches of similar length, so that little is padded."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]), reverse=True)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def plain_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Ids of users' texts, in which nothing is special: a chat marker is read as its letters."""
    return _read(tokenizer, texts, plain=True)["input_ids"]


def template_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a piece of a rendered chat, whose markers are special."""
    return _read(tokenizer, [text], plain=False)["input_ids"][0]


def has_specials(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a special or added token is written in a text."""
    return any(token.content in text for token in tokenizer.added_tokens_decoder.values())


def following_ids(tokenizer: PreTrainedTokenizerBase, text: str, before: str = "") -> list[int]:
    """Ids of a piece of a rendered chat that stands behind the special tokens `before`, without these."""
    start = len(template_ids(tokenizer, before)) if before else 0
    return template_ids(tokenizer, before + text)[start:]


def framed_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], prefix: str | None, suffix: str
) -> list[list[int]]:
    """Ids of users' texts between special tokens; a `prefix` of None is the tokenizer's own opening.

    A text is read in its place, since some tokenizers read the first word of an input in another way; one in
    which special tokens are written is read apart, as letters.
    """
    opening = opening_ids(tokenizer) if prefix is None else template_ids(tokenizer, prefix)
    closing = template_ids(tokenizer, suffix)
    whole = bool(prefix or suffix)
    return [
        template_ids(tokenizer, (prefix or "") + text + suffix)
        if whole and not has_specials(tokenizer, text)
        else opening + row + closing
        for text, row in zip(texts, plain_ids(tokenizer, texts), strict=True)
    ]


def plain_offsets(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
    """First and last character of every token of `plain_ids`."""
    return _read(tokenizer, texts, plain=True, return_offsets_mapping=True)["offset_mapping"]


def opening_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The beginning-of-text token if this tokenizer starts its texts with one, else nothing."""
    bos = tokenizer.bos_token_id
    ids = _read(tokenizer, ["a"], plain=False, add_special_tokens=True)["input_ids"][0]
    return [bos] if bos is not None and ids[:1] == [bos] else []


logger = logging.getLogger(__name__)

SLOT_ID = -1  # the id of no token: a memory slot
PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
NO_END = "".join(
    rf"(?<!\b{word})" for word in ("[A-Z]", "Dr", "Mr", "Mrs", "Ms", "St", "No", "vs", "e\\.g", "i\\.e")
)
ITEM = r"\n(?=[ \t]*(?:[-*+•#]|\d+[.)])\s)"  # the next line is an item of a list, or a heading
SENTENCE = re.compile(rf"{NO_END}[.!?…][\"'”’»)\]]*\s+(?=[^a-z\s])|[。！？]\s*|{ITEM}")
LINE, SPACE = re.compile(r"\n"), re.compile(r"\s+")
CUTS = ((PARAGRAPH, 2), (SENTENCE, 2), (PARAGRAPH, 8), (SENTENCE, 8), (LINE, 2), (SPACE, 2))  # best first
# What stays whole where it fits into a passage: fenced code and tables.
BLOCK = re.compile(
    r"^ {0,3}(`{3,}|~{3,})[^\n]*\n.*?(?:^ {0,3}\1[`~]*[ \t]*$|\Z)|(?:^[ \t]*\|[^\n]*(?:\n|\Z)){2,}",
    re.MULTILINE | re.DOTALL,
)

NOT_FOUND = "Not found in these documents."
READING_TEMPERATURE = 0.1  # of the cosines, beside what the generator makes of each memory
SLOTS = "\ue000memories\ue000"
TEXT = "\ue000text\ue000"
ANSWER_SYSTEM = (
    "You answer questions from the documents you are given. Take the facts from the documents and reply with "
    "the answer alone, as short as possible."
)


@dataclass(frozen=True)
class PromptStyle:
    """The wording of the prompts with which a checkpoint was trained."""

    answer_system: str
    answer_user: str
    paraphrase_user: str
    between: str  # stands between the memories of two documents
    joint: str  # joins the system text and the user's turn where a template has no system role
    # The system text goes into the user's turn also where a template drops it without an error, and white
    # space around the user's text is removed.
    careful: bool


STYLES = {
    "clara": PromptStyle(
        answer_system=ANSWER_SYSTEM,
        answer_user="Documents:\n{slots}\n\nQuestion: {question}",
        paraphrase_user="Document:\n{slots}\n\nSay everything in this document again in different words.",
        between="\n",
        joint="\n\n",
        careful=True,
    ),
    # The released checkpoints of the paper; their paraphrase prompts are drawn from xRAG's (arXiv 2405.13792,
    # appendix), of which this is the first.
    "released": PromptStyle(
        answer_system="You are a helpful assistant. Your task is to extract relevant information from "
        "provided documents and to answer to questions as briefly as possible.",
        answer_user="Background:\n{slots}\n\nQuestion:{question}",
        paraphrase_user="Background: {slots} means the same as",
        between="",
        joint="\n",
        careful=False,
    ),
}

Messages = list[dict[str, str]]


def answer_prompt(style: str = "clara") -> Messages:
    """Asks for a short answer to a question (at `TEXT`) out of the memories."""
    words = STYLES[style]
    user = _user(words.answer_user.format(slots=SLOTS, question=TEXT))
    return [{"role": "system", "content": words.answer_system}, *user]


def _user(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def questions_and_answers_prompt() -> Messages:
    """Asks for questions and their answers out of a memory (pretraining, simple and complex QA)."""
    task = "Write questions that together cover the key facts of this document, and answer each."
    return _user(f"Document:\n{SLOTS}\n\n{task}")


def paraphrase_prompt(style: str = "clara") -> Messages:
    """Asks for the document in other words (pretraining, and `model.paraphrase`)."""
    return _user(STYLES[style].paraphrase_user.format(slots=SLOTS))


def reconstruction_prompt() -> Messages:
    """Asks for the document word for word (pretraining on unlabelled text)."""
    return _user(f"Document:\n{SLOTS}\n\nRepeat this document word for word.")


def standalone_prompt() -> Messages:
    """Asks the base for the last question of a conversation (at `TEXT`) in words that stand alone."""
    return _user(
        f"Conversation:\n{TEXT}\n\n"
        "Rewrite the last question so that it can be understood without the conversation: put names in place "
        "of words such as it, she or there. Reply with the question alone."
    )


def questions_and_answers_target(questions: list[str], answers: list[str]) -> str:
    """The target of `questions_and_answers_prompt`: one line a question, one line its answer."""
    pairs = zip(questions, answers, strict=True)
    return "\n".join(f"Question: {question}\nAnswer: {answer}" for question, answer in pairs)


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Messages, style: str = "clara") -> str:
    """Renders messages with the tokenizer's chat template, up to where the answer begins.

    A template without a system role gets the system text at the head of the user's turn; a tokenizer without
    a template gets the turns as plain paragraphs.
    """
    words = STYLES[style]
    if tokenizer.chat_template is None:
        opening = tokenizer.bos_token if opening_ids(tokenizer) else ""
        return opening + "\n\n".join(message["content"] for message in messages) + "\n\nAnswer: "
    if messages[0]["role"] == "system":
        try:
            rendered = _apply(tokenizer, messages)
        except TemplateError as error:
            logger.debug("the chat template refuses a system role: %s", error)
        else:
            if not words.careful or messages[0]["content"] in rendered:
                return rendered
        system, user, *rest = messages
        content = system["content"] + words.joint + user["content"]
        messages = [{"role": user["role"], "content": content}, *rest]
    return _apply(tokenizer, messages)


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )


def prompt_ids(
    processor: Any, messages: Messages, slots: Sequence[int], text: str
) -> tuple[list[int], list[int]]:
    """Ids of a prompt up to its last memory slot, and those after it.

    The processor's `tokenizer`, `prompt_style`, `memory_suffix` and `memory_marks` count; `slots` are the
    vectors of each document's memory, `text` fills the `TEXT` mark.
    """
    tokenizer, style = processor.tokenizer, STYLES[processor.prompt_style]
    head, tail, before, found = [], [], "", False
    for part in _pieces(tokenizer, messages, processor.prompt_style, text.strip() if style.careful else text):
        if part == SLOTS:
            head, found, before = head + _slots(processor, slots), True, processor.memory_suffix
            continue
        plain = isinstance(part, tuple)
        ids = plain_ids(tokenizer, part)[0] if plain else following_ids(tokenizer, part, before)
        (tail if found else head).extend(ids)
        before = ""
    return head, tail


def _slots(processor: Any, counts: Sequence[int]) -> list[int]:
    """The slots: what stands after each document and between two, or what packed memories leave over."""
    if processor.memory_marks:
        marks = following_ids(processor.tokenizer, processor.memory_marks)
        return [SLOT_ID] * sum(counts) + (marks * len(counts))[sum(counts) :]
    suffix = following_ids(processor.tokenizer, processor.memory_suffix)
    between = following_ids(processor.tokenizer, STYLES[processor.prompt_style].between)
    ids: list[int] = []
    for number, count in enumerate(counts):
        ids += (between if number else []) + [SLOT_ID] * count + suffix
    return ids


def _pieces(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, style: str, text: str
) -> list[str | tuple[str]]:
    """The rendered chat cut at the slots; a text that holds special tokens becomes a part of its own."""
    before, _, after = render_chat(tokenizer, messages, style).partition(SLOTS)
    if not has_specials(tokenizer, text):
        return [piece.replace(TEXT, text) for piece in (before, SLOTS, after)]
    parts: list[str | tuple[str]] = []
    for piece in (before, SLOTS, after):
        head, mark, tail = piece.partition(TEXT)
        parts.extend([head, (text,), tail] if mark else [piece])
    return [part for part in parts if part]


def answer_odds(logits: Tensor, refusal: int) -> Tensor:
    """(B,) log odds, from the first token's logits (B, V), that an answer does not begin with `refusal`."""
    return -logits.float().softmax(dim=-1)[:, refusal].logit(eps=1e-6)


def alone_and_together(memories: Sequence[Any], joint: float | None) -> list[list[Any]]:
    """What "each" reads: every memory alone; where `joint` is given, all of several together too, last."""
    alone = [[memory] for memory in memories]
    return alone if joint is None or len(alone) < 2 else [*alone, list(memories)]


def refusals_last(likely: Tensor, texts: Sequence[str]) -> Tensor:
    """(answers,) log probabilities in which an answer that nothing was found comes after all others."""
    refused = torch.tensor([text == NOT_FOUND for text in texts], device=likely.device)
    return likely.masked_fill(refused, -1e4)


def choose_answers(
    likely: Tensor,
    odds: Tensor,
    counts: list[int],
    scores: Tensor,
    least: float | None,
    joint: float | None,
) -> list[int | None]:
    """Which of each question's answers is told; None where nothing was found.

    Args:
        likely: (answers,) mean log probability of each, question by question.
        odds: (answers,) as `answer_odds` gives them.
        counts: B numbers of answers: one for each passage, and perhaps one more from all together.
        scores: (B, K) cosines of the passages, -inf where a question has fewer.
        least: `config.reading_min_score`.
        joint: `config.reading_joint`.
    """
    chosen: list[int | None] = []
    for own, held, cosines in zip(likely.split(counts), odds.split(counts), scores.to(likely), strict=True):
        near = cosines[cosines.isfinite()] / READING_TEMPERATURE
        enough = least is None or bool((held[: len(near)] + near).max() >= least)
        if len(own) > len(near):
            near = torch.cat([near, near.max().unsqueeze(0) + joint])
        chosen.append(int((own + near).argmax()) if enough else None)
    return chosen


def may_be_passed(likely: Tensor, cosines: Tensor, joint: float | None) -> bool:
    """Whether an answer from all K passages together could be chosen above those from each alone.

    It could not where these, of log probabilities (K,) and cosines (K or more,), are likelier with their
    passages than one of log probability 0 would be.
    """
    near = cosines[: len(likely)].to(likely) / READING_TEMPERATURE
    return joint is not None and len(near) > 1 and bool((likely + near).max() < near.max() + joint)


def split_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limit: int, headers: Sequence[str] | None = None
) -> list[list[str]]:
    """Cuts each text into passages of at most `limit` tokens, at paragraphs, else sentences, else spaces.

    Fenced code and tables stay whole where they fit; no character is lost but the white space at the cuts.
    Each text's header stands on a line of its own before each of its passages and counts; one that takes more
    than half of a passage stands before the first alone.
    """
    headers = [""] * len(texts) if headers is None else headers
    whole = [f"{header}\n{text}" if header else text for header, text in zip(headers, texts, strict=True)]
    passages = []
    for header, text, joined, offsets in zip(
        headers, texts, whole, plain_offsets(tokenizer, whole), strict=True
    ):
        if len(offsets) <= limit:
            passages.append([joined])
            continue
        prefix = f"{header}\n" if header else ""
        taken = len(plain_ids(tokenizer, [prefix])[0]) if header else 0
        if 2 * taken > limit:
            passages.append(split_text(tokenizer, joined, offsets, limit))
        else:
            inner = plain_offsets(tokenizer, [text])[0] if header else offsets
            passages.append(split_text(tokenizer, text, inner, limit, prefix))
    return passages


def split_text(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    offsets: list[tuple[int, int]],
    limit: int,
    prefix: str = "",
) -> list[str]:
    """Greedy windows over one long text's tokens; a window shrinks until it fits when encoded alone.

    `offsets` are those of `plain_offsets`; `prefix` stands before each passage and counts.
    """
    passages, start = [], 0
    ends = [end for _, end in offsets]
    blocks = [match.span() for match in BLOCK.finditer(text)]
    room = max(1, limit - len(plain_ids(tokenizer, [prefix])[0])) if prefix else limit
    token = 0
    while start < len(text):
        size = room
        while True:
            last = min(token + size, len(ends))
            end = (
                len(text) if last == len(ends) else _cut(text, start, max(ends[last - 1], start + 1), blocks)
            )
            if size == 1 or len(plain_ids(tokenizer, [prefix + text[start:end].strip()])[0]) <= limit:
                break
            size = max(1, size * 9 // 10)
        if text[start:end].strip():
            passages.append(prefix + text[start:end].strip())
        start = end
        while token < len(ends) and ends[token] <= start:
            token += 1
    return passages


def _cut(text: str, start: int, end: int, blocks: Sequence[tuple[int, int]]) -> int:
    """The best place of text[start:end] to cut at: the last of the best kind that leaves enough before it."""
    block = next((span for span in blocks if span[0] < end < span[1]), None)
    if block is not None and block[0] > start + (end - start) // 8:
        return block[0]
    cuts, whole = (CUTS, blocks) if block is None else (CUTS[-2:], ())
    found = (_last(pattern, text, start, end, share, whole) for pattern, share in cuts)
    return next(filter(None, found), end)


def _last(
    pattern: re.Pattern[str], text: str, start: int, end: int, share: int, blocks: Sequence[tuple[int, int]]
) -> int:
    """The end of the last match outside of blocks, behind the first 1 / share of text[start:end]; else 0."""
    least = start + (end - start) // share
    found = (match.end() for match in pattern.finditer(text, least, end))
    outside = (place for place in found if not any(first < place < last for first, last in blocks))
    return max((place for place in outside if place > least), default=0)
