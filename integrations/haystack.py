"""Haystack 2 and later: a retriever and a generator (`pip install 'clara-rag[haystack]'`)."""

from typing import Any

from haystack import Document, component

from .asking import answer, find


@component
class ClaraRetriever:
    """Finds passages of a corpus memory.

    Args:
        model: A `ClaraForRetrievalGeneration`.
        memory: A corpus memory or store of its compressor.
        **options: Of `model.retrieve`: `retrieval_top_k`, `where`, `hybrid`, `exact`.
    """

    def __init__(self, model: Any, memory: Any, **options: Any) -> None:
        self.model, self.memory, self.options = model, memory, options

    @component.output_types(documents=list[Document])
    def run(self, query: str, top_k: int | None = None) -> dict[str, Any]:
        """The documents for a query, best first."""
        options = self.options if top_k is None else {**self.options, "retrieval_top_k": top_k}
        (passages,) = find(self.model, self.memory, [query], **options)
        return {"documents": [_document(passage) for passage in passages]}


@component
class ClaraGenerator:
    """Answers a query: from a corpus memory, or from documents of any retriever, compressed on the way.

    Args:
        model: A `ClaraForRetrievalGeneration`.
        memory: A corpus memory or store of its compressor, read where no documents are given.
        **options: Of `model.generate`.
    """

    def __init__(self, model: Any, memory: Any = None, **options: Any) -> None:
        self.model, self.memory, self.options = model, memory, options

    @component.output_types(replies=list[str], documents=list[Document])
    def run(self, query: str, documents: list[Document] | None = None) -> dict[str, Any]:
        """One reply, and the documents that it was read from.

        Raises:
            ValueError: If there are neither documents nor a memory.
        """
        memory, options = self.memory, self.options
        if documents:
            rows = [{"id": each.id, "text": each.content, "metadata": each.meta} for each in documents]
            memory = self.model.build_memory(rows, show_progress=False)
            options = {"retrieval_top_k": len(memory), **options}
        if memory is None:
            raise ValueError(
                "`documents` is empty and the generator has no `memory`: give it one of them to answer from."
            )
        ((text, passages),) = answer(self.model, memory, [query], **options)
        return {"replies": [text], "documents": [_document(passage) for passage in passages]}


def _document(passage: dict[str, Any]) -> Document:
    meta = {**passage["metadata"], "document_id": passage["document_id"]}
    return Document(id=passage["id"], content=passage["text"], meta=meta, score=passage["score"])
