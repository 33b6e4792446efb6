"""What a chat request may say, and what is answered: OpenAI's fields and three of our own."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from .neutral import NeutralFields, Nothing, Strict
from .tickets import Options

Number = Annotated[float, Field(allow_inf_nan=False)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=100)]
LONGEST_ANSWER = 64
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

    CLaRa answers single questions with the prompt it was trained on, so earlier messages are not read; the
    response counts them in `clara.messages_not_read`. Fields of ours: `memory`, `retrieval_top_k`,
    `min_tokens`.
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
    min_tokens: int | None = Field(0, ge=0, description="the answer does not end before so many tokens")

    def options(self) -> Options:
        """How the answer is to be written; without a temperature the likeliest tokens are taken."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Options(
            max_new_tokens=self.max_completion_tokens or self.max_tokens or LONGEST_ANSWER,
            min_new_tokens=self.min_tokens or 0,
            temperature=self.temperature or 0.0,
            top_p=self.top_p or 1.0,
            seed=self.seed,
            stop=tuple(stop),
        )


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
    """One passage behind an answer: its id, its cosine with the question, its text."""

    id: str
    score: float
    text: str


class ClaraFacts(BaseModel):
    """Where an answer comes from: the memory, its passages best first, how many turns were not read."""

    memory: str
    documents: list[Source]
    messages_not_read: int


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
