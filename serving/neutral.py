"""OpenAI's fields that are taken in the value in which they change nothing, and refused in any other.

Clients send such values without being asked: LangChain `tools: []`, the `openai` package `null`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Zero = Annotated[float, Field(ge=0, le=0, allow_inf_nan=False)]
Nothing = Annotated[list, Field(max_length=0)]
Empty = Annotated[dict, Field(max_length=0)]
Label = Annotated[str, Field(max_length=1000)]
WAY_OUT = (
    "answers are written from memories alone, so only the value that changes nothing is taken: leave it out"
)


class Strict(BaseModel):
    """A mapping whose unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class TextFormat(Strict):
    """The one format of an answer: text."""

    type: Literal["text"]


class NeutralFields(Strict):
    """The fields; `user`, `metadata`, `safety_identifier` and `prompt_cache_key` are labels and go unread."""

    n: Literal[1] | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    logit_bias: Empty | None = None
    tools: Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    functions: Nothing | None = None
    function_call: Literal["none", "auto"] | None = None
    response_format: TextFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None
    reasoning_effort: Literal["none"] | None = None
    verbosity: Literal["medium"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None
    user: Label | None = None
    metadata: dict[Label, Label] | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None


NEUTRAL = frozenset(NeutralFields.model_fields)
