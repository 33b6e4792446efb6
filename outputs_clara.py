"""What the model's calls return.

Letters of the shapes: B questions, N documents, K chosen, L tokens, V vocabulary.
"""

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput


@dataclass
class ClaraOutput(CausalLMOutputWithPast):
    """Output of the forward pass.

    Attributes:
        loss: Scalar mean next-token loss of the labelled tokens.
        logits: Of the labelled tokens, (labelled, V), when labels are given; else of all, (B, L, V).
        past_key_values: The generator's cache, in the plain LM forward.
        scores: (B, N) cosines of question and documents, when questions are given.
        indices: (B, K) chosen documents, when questions are given.
        alignment_loss: Scalar squared distance of mean state and mean memory, when documents are given.
        match_scores: (Q, D) cosines of the questions to match and the documents, when both are given.
        query_vectors: (B, D) search vectors of the questions, when questions are given.
    """

    scores: Tensor | None = None
    indices: Tensor | None = None
    alignment_loss: Tensor | None = None
    match_scores: Tensor | None = None
    query_vectors: Tensor | None = None


@dataclass
class RetrievalOutput(ModelOutput):
    """Passages found, best first.

    Attributes:
        document_ids: Ids of the passages: a list for one question, a list of lists for several.
        indices: Their places in the memory, shaped as `document_ids`.
        scores: Cosines, (K,) for one question and (B, K) for several, float32.
    """

    document_ids: list | None = None
    indices: list | None = None
    scores: Tensor | None = None


@dataclass
class ClaraGenerateOutput(ModelOutput):
    """What `generate` returns with `return_dict_in_generate=True`.

    Attributes:
        answers: One text, or a list of texts for a list of questions (a list of lists with several
            `num_return_sequences`).
        document_ids: Ids of the chosen passages, best first.
        indices: Their places in the memory.
        scores: Their cosines, (K,) or (B, K); -inf where a question's pool has fewer passages.
        sequences: (B, L) generated token ids, without the prompt.
        generation: transformers' own output.
    """

    answers: str | list | None = None
    document_ids: list | None = None
    indices: list | None = None
    scores: Tensor | None = None
    sequences: Tensor | None = None
    generation: ModelOutput | None = None


def first(output: ModelOutput) -> ModelOutput:
    """The output of a single question out of a batch of one."""
    batched = ("answers", "document_ids", "indices", "scores")
    return type(output)(**{key: value[0] if key in batched else value for key, value in output.items()})
