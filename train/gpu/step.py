"""One training step of all three adapters in fixed shapes, so that a GPU replays it as one captured graph.

The base's layers (Llama's) and the adapters' products are written out here; all is bfloat16 but the adapters.
Shapes: R rows of L tokens, H hidden width, P passages, D documents of a step, Q questions.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

ADAPTERS = ("compressor", "query_reasoner", "generator")
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
GATES = ("mlp.gate_proj", "mlp.up_proj")
LINEAR = (*ATTENTION, "self_attn.o_proj", *GATES, "mlp.down_proj")
LOW = float("-inf")


class Shape(NamedTuple):
    """How much of each kind a step holds; what does not fit is left out of it."""

    width: int = 512  # tokens of a row
    document_rows: int = 12
    prompt_rows: int = 16
    question_rows: int = 2
    documents: int = 48
    questions: int = 64
    vectors: int = 1600  # at the compression rate; half and a quarter of them at twice and four times
    labels: int = 1280
    targets: int = 20  # passages that a question's search should find


class Base(NamedTuple):
    """The frozen base: embeddings (V, H), stacked weights by name (layers, out, in), norms (layers, H)."""

    embedding: Tensor
    linear: dict[str, Tensor]
    before: Tensor
    after: Tensor
    last: Tensor
    heads: int
    key_heads: int
    epsilon: float
    theta: float

    @classmethod
    def read(
        cls, state: Mapping[str, Tensor], config: Mapping, device: torch.device | str, dtype: torch.dtype
    ) -> "Base":
        """Of a Llama's state dict and config."""
        layers = range(config["num_hidden_layers"])

        def stack(name: str) -> Tensor:
            found = torch.stack([state[f"model.layers.{i}.{name}.weight"] for i in layers])
            return found.to(device, dtype)

        return cls(
            state["model.embed_tokens.weight"].to(device, dtype),
            {name: stack(name) for name in LINEAR},
            stack("input_layernorm"),
            stack("post_attention_layernorm"),
            state["model.norm.weight"].to(device, dtype),
            config["num_attention_heads"],
            config["num_key_value_heads"],
            config["rms_norm_eps"],
            (config.get("rope_parameters") or config)["rope_theta"],
        )


class Adapter(nn.Module):
    """LoRA matrices of all layers, stacked, in float32: A (layers, r, in) and B (layers, out, r)."""

    def __init__(self, state: Mapping[str, Tensor], layers: int, scaling: float) -> None:
        super().__init__()
        self.scaling = scaling
        self.a, self.b = nn.ParameterDict(), nn.ParameterDict()
        for name in LINEAR:
            for kind, held in (("lora_A", self.a), ("lora_B", self.b)):
                rows = [state[_key(layer, name, kind)].float() for layer in range(layers)]
                held[name.replace(".", "_")] = nn.Parameter(torch.stack(rows))

    def merged(self, base: Base) -> Iterator[tuple[Tensor, ...]]:
        """Of each layer the weights with the adapter in them: query, key and value; output; gates; down."""
        whole = {name: self._weight(base.linear[name], name) for name in LINEAR}
        stacks = (
            torch.cat([whole[name] for name in ATTENTION], 1),
            whole["self_attn.o_proj"],
            torch.cat([whole[name] for name in GATES], 1),
            whole["mlp.down_proj"],
        )
        return zip(*(stack.unbind(0) for stack in stacks), strict=True)

    def _weight(self, weight: Tensor, name: str) -> Tensor:
        a, b = (held[name.replace(".", "_")].to(weight.dtype) for held in (self.a, self.b))
        return torch.baddbmm(weight, b, a, alpha=self.scaling)

    def state(self) -> dict[str, Tensor]:
        """As peft keeps it."""
        return {
            _key(layer, name, kind): row.detach().clone()
            for name in LINEAR
            for kind, held in (("lora_A", self.a), ("lora_B", self.b))
            for layer, row in enumerate(held[name.replace(".", "_")])
        }


def _key(layer: int, name: str, kind: str) -> str:
    return f"base_model.model.model.layers.{layer}.{name}.{kind}.weight"


