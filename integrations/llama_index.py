"""LlamaIndex: a retriever and a query engine (`pip install 'clara-rag[llama-index]'`)."""

from typing import Any

from llama_index.core.base.response.schema import Response
from llama_index.core.query_engine import CustomQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from .asking import answer, find


class ClaraRetriever(BaseRetriever):
    """Finds passages of a corpus memory.

    Args:
        model: A `ClaraForRetrievalGeneration`.
        memory: A corpus memory or store of its compressor.
        **options: Of `model.retrieve`: `retrieval_top_k`, `where`, `hybrid`, `exact`.
    """

    def __init__(self, model: Any, memory: Any, **options: Any) -> None:
        super().__init__()
        self.model, self.memory, self.options = model, memory, options

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        (passages,) = find(self.model, self.memory, [query_bundle.query_str], **self.options)
        return [_node(passage) for passage in passages]


class ClaraQueryEngine(CustomQueryEngine):
    """Answers questions from the memories of the passages it finds.

    Attributes:
        model: A `ClaraForRetrievalGeneration`.
        memory: A corpus memory or store of its compressor.
        options: Of `model.generate`.
    """

    model: Any
    memory: Any
    options: dict[str, Any] = {}

    def custom_query(self, query_str: str) -> Response:
        """The answer, with its passages as source nodes."""
        ((text, passages),) = answer(self.model, self.memory, [query_str], **self.options)
        return Response(text, source_nodes=[_node(passage) for passage in passages])


def _node(passage: dict[str, Any]) -> NodeWithScore:
    metadata = {**passage["metadata"], "document_id": passage["document_id"]}
    node = TextNode(id_=passage["id"], text=passage["text"], metadata=metadata)
    return NodeWithScore(node=node, score=passage["score"])
