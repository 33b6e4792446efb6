"""ClaraForRetrievalGeneration: compress, reason, retrieve, forward (loss), generate (text).

Letters of the shapes: B questions, N documents, K chosen, M memory tokens, H hidden width, L tokens,
V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, GenerationMixin

from .adapters_clara import wearing
from .answering_clara import AnsweringMixin
from .checkpoint_clara import own_names
from .configuration_clara import ClaraConfig
from .encoding_clara import ModelLock, alignment_loss, fewer_tokens, length_groups, mean_spans, positions
from .inspecting_clara import InspectingMixin
from .outputs_clara import ClaraOutput
from .pretrained_clara import ClaraPreTrainedModel
from .processing_clara import IGNORE_INDEX, SLOT_ID
from .retrieval_clara import cosine_scores, select, soft_topk


class ClaraForRetrievalGeneration(InspectingMixin, AnsweringMixin, ClaraPreTrainedModel, GenerationMixin):
    """A frozen causal LM with three adapters: compressor, query reasoner, generator (arXiv 2511.18659).

    Text in, text out: `build_memory`, `retrieve`, `generate`, `paraphrase` (in answering_clara). Tensors in,
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

    def compress(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Documents to memories, wearing the compressor (paper section 3.1).

        Args:
            input_ids: (N, L) token ids of passages, padded on either side.
            attention_mask: (N, L), 1 for tokens and 0 for padding; None means no padding.

        Returns:
            (N, M, H) memories: last hidden states at the memory tokens, in the model's dtype.
        """
        return self._encode("compressor", input_ids, attention_mask)[0]

    def reason(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Questions to memories in the documents' space, wearing the query reasoner (paper section 3.2).

        Shapes as in `compress`: (B, L) -> (B, M, H).
        """
        return self._encode("query_reasoner", input_ids, attention_mask)[0]

    def _encode(
        self, adapter: str, input_ids: Tensor, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(N, L) -> memories (N, M, H) and token states (N, L, H). The body runs alone: no LM head."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        embeds = self.get_input_embeddings()(input_ids)
        length, full_mask = input_ids.shape[-1], mask
        if self.config.pooling == "memory_tokens":
            tokens = self.memory_tokens.to(embeds).expand(len(embeds), -1, -1)
            embeds = torch.cat([embeds, tokens], dim=1)
            full_mask = torch.cat([mask, mask.new_ones(tokens.shape[:2])], dim=1)
        with self.lock, wearing(self.decoder, adapter):
            states = self.decoder.base_model(
                inputs_embeds=embeds,
                attention_mask=full_mask,
                position_ids=positions(full_mask, self.config.encoder_positions),
                use_cache=False,
            ).last_hidden_state
        if self.config.pooling == "memory_tokens":
            return states[:, length:], states[:, :length]
        return mean_spans(states, mask, self.config.num_memory_tokens), states

    def fill_slots(self, input_ids: Tensor, memory: Tensor) -> Tensor:
        """Embeds a prompt and puts the memories, through the connector, into its slots.

        Args:
            input_ids: (B, L) prompt ids, `SLOT_ID` at the slots.
            memory: (B, K, M, H) or (slots, H): the memories in the order of the slots.

        Returns:
            (B, L, H) input embeddings.

        Raises:
            ValueError: If the number of slots is not the number of memory tokens, in all or in a row.
        """
        slots = input_ids == SLOT_ID
        rows = memory.reshape(-1, memory.shape[-1])
        counts = slots.sum(dim=-1)
        uneven = memory.dim() == 4 and int(counts.max()) * len(counts) != len(rows)
        if uneven or int(counts.sum()) != len(rows):
            raise ValueError(
                f"`input_ids` has {counts.tolist()} memory slots a row but `memory` holds {len(rows)} memory "
                "tokens: encode the prompts for as many documents as are given."
            )
        embeds = self.get_input_embeddings()(input_ids.clamp(min=0))
        return embeds.masked_scatter(slots.unsqueeze(-1), self._connect(rows).to(embeds))

    def _connect(self, memory: Tensor) -> Tensor:
        if self.config.connector == "none":
            return memory
        gain = self.memory_gain.float().to(memory.device)
        return functional.rms_norm(memory.float(), memory.shape[-1:], eps=1e-6) * gain

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        query_input_ids: Tensor | None = None,
        query_attention_mask: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        document_input_ids: Tensor | None = None,
        document_attention_mask: Tensor | None = None,
        document_indices: Tensor | None = None,
        match_input_ids: Tensor | None = None,
        match_attention_mask: Tensor | None = None,
        num_memory_tokens: int | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: object,
    ) -> ClaraOutput:
        """Loss of answers given memories (paper equations 2.2, 3.2), or without memories the plain forward.

        With questions, K = slots / M documents are chosen from `memory` by the differentiable top-k; without,
        all given memories fill the slots in order. `memory` is given, or documents to compress on the way.

        Args:
            input_ids: (B, L) prompts with memory slots, then answers. None with questions: scores alone.
            attention_mask: (B, L).
            position_ids: (B, L), for the plain forward; with memories they follow from the mask.
            labels: (B, L), -100 where there is no label. Logits are computed at labelled positions only.
            query_input_ids: (B, Lq) questions to retrieve with.
            query_attention_mask: (B, Lq).
            memory: (B, N, M, H) candidate memories of each question.
            memory_mask: (B, N) bool, False where a pool is padded.
            document_input_ids: (D, Ld) passages to compress in this step, in place of `memory`.
            document_attention_mask: (D, Ld).
            document_indices: (B, N) which passage is which candidate; (B, 1) counting up by default.
            match_input_ids: (Q, Lm) questions that the compressor encodes too, to be scored against all D
                passages (in-batch contrastive training of the space).
            match_attention_mask: (Q, Lm).
            num_memory_tokens: Use so many tokens of every memory (nested rates; see `fewer_tokens`).
            num_items_in_batch: Divides the summed loss, instead of the labels (gradient accumulation).
            **kwargs: For the base's own forward (inputs_embeds, past_key_values, use_cache, …).

        Returns:
            A `ClaraOutput`.

        Raises:
            ValueError: If slots and memories do not match, or labels hold no label at all.
        """
        if memory is None and document_input_ids is None:
            plain = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, **kwargs}
            with self.lock:
                return self.decoder(position_ids=position_ids, **plain)
        scores, indices, encoded = None, None, {}
        if memory is None:
            documents = (document_input_ids, document_attention_mask, document_indices)
            memory, encoded = self._compress_candidates(documents, (match_input_ids, match_attention_mask))
        memory = self._fewer(memory, num_memory_tokens)
        if query_input_ids is not None:
            query = self._fewer(self.reason(query_input_ids, query_attention_mask), num_memory_tokens)
            scores = cosine_scores(query, memory)
            if input_ids is None:
                return ClaraOutput(scores=scores, **encoded)
            memory, indices = self._choose(scores, memory, memory_mask, input_ids)
        elif memory_mask is not None:
            memory = memory[memory_mask]
        embeds = self.fill_slots(input_ids, memory)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        loss, logits = self._answer(embeds, mask, labels, num_items_in_batch, **kwargs)
        return ClaraOutput(loss=loss, logits=logits, scores=scores, indices=indices, **encoded)

    def _fewer(self, memory: Tensor, count: int | None) -> Tensor:
        return fewer_tokens(memory, count, self.config.pooling)

    def _compress_candidates(
        self,
        documents: tuple[Tensor, Tensor | None, Tensor | None],
        questions: tuple[Tensor | None, Tensor | None],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Memories (B, N, M, H), their alignment loss, and scores (Q, D) of questions to match, if any."""
        input_ids, mask, indices = documents
        mask = torch.ones_like(input_ids) if mask is None else mask
        memory, states = self._encode("compressor", input_ids, mask)
        encoded = {"alignment_loss": alignment_loss(states, mask, memory)}
        if questions[0] is not None:
            encoded["match_scores"] = cosine_scores(self.compress(*questions), memory)
        return memory.unsqueeze(1) if indices is None else memory[indices], encoded

    def _choose(
        self, scores: Tensor, memory: Tensor, mask: Tensor | None, input_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        slots = int((input_ids[0] == SLOT_ID).sum())
        k, rest = divmod(slots, memory.shape[-2])
        if rest or not k:
            raise ValueError(
                f"`input_ids` has {slots} memory slots a row, not a multiple of M = {memory.shape[-2]}."
            )
        config = self.config
        estimator = config.retrieval_estimator if self.training else "straight_through"
        weights, indices = soft_topk(scores, k, config.retrieval_temperature, estimator, mask)
        return select(weights, memory), indices

    def _answer(
        self,
        embeds: Tensor,
        mask: Tensor,
        labels: Tensor | None,
        num_items: Tensor | int | None,
        **kwargs: object,
    ) -> tuple[Tensor | None, Tensor]:
        """Loss and logits, wearing the generator: logits of the labelled tokens, or of all without labels."""
        with self.lock, wearing(self.decoder, "generator"):
            if labels is not None:
                logits = self._labelled_logits(embeds, mask, labels, **kwargs)
                return next_token_loss(logits, labels, num_items), logits
            out = self.decoder(
                inputs_embeds=embeds, attention_mask=mask, position_ids=positions(mask), **kwargs
            )
            return None, out.logits

    def _labelled_logits(self, embeds: Tensor, mask: Tensor, labels: Tensor, **kwargs: object) -> Tensor:
        """Logits of the labelled tokens, (labelled, V), in the order of the labels.

        Rows run in groups of similar length. The base's own head runs (with its scaling and soft-capping) on
        the labelled states alone: a hook narrows the head's input, so (B, L, V) is never made.
        """
        keep = labels[:, 1:] != IGNORE_INDEX
        groups = length_groups(mask)
        logits = [self._group_logits(embeds, mask, keep, rows, **kwargs) for rows in groups]
        places = torch.arange(int(keep.sum()), device=keep.device)
        by_row = places.split(keep.sum(dim=-1).tolist())
        order = torch.cat([by_row[row] for rows in groups for row in rows.tolist()])
        return torch.cat(logits)[order.argsort()]

    def _group_logits(
        self, embeds: Tensor, mask: Tensor, keep: Tensor, rows: Tensor, **kwargs: object
    ) -> Tensor:
        used = mask[rows].any(dim=0).nonzero()
        columns = slice(int(used[0]), int(used[-1]) + 1)
        kept = keep[rows][:, columns]

        def narrow(head: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            return (args[0][:, : kept.shape[1]][kept].unsqueeze(0),)

        handle = self.decoder.get_output_embeddings().register_forward_pre_hook(narrow)
        try:
            row_mask = mask[rows][:, columns]
            return self.decoder(
                inputs_embeds=embeds[rows][:, columns],
                attention_mask=row_mask,
                position_ids=positions(row_mask),
                use_cache=False,
                **kwargs,
            ).logits[0]
        finally:
            handle.remove()


def next_token_loss(logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Mean cross-entropy in float32 of the labelled tokens.

    Args:
        logits: (labelled, V), in the order of the labels.
        labels: (B, L), -100 where there is no label; the first column never counts.
        num_items: Divisor in place of the number of labels.

    Raises:
        ValueError: If nothing is labelled.
    """
    targets = labels[:, 1:][labels[:, 1:] != IGNORE_INDEX]
    if not len(targets):
        raise ValueError("`labels` holds no label: every answer of the batch is empty or was cut away.")
    total = functional.cross_entropy(logits.float(), targets.to(logits.device), reduction="sum")
    return total / (len(targets) if num_items is None else num_items)


ClaraForRetrievalGeneration.register_for_auto_class("AutoModel")
