"""Search vectors behind the interface of sentence-transformers: `encode`, `encode_query`, `similarity`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..prompts_clara import plain_ids

DOCUMENT, QUERY = "document", "query"


class ClaraEncoder:
    """The search vectors of a model: documents by its compressor, questions by its query reasoner.

    Texts that are longer than the model reads at once are cut, as sentence-transformers cuts them.

    Args:
        model: A `ClaraForRetrievalGeneration`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def encode(
        self,
        sentences: str | Sequence[str],
        prompt_name: str = DOCUMENT,
        batch_size: int = 32,
        show_progress_bar: bool = False,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = True,
    ) -> np.ndarray | Tensor:
        """Search vectors, (D,) of one text or (N, D) of several, float32.

        Args:
            sentences: One text or N of them.
            prompt_name: "document" or "query".
            batch_size: Texts encoded at once.
            show_progress_bar: Show a progress bar (of documents).
            convert_to_tensor: Return a tensor in place of an array.
            normalize_embeddings: To length 1.

        Raises:
            ValueError: If a text is empty, or `prompt_name` is another one.
        """
        if prompt_name not in (DOCUMENT, QUERY):
            raise ValueError(f'`prompt_name` must be "document" or "query", got {prompt_name!r}.')
        single = isinstance(sentences, str)
        texts = [sentences] if single else list(sentences)
        if prompt_name == QUERY:
            vectors = self.model.question_vectors([self._cut(text) for text in texts], batch_size)
        else:
            firsts = [parts[0] for parts in self.model.processor.split_documents(texts)]
            vectors = self.model.compress_texts(firsts, batch_size, show_progress_bar)[2]
        vectors = torch.nn.functional.normalize(vectors, dim=-1) if normalize_embeddings else vectors
        vectors = vectors[0] if single else vectors
        return vectors if convert_to_tensor else vectors.numpy()

    def encode_query(self, sentences: str | Sequence[str], **options: Any) -> np.ndarray | Tensor:
        """`encode` for questions."""
        return self.encode(sentences, prompt_name=QUERY, **options)

    def encode_document(self, sentences: str | Sequence[str], **options: Any) -> np.ndarray | Tensor:
        """`encode` for documents."""
        return self.encode(sentences, prompt_name=DOCUMENT, **options)

    def similarity(self, first: Any, second: Any) -> Tensor:
        """Cosines of all rows with all rows."""
        first, second = _rows(first), _rows(second)
        return first @ second.T

    def similarity_pairwise(self, first: Any, second: Any) -> Tensor:
        """Cosines of rows of the same number."""
        return (_rows(first) * _rows(second)).sum(dim=-1)

    def _cut(self, text: str) -> str:
        """The beginning of a question that is as long as the model reads, frame included."""
        processor = self.model.processor
        limit = processor.question_max_length - processor._frame_length()
        ids = plain_ids(processor.tokenizer, [text])[0]
        return text if len(ids) <= limit else processor.tokenizer.decode(ids[:limit])


def _rows(vectors: Any) -> Tensor:
    tensor = torch.as_tensor(np.asarray(vectors), dtype=torch.float32)
    return torch.nn.functional.normalize(tensor.reshape(-1, tensor.shape[-1]), dim=-1)
