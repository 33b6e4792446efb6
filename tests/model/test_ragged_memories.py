"""Memories as long as their text asks, packed questions, attention in both directions, masked slots."""

import pytest
import torch
from clara.data.collation import Target, encode_packed
from clara.modeling_clara import segment_attention, segment_positions
from clara.prompts_clara import answer_prompt
from clara.retrieval_clara import (
    Memories,
    average_neighbours,
    cosine_scores,
    pool,
    soft_topk,
    span_means,
)
from clara.train.memories import ragged
from conftest import DOCUMENTS, QUESTIONS, make_model


def test_span_means_by_hand():
    states = torch.tensor([[[9.0], [1.0], [3.0], [5.0]], [[2.0], [4.0], [6.0], [8.0]]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    memories = span_means(states, mask, 2)
    assert memories.counts.tolist() == [2, 2]
    assert memories.values.squeeze(-1).tolist() == [[2.0, 5.0], [3.0, 7.0]]
    assert span_means(states, mask, 3).counts.tolist() == [1, 2]


def test_span_means_do_not_see_padding():
    states = torch.randn(1, 5, 3)
    left = span_means(
        torch.cat([torch.full((1, 4, 3), 7.0), states], 1), torch.tensor([[0] * 4 + [1] * 5]), 2
    )
    right = span_means(
        torch.cat([states, torch.full((1, 4, 3), 7.0)], 1), torch.tensor([[1] * 5 + [0] * 4]), 2
    )
    assert left.counts.tolist() == right.counts.tolist() == [3]
    torch.testing.assert_close(left.rows(), right.rows())
    assert (left.values[:, 3:] == 0).all()


def test_average_neighbours_by_hand():
    memories = Memories(
        torch.tensor([[[1.0], [3.0], [8.0], [0.0]], [[2.0], [4.0], [6.0], [8.0]]]), torch.tensor([3, 4])
    )
    half = average_neighbours(memories, 2)
    assert half.counts.tolist() == [2, 2]
    assert half.values.squeeze(-1).tolist() == [[2.0, 8.0], [3.0, 7.0]]
    quarter = average_neighbours(memories, 4)
    assert quarter.values.squeeze(-1).tolist() == [[4.0], [5.0]]
    with pytest.raises(ValueError, match="`factor`"):
        average_neighbours(memories, 0)


def test_pool_counts_own_vectors_alone():
    memories = Memories(torch.tensor([[[1.0, 0.0], [3.0, 2.0], [0.0, 0.0]]]), torch.tensor([2]))
    assert pool(memories).tolist() == [[2.0, 1.0]]
    alone = Memories(memories.values, torch.tensor([1]))
    assert pool(alone).tolist() == [[1.0, 0.0]]
    with pytest.raises(ValueError, match="flatten"):
        pool(memories, "flatten")
    whole = Memories(memories.values, torch.tensor([3]))
    assert pool(whole, "flatten").tolist() == [[1.0, 0.0, 3.0, 2.0, 0.0, 0.0]]


def test_scores_stay_float32_under_autocast():
    query, vectors = torch.randn(3, 64), torch.randn(5, 64)
    wanted = cosine_scores(query, vectors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cosine_scores(query, vectors)
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)


def test_ragged_gathers_rows_in_order():
    values, offsets = torch.arange(12.0).view(6, 2), torch.tensor([0, 1, 4, 6])
    found = ragged(values, offsets, torch.tensor([[2, 0]]))
    assert found.counts.tolist() == [[2, 1]]
    assert found.values[0, 0].tolist() == values[4:6].tolist()
    assert found.values[0, 1].tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert ragged(values, offsets, torch.tensor([0]), 3).values.shape == (1, 3, 2)


def test_wanted_documents_are_chosen_in_the_order_of_scores():
    scores = torch.tensor([[0.9, 0.1, 0.5, 0.4]])
    wanted = torch.tensor([[False, True, False, False]])
    weights, indices = soft_topk(scores, 2, wanted=wanted)
    assert indices.tolist() == [[0, 1]]
    assert weights.argmax(-1).tolist() == [[0, 1]]
    assert soft_topk(scores, 2)[1].tolist() == [[0, 2]]


def test_segments_see_the_shared_prompt_and_themselves():
    segments = torch.tensor([[-1, 0, 0, 1, 1, 2]])
    attend = segment_attention(segments)[0]
    assert attend[3].tolist() == [False, True, True, True, False, False]
    assert attend[5].tolist() == [False, True, True, False, False, True]
    assert attend[0].tolist() == [True, False, False, False, False, False]
    assert segment_positions(segments).tolist() == [[0, 0, 1, 2, 3, 2]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_questions_have_the_loss_of_single_ones(base, attention):
    model = make_model(base, pooling="mean", compression_rate=4, attn_implementation=attention)
    processor, style = model.processor, "clara"
    documents = processor.encode_documents(DOCUMENTS[:2])
    counts = processor.memory_counts(documents["attention_mask"])
    assert counts == model.compress(**documents).counts.tolist()
    given = {f"document_{name}": value for name, value in documents.items()}
    texts, answers = [QUESTIONS[:2], QUESTIONS[2:]], [["1890", "Christiaan Huygens"], ["Leipzig"]]
    targets = [Target(answer_prompt(style), *row) for row in zip(texts, answers, strict=True)]
    packed = encode_packed(processor, targets, [[count] for count in counts])
    single = processor.encode_prompts(
        [*texts[0], *texts[1]], [[counts[0]], [counts[0]], [counts[1]]], [*answers[0], *answers[1]]
    )
    together = model(**packed, **given)
    alone = model(**single, **given, document_indices=torch.tensor([[0], [0], [1]]))
    assert len(together.logits) == len(alone.logits)
    torch.testing.assert_close(together.loss, alone.loss)


def test_flash_attention_is_refused_for_packed_questions(base):
    model = make_model(base, pooling="mean")
    model.decoder.config._attn_implementation = "flash_attention_2"
    packed = encode_packed(model.processor, [Target(answer_prompt(), ["a", "b"], ["c", "d"])], [[1]])
    with pytest.raises(ValueError, match="sdpa"):
        model(**packed, memory=torch.zeros(1, 1, 1, 32))


@pytest.mark.parametrize("kind", ["llama", "mistral", "phi3", "qwen3", "gemma3"])
def test_both_directions_see_what_follows_and_no_padding(tmp_path, kind):
    from conftest import save_base

    base = save_base(tmp_path, kind)
    causal, both = (
        make_model(base, pooling="mean", compression_rate=4, encoder_attention=how)
        for how in ("causal", "bidirectional")
    )
    ids = torch.randint(5, 500, (1, 12))
    changed = ids.clone()
    changed[0, -1] = 3
    first = slice(0, 2)
    assert torch.allclose(
        causal.compress(ids).values[:, first], causal.compress(changed).values[:, first], atol=1e-6
    )
    assert not torch.allclose(
        both.compress(ids).values[:, first], both.compress(changed).values[:, first], atol=1e-3
    )
    padded = torch.cat([torch.full((1, 3), 7), ids], 1)
    mask = torch.tensor([[0] * 3 + [1] * 12])
    torch.testing.assert_close(
        both.compress(padded, mask).rows(), both.compress(ids).rows(), atol=1e-5, rtol=1e-4
    )


def test_empty_slots_of_chosen_memories_do_not_count(base):
    model = make_model(base, pooling="mean", compression_rate=4).eval()
    processor = model.processor
    memories = model.compress(**processor.encode_documents(DOCUMENTS[:3]))
    query = processor.encode_questions(QUESTIONS[:1])
    size = memories.values.shape[1]
    prompts = processor.encode_prompts(QUESTIONS[:1], [[size, size]], ["1890"])
    given = {f"query_{name}": value for name, value in query.items()}
    pool_ = {"memory": memories.values[None], "memory_counts": memories.counts[None]}
    found = model(**prompts, **given, **pool_)
    chosen = found.indices[0]
    exact = processor.encode_prompts(QUESTIONS[:1], [memories.counts[chosen].tolist()], ["1890"])
    wanted = model(**exact, memory=memories.values[chosen][None], memory_counts=memories.counts[chosen][None])
    assert len(set(memories.counts.tolist())) > 1
    torch.testing.assert_close(found.loss, wanted.loss)


def test_a_memory_reads_at_twice_the_rate(base):
    model = make_model(base, pooling="mean", compression_rate=4)
    processor = model.processor
    documents = processor.encode_documents(DOCUMENTS[:2])
    counts = processor.memory_counts(documents["attention_mask"], 2)
    assert counts == average_neighbours(model.compress(**documents), 2).counts.tolist()
    given = {f"document_{name}": value for name, value in documents.items()}
    prompts = processor.encode_prompts(QUESTIONS[:2], [[count] for count in counts], ["a", "b"])
    assert torch.isfinite(model(**prompts, **given, rate_factor=2).loss)