def turns(places: Tensor, base: Base, width: int = 64) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions, each (R, L, 1, 64)."""
    steps = torch.arange(0, width, 2, device=places.device).float() / width
    angles = places.unsqueeze(-1).float() / base.theta**steps
    angles = torch.cat([angles, angles], -1).unsqueeze(2)
    return angles.cos().to(base.embedding.dtype), angles.sin().to(base.embedding.dtype)


def body(
    base: Base, weights: Iterator[tuple[Tensor, ...]], embeds: Tensor, allowed: Tensor, places: Tensor
) -> Tensor:
    """Last hidden states (R, L, H) of embeddings (R, L, H); `allowed` (R, L, L) says who sees whom."""
    rows, length, hidden = embeds.shape
    size = hidden // base.heads
    bias = torch.zeros_like(allowed, dtype=embeds.dtype).masked_fill(~allowed, LOW).unsqueeze(1)
    cos, sin = turns(places, base, size)
    both, groups = base.heads + base.key_heads, base.heads // base.key_heads
    x = embeds
    for layer, (attend, out, gates, down) in enumerate(weights):
        y = functional.rms_norm(x, (hidden,), base.before[layer], base.epsilon)
        qkv = functional.linear(y, attend).view(rows, length, -1, size)
        qk, v = qkv[:, :, :both], qkv[:, :, both:]
        qk = qk * cos + torch.cat([-qk[..., size // 2 :], qk[..., : size // 2]], -1) * sin
        q, k = qk[:, :, : base.heads], qk[:, :, base.heads :]
        k, v = (t.repeat_interleave(groups, 2).transpose(1, 2) for t in (k, v))
        found = functional.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=bias)
        x = x + functional.linear(found.transpose(1, 2).reshape(rows, length, hidden), out)
        y = functional.rms_norm(x, (hidden,), base.after[layer], base.epsilon)
        gate, up = functional.linear(y, gates).chunk(2, -1)
        x = x + functional.linear(functional.silu(gate) * up, down)
    return functional.rms_norm(x, (hidden,), base.last, base.epsilon)


def same_text(texts: Tensor, both_ways: bool) -> Tensor:
    """(R, L, L): tokens see those of their own text, the later ones too where it is read both ways."""
    same = texts.unsqueeze(-1) == texts.unsqueeze(-2)
    if both_ways:
        return same
    order = torch.arange(texts.shape[1], device=texts.device)
    return same & (order <= order.unsqueeze(-1))


def same_prompt(prompts: Tensor, segments: Tensor) -> Tensor:
    """(R, L, L): tokens see what precedes them in their prompt's head (segment 0) and their own segment."""
    own = (segments.unsqueeze(-2) == 0) | (segments.unsqueeze(-1) == segments.unsqueeze(-2))
    return same_text(prompts, both_ways=False) & own


def gathered(states: Tensor, places: Tensor) -> Tensor:
    """Means (N, H) of states (T, H) at places (N, k), -1 where there is none; in the states' dtype."""
    own = (places >= 0).unsqueeze(-1)
    rows = states.index_select(0, places.clamp(min=0).flatten()).view(*places.shape, -1).float()
    return ((rows * own).sum(1) / own.sum(1).clamp(min=1)).to(states.dtype)


def text_vectors(values: Tensor, owners: Tensor, weights: Tensor, count: int) -> Tensor:
    """(count, H) float32 unit vectors: weighted sums of values (T, H) by owner (T,), -1 at padding."""
    own = (owners == torch.arange(count, device=owners.device).unsqueeze(-1)).float() * weights
    return functional.normalize(own @ values.float(), dim=-1, eps=1e-6)


