"""LangChain: a retriever and an answerer (`pip install 'clara-rag[langchain]'`)."""

from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableConfig

from .asking import answer, find


class ClaraRetriever(BaseRetriever):
    """Finds passages of a corpus memory.

    Attributes:
        model: A `ClaraForRetrievalGeneration`.
        memory: A corpus memory or store of its compressor.
        options: Of `model.retrieve`: `retrieval_top_k`, `where`, `hybrid`, `exact`.
    """

    model: Any
    memory: Any
    options: dict[str, Any] = {}

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        (passages,) = find(self.model, self.memory, [query], **{**self.options, **options})
        return [_document(passage) for passage in passages]


class ClaraAnswerer(Runnable[str, dict[str, Any]]):
    """Answers questions from the memories of the passages it finds; `batch` answers all of them together.

    Args:
        model: A `ClaraForRetrievalGeneration`.
        memory: A corpus memory or store of its compressor.
        **options: Of `model.generate`.
    """

    def __init__(self, model: Any, memory: Any, **options: Any) -> None:
        self.model, self.memory, self.options = model, memory, options

    def invoke(self, input: str, config: RunnableConfig | None = None, **options: Any) -> dict[str, Any]:
        """`{"question", "answer", "context"}`; the context is a list of LangChain's documents."""
        return self._call_with_config(lambda text: self._answer([text], options)[0], input, config)

    def batch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """As `invoke`, for several questions in one pass of the model."""
        return self._batch_with_config(
            lambda texts: self._answer(texts, options), inputs, config, return_exceptions=return_exceptions
        )

    def _answer(self, questions: list[str], options: dict[str, Any]) -> list[dict[str, Any]]:
        answers = answer(self.model, self.memory, questions, **{**self.options, **options})
        return [
            {"question": question, "answer": text, "context": [_document(passage) for passage in passages]}
            for question, (text, passages) in zip(questions, answers, strict=True)
        ]


def _document(passage: dict[str, Any]) -> Document:
    facts = {"score": passage["score"], "document_id": passage["document_id"]}
    return Document(id=passage["id"], page_content=passage["text"], metadata={**passage["metadata"], **facts})
