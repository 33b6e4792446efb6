"""`/v1/embeddings`: the search vectors of texts."""

import base64
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from ..integrations.encoder import ClaraEncoder
from ..prompts_clara import plain_ids
from .errors import ApiError
from .neutral import Label, Strict

Text = Annotated[str, Field(min_length=1, max_length=100_000)]


class EmbeddingRequest(Strict):
    """An embedding request; `input_type` is a field of ours, for documents and queries differ."""

    model: str = Field(max_length=200)
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=256)]
    input_type: Literal["document", "query"] = "document"
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(None, ge=1)
    user: Label | None = None


class Embedding(BaseModel):
    """One vector, as numbers or as the base64 text of its float32 bytes."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """The vectors, of length 1, in the order of the input."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


def embed(model: Any, body: EmbeddingRequest) -> EmbeddingResponse:
    """The vectors that a request asks for; texts that are too long are cut.

    Raises:
        ApiError: 400 for a text of white space, or another number of dimensions than the model has.
    """
    texts = [body.input] if isinstance(body.input, str) else body.input
    try:
        vectors = ClaraEncoder(model).encode(texts, prompt_name=body.input_type)
    except ValueError as error:
        raise ApiError(400, str(error), "input") from error
    if body.dimensions not in (None, vectors.shape[1]):
        message = f"`dimensions` must be {vectors.shape[1]}, which all vectors have, got {body.dimensions}."
        raise ApiError(400, message, "dimensions")
    tokens = sum(map(len, plain_ids(model.processor.tokenizer, texts)))
    return EmbeddingResponse(
        data=[
            Embedding(index=row, embedding=_written(vector, body.encoding_format == "base64"))
            for row, vector in enumerate(vectors)
        ],
        model=body.model,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


def _written(vector: np.ndarray, packed: bool) -> list[float] | str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if packed else vector.tolist()
