"""What a chat request may say, and what is answered: OpenAI's fields and three of our own."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, field_validator

from .neutral import NeutralFields, Nothing, Strict
from .requests import Options

Number = Annotated[float, Field(allow_inf_nan=False)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=100)]
LONGEST_ANSWER = 64
COLDEST = 1e-3  # below it, drawing is taking the likeliest token, and logits would overflow
DEEPEST = 8
LARGEST_SEED = 2**53 - 1  # every JSON reader takes it for the same number


class TextPart(Strict):
    """A part of a message's content; only texts are read."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """One turn of the chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    refusal: None = None
    annotations: Nothing | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Nothing | None = None

    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class StreamOptions(Strict):
    """Options of a streamed answer."""

    include_usage: bool | None = False
    include_obfuscation: Literal[False] | None = None


class ChatRequest(NeutralFields):
    """A chat completion request: the last message, which must be the user's, is the question.

    CLaRa answers single questions with the prompt it was trained on, so earlier messages are not read, unless
    the server rewrites questions (`clara serve --rewrite`); the response says the question that was answered
    (`clara.question`) and counts what was not read (`clara.messages_not_read`). Fields of ours:
    `memory`, `retrieval_top_k`, `where`, `hybrid`, `reading`, `min_tokens`.
    """

    model: str = Field(max_length=200)
    messages: list[Message] = Field(min_length=1, max_length=1000)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: Number | None = Field(None, ge=0, le=2)
    top_p: Number | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-LARGEST_SEED, le=LARGEST_SEED)
    stop: StopText | list[StopText] | None = Field(None, max_length=100)
    memory: str | None = Field(None, max_length=200, description="name of a mounted memory")
    retrieval_top_k: int | None = Field(None, ge=1, description="passages to answer from")
    where: dict[str, Any] | None = Field(None, description="which passages may be found, by their metadata")
    hybrid: bool | Annotated[Number, Field(ge=0, le=1)] | None = Field(
        None, description="weight of the words beside the vectors; true: a half"
    )
    reading: Literal["together", "each"] | None = Field(
        None, description="memories in one prompt, or an answer from each alone, the likeliest kept"
    )
    min_tokens: int | None = Field(0, ge=0, description="the answer does not end before so many tokens")

    @field_validator("where")
    @classmethod
    def shallow(cls, where: dict[str, Any] | None) -> dict[str, Any] | None:
        """Refuses a filter that nests too deep."""
        rest, depth = [where], 0
        while rest and depth <= DEEPEST:
            depth += 1
            rest = [value for item in rest for value in _inside(item)]
        if rest:
            raise ValueError(f"`where` must not nest deeper than {DEEPEST} levels")
        return where

    def search(self) -> dict[str, Any]:
        """`where` and `hybrid`, as `model.retrieve` takes them; nothing that was not asked for."""
        asked = {"where": self.where, "hybrid": self.hybrid or None}
        return {name: value for name, value in asked.items() if value is not None}

    def options(self) -> Options:
        """How the answer is to be written; without a temperature the likeliest tokens are taken."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Options(
            max_new_tokens=self.max_completion_tokens or self.max_tokens or LONGEST_ANSWER,
            min_new_tokens=self.min_tokens or 0,
            temperature=self.temperature if (self.temperature or 0.0) >= COLDEST else 0.0,
            top_p=self.top_p or 1.0,
            seed=self.seed,
            stop=tuple(stop),
        )


def _inside(item: Any) -> list[Any]:
    values = item.values() if isinstance(item, dict) else item if isinstance(item, list) else []
    return [value for value in values if isinstance(value, (dict, list))]


class ErrorBody(BaseModel):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """Every error of the server."""

    error: ErrorBody


class Source(BaseModel):
    """One passage behind an answer.

    Attributes:
        id: Of the passage.
        document_id: Of the document that it is from.
        score: Its cosine with the question.
        text: What it says.
        span: Start and end, in `text`, of the sentence that the answer likely comes from: the one that
            shares most words with answer and question. None while the answer is being written.
    """

    id: str
    document_id: str
    score: float
    text: str
    span: tuple[int, int] | None = None


class ClaraFacts(BaseModel):
    """Where an answer comes from.

    Attributes:
        memory: Its name.
        question: The one that was answered: the last message, or what the base made of the chat.
        documents: The passages, best first.
        messages_not_read: How many turns of the chat were not read.
        supported: Whether most words of the answer stand in one of the passages; where they do not, the
            documents probably hold no answer. None while it is being written.
    """

    memory: str
    question: str
    documents: list[Source]
    messages_not_read: int
    supported: bool | None = None


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(BaseModel):
    """The answer as a turn of the chat."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """The one answer of a response."""

    index: int = 0
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]


class ChatResponse(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    clara: ClaraFacts


class ModelEntry(BaseModel):
    """One name that a request's `model` may have: a mounted memory, answered from by the one model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["clara"] = "clara"
    passages: int


class ModelList(BaseModel):
    """The mounted memories."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class Health(BaseModel):
    """State of the server."""

    status: Literal["ok", "unavailable"]
    waiting: int
    running: int
