"""The transformers pipeline `retrieval-augmented-generation`: questions and documents in, answers out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .processing_clara import is_document, to_passages

TASK = "retrieval-augmented-generation"
BATCH_SIZE = 8
KEYS = ("question", "documents", "memory")

# What config.json says of it, so that `pipeline(model=..., trust_remote_code=True)` finds the task by itself.
CUSTOM_PIPELINES = {
    TASK: {"impl": "pipeline_clara.RetrievalAugmentedGenerationPipeline", "pt": ["AutoModel"], "type": "text"}
}


class RetrievalAugmentedGenerationPipeline(Pipeline):
    """Answers questions from documents, or from a stored corpus memory.

    ```python
    rag = pipeline(model="org/clara-mistral-7b", trust_remote_code=True)
    rag(question="Who found Titan?", documents=["Titan was found by Huygens.", "Basalt is a rock."])
    rag(["Who found Titan?", "What is basalt?"], memory="org/my-memory", retrieval_top_k=2)
    ```
    """

    _load_processor = _load_tokenizer = _load_feature_extractor = False
    _load_image_processor = _load_video_processor = False

    def __call__(
        self,
        question: str | Mapping[str, Any] | Sequence[str] | Sequence[Mapping[str, Any]],
        documents: Sequence | None = None,
        memory: Any = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Answers one question or several.

        Args:
            question: A question or a list of them; or mappings with `question` and `documents` or `memory`.
            documents: Texts or mappings with `text` (`id`, `title`), compressed once for all questions; or
                one list of them for each question.
            memory: A corpus memory, or the folder or Hub dataset repository of a stored one.
            batch_size: Questions answered at once, 8 by default.
            **kwargs: `retrieval_top_k` and ordinary generation arguments (max_new_tokens, num_beams, …).

        Returns:
            For each question `answer` and `documents`, best first, each with `id`, `score` (cosine) and
            `text`. One question gives one mapping, several give a list.

        Raises:
            TypeError: If a question or document is of another type.
            ValueError: If neither or both of `documents` and `memory` are given, or as `generate`.
        """
        single = is_document(question)
        items = [question] if single else list(question)
        if items and all(isinstance(item, Mapping) for item in items):
            items, documents, memory = self._unpack(items, documents, memory)
        size, parameters = batch_size or self._batch_size or BATCH_SIZE, {**self._forward_params, **kwargs}
        answers = [
            answer
            for batch in self._batches(items, documents, memory, size)
            for answer in self.run_single(batch, {}, parameters, {})
        ]
        return answers[0] if single else answers

    @staticmethod
    def _unpack(items: list[Mapping], documents: Any, memory: Any) -> tuple[list, Any, Any]:
        """Questions, documents and memory out of mappings that hold them together."""
        for index, item in enumerate(items):
            unknown = sorted(str(key) for key in item if key not in KEYS)
            if unknown or "question" not in item:
                raise ValueError(
                    f"`question[{index}]` must have a `question` and no keys but {KEYS}, got {unknown}."
                )
        own = [item for item in items if item.get("documents") is not None]
        memories = [item["memory"] for item in items if item.get("memory") is not None]
        if (own or memories) and (documents is not None or memory is not None):
            raise ValueError("`documents` and `memory` are in the mappings already: give them once.")
        uneven = len(own) not in (0, len(items)) or len(memories) not in (0, len(items))
        if uneven or any(other is not memories[0] for other in memories[1:]):
            raise ValueError("Each mapping needs its own `documents`, or all the same `memory`.")
        if own:
            documents = [_listed(item["documents"]) for item in own]
        return [item["question"] for item in items], documents, memories[0] if memories else memory

    def _batches(self, questions: list, documents: Any, memory: Any, size: int) -> Iterator[dict[str, Any]]:
        """Questions in batches with what they are answered from; shared documents are compressed once."""
        if (documents is None) == (memory is None):
            raise ValueError("Give either `documents` or `memory` to answer from.")
        pools = None
        if memory is None and not is_document(documents) and documents and _is_pool(documents[0]):
            pools = [_listed(pool) for pool in documents]
            if len(pools) != len(questions):
                raise ValueError(
                    f"`documents` has {len(pools)} lists for {len(questions)} questions: give one list for "
                    "each question, or one list of documents for all."
                )
        elif memory is None:
            memory = self.model.build_memory(_listed(documents), show_progress=False)
        elif isinstance(memory, str) or hasattr(memory, "__fspath__"):
            memory = self.model.load_memory(memory)
        for start in range(0, len(questions), size):
            rows = slice(start, start + size)
            yield {"questions": questions[rows], "memory": pools[rows] if pools else memory}

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict, dict, dict]:
        return {}, parameters, {}

    def preprocess(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A batch as it is, with the passages that it is answered from."""
        memory = inputs["memory"]
        if not isinstance(memory, list):
            return {**inputs, "passages": [memory] * len(inputs["questions"])}
        split = self.model.processor.split_documents
        return {**inputs, "passages": [to_passages(pool, split) for pool in memory]}

    def _forward(self, batch: dict[str, Any], **parameters: Any) -> dict[str, Any]:
        out = self.model.generate(
            batch["questions"], batch["memory"], return_dict_in_generate=True, **parameters
        )
        return {"out": [out.answers, out.indices, out.scores.tolist()], "passages": batch["passages"]}

    def postprocess(self, outputs: dict[str, Any]) -> list[dict[str, Any]]:
        """One mapping for each question of the batch."""
        answers = []
        for answer, indices, scores, passages in zip(*outputs["out"], outputs["passages"], strict=True):
            found = zip(indices, scores, strict=False)  # a shorter pool's scores are padded at the end
            ids, texts = passages.document_ids, passages.texts
            documents = [{"id": ids[i], "score": score, "text": texts[i]} for i, score in found]
            answers.append({"answer": answer, "documents": documents})
        return answers


def register_pipeline() -> None:
    """Makes the task known to transformers for models made here: `pipeline(TASK, model=model)`.

    A saved checkpoint needs no call: its config.json names the pipeline.
    """
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=RetrievalAugmentedGenerationPipeline, pt_model=AutoModel, type="text"
        )


def _listed(documents: Any) -> list:
    return [documents] if is_document(documents) else list(documents)


def _is_pool(value: Any) -> bool:
    """Whether an entry of `documents` is itself a list of documents."""
    return isinstance(value, Sequence) and not is_document(value)
