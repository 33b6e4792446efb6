"""Every prompt the model ever sees: answering, question answering in pretraining, paraphrase, reconstruction.

A prompt is a list of chat messages in which `SLOTS` marks the place of the memories and `TEXT` the user's
text. Marks are found before the user's text is put in, so no text can forge one.
"""

import logging

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from .tokens_clara import opening_ids

logger = logging.getLogger(__name__)

SLOTS = "\ue000memories\ue000"
TEXT = "\ue000text\ue000"

ANSWER_SYSTEM = (
    "You answer questions from the documents you are given. Take the facts from the documents and reply with "
    "the answer alone, as short as possible."
)
ANSWER_USER = "Documents:\n{slots}\n\nQuestion: {question}"

QUESTIONS_AND_ANSWERS_USER = (
    "Document:\n{slots}\n\n"
    "Write questions that together cover the key facts of this document, and answer each."
)
PARAPHRASE_USER = "Document:\n{slots}\n\nSay everything in this document again in different words."
RECONSTRUCTION_USER = "Document:\n{slots}\n\nRepeat this document word for word."

Messages = list[dict[str, str]]


def answer_prompt() -> Messages:
    """Asks for a short answer to a question (at `TEXT`) out of the memories."""
    user = ANSWER_USER.format(slots=SLOTS, question=TEXT)
    return [{"role": "system", "content": ANSWER_SYSTEM}, {"role": "user", "content": user}]


def questions_and_answers_prompt() -> Messages:
    """Asks for questions and their answers out of a memory (pretraining, simple and complex QA)."""
    return [{"role": "user", "content": QUESTIONS_AND_ANSWERS_USER.format(slots=SLOTS)}]


def paraphrase_prompt() -> Messages:
    """Asks for the document in other words (pretraining, and `model.paraphrase`)."""
    return [{"role": "user", "content": PARAPHRASE_USER.format(slots=SLOTS)}]


def reconstruction_prompt() -> Messages:
    """Asks for the document word for word (pretraining on unlabelled text)."""
    return [{"role": "user", "content": RECONSTRUCTION_USER.format(slots=SLOTS)}]


def questions_and_answers_target(questions: list[str], answers: list[str]) -> str:
    """The target of `questions_and_answers_prompt`: one line a question, one line its answer."""
    pairs = zip(questions, answers, strict=True)
    return "\n".join(f"Question: {question}\nAnswer: {answer}" for question, answer in pairs)


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """Renders messages with the tokenizer's chat template, up to where the answer begins.

    A template without a system role gets the system text at the head of the user's turn; a tokenizer without
    a template gets the turns as plain paragraphs.
    """
    if tokenizer.chat_template is None:
        opening = tokenizer.bos_token if opening_ids(tokenizer) else ""
        return opening + "\n\n".join(message["content"] for message in messages) + "\n\nAnswer: "
    if messages[0]["role"] == "system":
        try:
            rendered = _apply(tokenizer, messages)
        except TemplateError as error:
            logger.debug("the chat template refuses a system role: %s", error)
        else:
            if messages[0]["content"] in rendered:
                return rendered
        system, user, *rest = messages
        content = system["content"] + "\n\n" + user["content"]
        messages = [{"role": user["role"], "content": content}, *rest]
    return _apply(tokenizer, messages)


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
