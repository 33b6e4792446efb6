"""ClaraForRetrievalGeneration: compress, reason, retrieve, forward (loss), generate (text).

The letters of shapes are those of retrieval_clara.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from .adapters_clara import ModelLock, wearing
from .checkpoint_clara import ClaraPreTrainedModel, own_names
from .configuration_clara import ClaraConfig
from .generation_clara import TextInterface
from .processing_clara import IGNORE_INDEX
from .prompts_clara import SLOT_ID
from .retrieval_clara import (
    Memories,
    alignment_loss,
    average_neighbours,
    cosine_scores,
    pool,
    select,
    soft_topk,
    span_means,
)


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
        query_vectors: Search vectors of the questions, (B, width), or (Q, width) of those to match.
        document_vectors: (D, width) search vectors of the documents, when there are questions to match.
    """

    scores: Tensor | None = None
    indices: Tensor | None = None
    alignment_loss: Tensor | None = None
    match_scores: Tensor | None = None
    query_vectors: Tensor | None = None
    document_vectors: Tensor | None = None


def positions(attention_mask: Tensor, counted: str = "tokens") -> Tensor:
    """Position ids that count "tokens" and skip padding on either side, or "columns".  (B, L) -> (B, L)."""
    ones = attention_mask.long() if counted == "tokens" else torch.ones_like(attention_mask).long()
    return (ones.cumsum(dim=-1) - 1).clamp(min=0)


def attention_bias(attend: Tensor, dtype: torch.dtype, implementation: str) -> Tensor:
    """Who may attend to whom, (B, Lq, Lk) bool, as the base's attention takes it, (B, 1, Lq, Lk).

    Raises a ValueError if the implementation is neither "sdpa" (bool) nor "eager" (0 and the lowest number).
    """
    if implementation not in ("sdpa", "eager"):
        raise ValueError(
            f"attn_implementation {implementation!r} takes no mask of its own: load the model with "
            "attn_implementation='sdpa' or 'eager' for `encoder_attention` 'bidirectional' and for packed "
            "questions."
        )
    if implementation == "sdpa":
        return attend.unsqueeze(1)
    return torch.zeros_like(attend, dtype=dtype).masked_fill(~attend, torch.finfo(dtype).min).unsqueeze(1)


def segment_attention(segments: Tensor) -> Tensor:
    """Who attends to whom, (B, L, L), where questions share one prompt: each sees it and itself, causally.

    `segments` (B, L) is -1 at padding, which attends to itself, 0 in the prompt, 1, 2, … in the questions.
    """
    query, key = segments.unsqueeze(-1), segments.unsqueeze(-2)
    places = torch.arange(segments.shape[-1], device=segments.device)
    own = (key == 0) | (key == query)
    seen = own & (key >= 0) & (query >= 0) & (places <= places.unsqueeze(-1))
    return seen | (places == places.unsqueeze(-1))


def segment_positions(segments: Tensor) -> Tensor:
    """(B, L) positions, as many as each token sees before it: each question goes on where the prompt ends."""
    return segment_attention(segments).sum(dim=-1) - 1


def length_groups(attention_mask: Tensor, ratio: float = 0.75) -> list[Tensor]:
    """Rows of a mask (B, L) in groups of similar length, so that short ones are not padded to the longest.

    A row shorter than `ratio` times its group's longest opens a new group. On a GPU and in a distributed run
    all rows are one group: every process must make equally many passes, which gather sharded parameters.
    """
    many = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if many or attention_mask.is_cuda:
        return [torch.arange(len(attention_mask), device=attention_mask.device)]
    lengths = attention_mask.sum(dim=-1).tolist()
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not groups or lengths[row] < ratio * lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(row)
    return [torch.tensor(sorted(rows), device=attention_mask.device) for rows in groups]


