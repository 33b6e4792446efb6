"""Every prompt the model ever sees: answering, question answering in pretraining, paraphrase, reconstruction.

A prompt is a list of chat messages in which `SLOTS` marks the place of the memories and `TEXT` the user's
text. Marks are found before the user's text is put in, so no text can forge one.
"""

import logging
from dataclasses import dataclass

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


@dataclass(frozen=True)
class PromptStyle:
    """The wording of the prompts with which a checkpoint was trained.

    Attributes:
        answer_system: System text of the answering prompt.
        answer_user: Its user's turn.
        paraphrase_user: The user's turn of the paraphrase prompt.
        between: What stands between the memories of two documents.
        joint: What joins the system text and the user's turn where a template has no system role.
        careful: The system text goes into the user's turn also where a template drops it without an error,
            and white space around the user's text is removed.
    """

    answer_system: str
    answer_user: str
    paraphrase_user: str
    between: str
    joint: str
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

QUESTIONS_AND_ANSWERS_USER = (
    "Document:\n{slots}\n\n"
    "Write questions that together cover the key facts of this document, and answer each."
)
RECONSTRUCTION_USER = "Document:\n{slots}\n\nRepeat this document word for word."

Messages = list[dict[str, str]]


def answer_prompt(style: str = "clara") -> Messages:
    """Asks for a short answer to a question (at `TEXT`) out of the memories."""
    words = STYLES[style]
    user = words.answer_user.format(slots=SLOTS, question=TEXT)
    return [{"role": "system", "content": words.answer_system}, {"role": "user", "content": user}]


def questions_and_answers_prompt() -> Messages:
    """Asks for questions and their answers out of a memory (pretraining, simple and complex QA)."""
    return [{"role": "user", "content": QUESTIONS_AND_ANSWERS_USER.format(slots=SLOTS)}]


def paraphrase_prompt(style: str = "clara") -> Messages:
    """Asks for the document in other words (pretraining, and `model.paraphrase`)."""
    return [{"role": "user", "content": STYLES[style].paraphrase_user.format(slots=SLOTS)}]


def reconstruction_prompt() -> Messages:
    """Asks for the document word for word (pretraining on unlabelled text)."""
    return [{"role": "user", "content": RECONSTRUCTION_USER.format(slots=SLOTS)}]


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