class Model(nn.Module):
    """Three adapters and the connector's gain over a frozen base, and the bank of all passages' vectors.

    Args:
        base: The frozen base.
        adapters: Name to adapter.
        gain: (H,) of the connector.
        passages: P.
        shape: What a step holds.
        both_ways: Whether a text's tokens see the later ones (`encoder_attention` "bidirectional").
        search_weight: Of the search's loss beside the answers'.
        temperature: Of the search's softmax.
    """

    def __init__(
        self,
        base: Base,
        adapters: dict[str, Adapter],
        gain: Tensor,
        passages: int,
        shape: Shape,
        both_ways: bool = True,
        search_weight: float = 0.5,
        temperature: float = 0.02,
    ) -> None:
        super().__init__()
        self.base, self.shape, self.both_ways = base, shape, both_ways
        self.search_weight, self.temperature = search_weight, temperature
        self.adapters = nn.ModuleDict(adapters)
        self.gain = nn.Parameter(gain.float())
        width = base.embedding.shape[1]
        self.bank = torch.zeros(passages + 1, width, dtype=torch.bfloat16, device=base.embedding.device)

    def encode(self, adapter: str, ids: Tensor, texts: Tensor, places: Tensor) -> Tensor:
        """(R * L, H) states of packed texts, ids, text numbers and places (R, L)."""
        weights = self.adapters[adapter].merged(self.base)
        embeds = self.base.embedding[ids]
        return body(self.base, weights, embeds, same_text(texts, self.both_ways), places).flatten(0, 1)

    def memories(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """All memory vectors at the three rates in one table, and the documents' search vectors (D, H)."""
        states = self.encode("compressor", batch["doc_ids"], batch["doc_texts"], batch["doc_places"])
        full = gathered(states, batch["spans"])
        owners, counts = batch["owners"], batch["counts"]
        vectors = text_vectors(full, owners, 1 / counts.clamp(min=1).float(), self.shape.documents)
        rates = [full, gathered(full, batch["pairs"]), gathered(full, batch["fours"])]
        return torch.cat(rates), vectors

    def answer_loss(self, batch: dict[str, Tensor], table: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum of the labels' losses, and each label's (N,)."""
        width, gain = table.shape[-1], self.gain
        rows = (functional.rms_norm(table.float(), (width,), eps=1e-6) * gain).to(table.dtype)
        slots = batch["slots"].unsqueeze(-1)
        filled = rows.index_select(0, batch["slots"].clamp(min=0).flatten()).view(*slots.shape[:2], width)
        embeds = torch.where(slots >= 0, filled, self.base.embedding[batch["ids"]])
        allowed = same_prompt(batch["prompts"], batch["segments"])
        weights = self.adapters["generator"].merged(self.base)
        states = body(self.base, weights, embeds, allowed, batch["places"]).flatten(0, 1)
        logits = functional.linear(states.index_select(0, batch["label_places"]), self.base.embedding)
        losses = functional.cross_entropy(logits.float(), batch["labels"], reduction="none")
        weight = batch["label_weights"]
        return (losses * weight).sum() / weight.sum().clamp(min=1), losses

    def search_loss(self, batch: dict[str, Tensor], vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the search over all passages with the wanted shares, and the first found (Q,)."""
        states = self.encode("query_reasoner", batch["ask_ids"], batch["ask_texts"], batch["ask_places"])
        owners = batch["ask_texts"].flatten()
        asked = text_vectors(states, owners, batch["ask_weights"].flatten(), self.shape.questions)
        scores = asked @ self.bank.float().T
        scores = scores.index_copy(1, batch["doc_numbers"], asked @ vectors.T)
        scores = scores / self.temperature
        scores = scores[:, :-1]
        wanted = scores.gather(1, batch["targets"])
        each = scores.logsumexp(-1) - (wanted * batch["target_weights"]).sum(-1)
        own = batch["asked"]
        return (each * own).sum() / own.sum().clamp(min=1), scores.argmax(-1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses of a step; keeps the documents' new vectors in the bank."""
        table, vectors = self.memories(batch)
        answer, losses = self.answer_loss(batch, table)
        search, found = self.search_loss(batch, vectors)
        with torch.no_grad():
            self.bank.index_copy_(0, batch["doc_numbers"], vectors.detach().to(self.bank.dtype))
        total = answer + self.search_weight * search
        parts = {"answer": answer, "search": search, "losses": losses}
        return {"loss": total, "found": found, **{name: part.detach() for name, part in parts.items()}}

    @torch.no_grad()
    def refresh(self, passages: Iterator[tuple[dict[str, Tensor], Tensor]]) -> None:
        """Makes the bank's vectors anew, of packed texts with the numbers of their passages."""
        for batch, numbers in passages:
            states = self.encode("compressor", batch["ids"], batch["texts"], batch["places"])
            owners, weights = batch["texts"].flatten(), batch["weights"].flatten()
            self.bank[numbers] = text_vectors(states, owners, weights, len(numbers)).to(self.bank.dtype)