class ClaraForRetrievalGeneration(TextInterface, ClaraPreTrainedModel, GenerationMixin):
    """A frozen causal LM with three adapters: compressor, query reasoner, generator (arXiv 2511.18659).

    Text in, text out: `build_memory`, `retrieve`, `generate`, `paraphrase` (in generation_clara). Tensors in,
    tensors out: `compress`, `reason`, `forward`. The last three are differentiable; the others are not.
    """

    def __init__(self, config: ClaraConfig) -> None:
        super().__init__(config)
        self.decoder = AutoModelForCausalLM.from_config(config.text_config)
        width, own = config.get_text_config().hidden_size, own_names(config)
        if "memory_tokens" in own:
            self.memory_tokens = nn.Parameter(torch.zeros(config.num_memory_tokens, width))
        if "memory_gain" in own:
            self.memory_gain = nn.Parameter(torch.ones(width))
        self.lock = ModelLock()
        self.post_init()

    def compress(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Memories:
        """Documents to memories, wearing the compressor (paper section 3.1).

        Args:
            input_ids: (N, L) token ids of passages, padded on either side.
            attention_mask: (N, L), 1 for tokens and 0 for padding; None means no padding.

        Returns:
            `Memories` (N, M, H) in the model's dtype: last hidden states at the memory tokens, or their means
            over every `compression_rate` tokens.
        """
        return self._encode("compressor", input_ids, attention_mask)[0]

    def reason(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Memories:
        """Questions (B, L) to memories (B, M, H), wearing the query reasoner (paper section 3.2)."""
        return self._encode("query_reasoner", input_ids, attention_mask)[0]

    def search_vectors(self, memories: Memories) -> Tensor:
        """The vectors by which memories (..., M, H) are searched, (..., D) in float32."""
        return pool(memories, self.config.retrieval_pooling)

    def _encode(
        self, adapter: str, input_ids: Tensor, attention_mask: Tensor | None
    ) -> tuple[Memories, Tensor]:
        """(N, L) -> memories (N, M, H) and token states (N, L, H). The body runs alone: no LM head."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        embeds = self.get_input_embeddings()(input_ids)
        length, full_mask = input_ids.shape[-1], mask
        if self.config.pooling == "memory_tokens":
            tokens = self.memory_tokens.to(embeds).expand(len(embeds), -1, -1)
            embeds = torch.cat([embeds, tokens], dim=1)
            full_mask = torch.cat([mask, mask.new_ones(tokens.shape[:2])], dim=1)
        attend, places = full_mask, positions(full_mask, self.config.encoder_positions)
        if self.config.encoder_attention == "bidirectional":
            attend = full_mask.bool().unsqueeze(1).expand(-1, full_mask.shape[-1], -1)
            attend = attention_bias(attend, embeds.dtype, self.decoder.config._attn_implementation)
        with self.lock, wearing(self.decoder, adapter):
            states = self.decoder.base_model(
                inputs_embeds=embeds, attention_mask=attend, position_ids=places, use_cache=False
            ).last_hidden_state
        if self.config.pooling == "memory_tokens":
            values = states[:, length:]
            return Memories(values, mask.new_full(values.shape[:1], values.shape[1])), states[:, :length]
        return span_means(states, mask, self.config.compression_rate), states

    def fill_slots(self, input_ids: Tensor, rows: Tensor) -> Tensor:
        """Embeds prompts (B, L) and puts memory vectors, through the connector, into their slots: (B, L, H).

        `rows` (slots, H) are the vectors in the order of the slots, at which the ids are `SLOT_ID`. Raises a
        ValueError if there are not as many slots as vectors.
        """
        slots = input_ids == SLOT_ID
        counts = slots.sum(dim=-1)
        if int(counts.sum()) != len(rows):
            raise ValueError(
                f"`input_ids` has {counts.tolist()} memory slots a row but {len(rows)} memory vectors are "
                "given: encode the prompts for the memories of the documents that are given."
            )
        if self.config.connector == "rms":
            gain = self.memory_gain.float().to(rows.device)
            rows = functional.rms_norm(rows.float(), rows.shape[-1:], eps=1e-6) * gain
        embeds = self.get_input_embeddings()(input_ids.clamp(min=0))
        return embeds.masked_scatter(slots.unsqueeze(-1), rows.to(embeds))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        segments: Tensor | None = None,
        query_input_ids: Tensor | None = None,
        query_attention_mask: Tensor | None = None,
        memory: Tensor | None = None,
        memory_counts: Tensor | None = None,
        memory_vectors: Tensor | None = None,
        memory_mask: Tensor | None = None,
        wanted: Tensor | None = None,
        document_input_ids: Tensor | None = None,
        document_attention_mask: Tensor | None = None,
        document_indices: Tensor | None = None,
        document_counts: Tensor | None = None,
        match_input_ids: Tensor | None = None,
        match_attention_mask: Tensor | None = None,
        rate_factor: int = 1,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: object,
    ) -> ClaraOutput:
        """Loss of answers given memories (paper equations 2.2, 3.2), or without memories the plain forward.

        With questions, K documents are chosen from `memory` by the differentiable top-k and fill K times M
        slots, of which those that a shorter memory leaves empty are masked; without, all given memories fill
        the slots in order. `memory` is given, or documents to compress on the way.

        Args:
            input_ids: (B, L) prompts with memory slots, then answers. None with questions: scores alone.
            attention_mask: (B, L).
            position_ids: (B, L), for the plain forward; with memories they follow from the mask.
            labels: (B, L), -100 where there is no label. Logits are computed at labelled positions only.
            segments: (B, L) of `encode_packed`: several questions share a prompt.
            query_input_ids: (B, Lq) questions to retrieve with.
            query_attention_mask: (B, Lq).
            memory: (B, N, M, H) candidate memories of each question; without questions to retrieve with also
                (N, M, H), the memories of all prompts in their order.
            memory_counts: (B, N) vectors of each memory; None: M.
            memory_vectors: (B, N, D) their search vectors; None: pooled from `memory`.
            memory_mask: (B, N) bool, False where a pool is padded.
            wanted: (B, N) bool, documents that are chosen first while training (see `soft_topk`).
            document_input_ids: (D, Ld) passages to compress in this step, in place of `memory`.
            document_attention_mask: (D, Ld).
            document_indices: (B, N) which passage is which candidate; (B, 1) counting up by default.
            document_counts: (D,) how often each passage counts in the alignment loss; once by default.
            match_input_ids: (Q, Lm) questions that the compressor encodes too, to be scored against all D.
            match_attention_mask: (Q, Lm).
            rate_factor: Read memories at so many times the compression rate, the mean of neighbours (nested
                rates). Search vectors are those of the whole memory.
            num_items_in_batch: Divides the summed loss, instead of the labels (gradient accumulation).
            **kwargs: For the base's own forward (inputs_embeds, past_key_values, use_cache, …).

        Raises:
            ValueError: If slots and memories do not match, no label is given, or there is nothing to score.
        """
        check_sources(query_input_ids, match_input_ids, memory, document_input_ids)
        if memory is None and document_input_ids is None:
            plain = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, **kwargs}
            return self._plain({**plain, "position_ids": position_ids}, num_items_in_batch)
        documents = (document_input_ids, document_attention_mask, document_indices, document_counts)
        matches = (match_input_ids, match_attention_mask)
        memories, found = self._memories((memory, memory_counts), documents, matches)
        read = average_neighbours(memories, rate_factor)
        if query_input_ids is None:
            rows, mask = _rows(input_ids, read, memory_mask), attention_mask
        else:
            found |= self._scores((query_input_ids, query_attention_mask), memories, memory_vectors)
            if input_ids is None:
                return ClaraOutput(**found)
            rows, mask = self._choose((input_ids, attention_mask), found, read, memory_mask, wanted)
        return self._answer((input_ids, rows, mask), (labels, segments, num_items_in_batch), found, **kwargs)

    def _plain(self, kwargs: dict[str, object], num_items: Tensor | int | None) -> ClaraOutput:
        """The base's own forward pass; it divides its summed loss by the number of items if it is given."""
        divisor = {} if num_items is None else {"num_items_in_batch": num_items}
        with self.lock:
            return self.decoder(**kwargs, **divisor)

    def _memories(
        self, given: tuple[Tensor | None, Tensor | None], documents: tuple, matches: tuple
    ) -> tuple[Memories, dict[str, Tensor]]:
        """The memories (B, N, M, H) of a pass: given, or compressed in it, with what compressing found.

        That is the alignment loss, and if there are questions to match their scores (Q, D) and vectors.
        """
        memory, counts = given
        if memory is not None:
            full = torch.full(memory.shape[:-2], memory.shape[-2], device=memory.device)
            return Memories(memory, full if counts is None else counts), {}
        input_ids, mask, indices, counts = documents
        mask = torch.ones_like(input_ids) if mask is None else mask
        memories, states = self._encode("compressor", input_ids, mask)
        found = {"alignment_loss": alignment_loss(states, mask, pool(memories), counts)}
        if matches[0] is not None:
            asked, held = self.search_vectors(self.compress(*matches)), self.search_vectors(memories)
            found |= {"query_vectors": asked, "document_vectors": held}
            found["match_scores"] = cosine_scores(asked, held)
        indices = torch.arange(len(mask), device=mask.device).unsqueeze(-1) if indices is None else indices
        return Memories(memories.values[indices], memories.counts[indices]), found

    def _scores(self, questions: tuple, memories: Memories, vectors: Tensor | None) -> dict[str, Tensor]:
        """Search vectors of questions, and their scores (B, N) with candidates."""
        query = self.search_vectors(self.reason(*questions))
        vectors = self.search_vectors(memories) if vectors is None else vectors
        return {"query_vectors": query, "scores": cosine_scores(query, vectors)}

    def _choose(
        self, prompts: tuple, found: dict, memories: Memories, mask: Tensor | None, wanted: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Rows for the slots, and the prompts' mask without slots that short memories leave empty.

        Chooses by the scores of what was `found` and adds the `indices` to it.
        """
        input_ids, attention_mask = prompts
        slots = int((input_ids[0] == SLOT_ID).sum())
        k, rest = divmod(slots, memories.values.shape[-2])
        if rest or not k:
            raise ValueError(
                f"`input_ids` has {slots} memory slots a row, not a multiple of M = "
                f"{memories.values.shape[-2]}."
            )
        config = self.config
        estimator = config.retrieval_estimator if self.training else "straight_through"
        wanted = wanted if self.training else None
        options = (config.retrieval_temperature, estimator, mask, wanted)
        weights, found["indices"] = soft_topk(found["scores"], k, *options)
        chosen = select(weights, found["indices"], memories)
        seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        seen = seen.masked_scatter(input_ids == SLOT_ID, chosen.mask.flatten().to(seen.dtype))
        return chosen.values.flatten(0, -2), seen

    def _answer(self, prompts: tuple, asked: tuple, found: dict, **kwargs: object) -> ClaraOutput:
        """Adds loss and logits, without labels of all tokens, to what was found, wearing the generator."""
        (input_ids, rows, mask), (labels, segments, num_items) = prompts, asked
        embeds = self.fill_slots(input_ids, rows)
        mask = torch.ones_like(input_ids) if mask is None else mask
        with self.lock, wearing(self.decoder, "generator"):
            if labels is not None:
                logits = self._labelled_logits(embeds, mask, labels, segments, **kwargs)
                return ClaraOutput(loss=next_token_loss(logits, labels, num_items), logits=logits, **found)
            given = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions(mask)}
            return ClaraOutput(logits=self.decoder(**given, **kwargs).logits, **found)

    def _labelled_logits(
        self, embeds: Tensor, mask: Tensor, labels: Tensor, segments: Tensor | None, **kwargs: object
    ) -> Tensor:
        """Logits of the labelled tokens, (labelled, V), in the order of the labels.

        Rows run in groups of similar length. The base's own head runs (with its scaling and soft-capping) on
        the labelled states alone: a hook narrows the head's input, so (B, L, V) is never made.
        """
        keep = labels[:, 1:] != IGNORE_INDEX
        groups = length_groups(mask)
        logits = [self._group_logits((embeds, mask, keep), segments, rows, **kwargs) for rows in groups]
        places = torch.arange(int(keep.sum()), device=keep.device)
        by_row = places.split(keep.sum(dim=-1).tolist())
        order = torch.cat([by_row[row] for rows in groups for row in rows.tolist()])
        return torch.cat(logits)[order.argsort()]

    def _group_logits(
        self, prompts: tuple[Tensor, Tensor, Tensor], segments: Tensor | None, rows: Tensor, **kwargs: object
    ) -> Tensor:
        """The logits of some rows of the prompts: their embeddings, mask, and where they are labelled."""
        embeds, mask, keep = prompts
        used = mask[rows].any(dim=0).nonzero()
        columns = slice(int(used[0]), int(used[-1]) + 1)
        kept, own = keep[rows][:, columns], mask[rows][:, columns]

        def narrow(head: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            return (args[0][:, : kept.shape[1]][kept].unsqueeze(0),)

        attend, places = own, positions(own)
        if segments is not None:
            shared, kind = segments[rows][:, columns], self.decoder.config._attn_implementation
            attend = attention_bias(segment_attention(shared), embeds.dtype, kind)
            places = segment_positions(shared)
        handle = self.decoder.get_output_embeddings().register_forward_pre_hook(narrow)
        try:
            return self.decoder(
                inputs_embeds=embeds[rows][:, columns],
                attention_mask=attend,
                position_ids=places,
                use_cache=False,
                **kwargs,
            ).logits[0]
        finally:
            handle.remove()


def _rows(input_ids: Tensor, memories: Memories, mask: Tensor | None) -> Tensor:
    """(slots, H): the vectors of given memories, (B, N, M, H) or (N, M, H), in the order of the slots."""
    given = memories.counts if mask is None else memories.counts * mask
    slots = (input_ids == SLOT_ID).sum(dim=-1)
    if given.dim() == 2 and not torch.equal(slots, given.sum(dim=-1).to(slots)):
        raise ValueError(
            f"`input_ids` has {slots.tolist()} memory slots a row but the memories of the rows hold "
            f"{given.sum(dim=-1).tolist()} vectors: encode the prompts for the documents that are given."
        )
    return Memories(memories.values, given).rows()


def check_sources(
    query: Tensor | None, match: Tensor | None, memory: Tensor | None, documents: Tensor | None
) -> None:
    """Raises a ValueError if questions have nothing to be scored against."""
    if query is not None and memory is None and documents is None:
        raise ValueError("`query_input_ids` needs `memory` or `document_input_ids` to choose from.")
    if match is not None and (memory is not None or documents is None):
        raise ValueError(
            "`match_input_ids` are scored against passages that are compressed in this step: give "
            "`document_input_ids` and no `memory`."
        )


def next_token_loss(logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Mean cross-entropy in float32 of the labelled tokens, or their sum divided by `num_items`.

    Of logits (labelled, V), in the order of the labels (B, L), -100 where there is none; the first column
    never counts. Raises a ValueError if nothing is labelled.
    """
    targets = labels[:, 1:][labels[:, 1:] != IGNORE_INDEX]
    if not len(targets):
        raise ValueError("`labels` holds no label: every answer of the batch is empty or was cut away.")
    total = functional.cross_entropy(logits.float(), targets.to(logits.device), reduction="sum")
    return total / (len(targets) if num_items is None else num_items)


ClaraForRetrievalGeneration.register_for_auto_class("AutoModel")
