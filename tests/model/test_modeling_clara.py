"""The model's passes: compress, reason, slots, loss, gradients, checkpointing, copies."""

import copy
import pickle

import pytest
import torch
from clara.adapters_clara import adapter_parameters, wearing, worn_adapters
from clara.configuration_clara import ADAPTERS
from clara.modeling_clara import length_groups
from clara.processing_clara import IGNORE_INDEX
from clara.prompts_clara import SLOT_ID
from clara.retrieval_clara import cosine_scores, span_means
from conftest import DOCUMENTS, QUESTIONS, make_model, slots_of
from torch import tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

M, H = 4, 32
ANSWERS = ["1890", "It was found by Christiaan Huygens", "In Leipzig"]


@pytest.fixture(scope="module")
def encoded(shared_model):
    """Documents, questions and answered prompts for two documents each, as the processor makes them."""
    processor = shared_model.processor
    return {
        "documents": processor.encode_documents(DOCUMENTS),
        "questions": processor.encode_questions(QUESTIONS),
        "prompts": processor.encode_prompts(QUESTIONS, slots_of(QUESTIONS, 2), ANSWERS),
    }


@pytest.fixture(scope="module")
def pools(shared_model, encoded):
    """(3, 6, M, H): the same six documents for each question."""
    with torch.no_grad():
        return compress(shared_model, **encoded["documents"]).expand(3, -1, -1, -1)


def compress(model, *args, **kwargs):
    return model.compress(*args, **kwargs).values


def reason(model, *args, **kwargs):
    return model.reason(*args, **kwargs).values


def gather(pools, indices):
    return pools[torch.arange(len(pools)).unsqueeze(-1), indices]


def gradients(model, names=ADAPTERS):
    return {
        name: torch.cat(
            [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in found]
        )
        for name in names
        if (found := adapter_parameters(model.decoder, [name]))
    }


def full_loss(model, memory, batch):
    """The loss by its definition: all logits, shifted, over the labelled tokens."""
    logits = model(memory=memory, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


# compress and reason


@torch.no_grad()
def test_memories_are_the_last_hidden_states_at_the_memory_tokens(shared_model, encoded):
    model = shared_model
    for call, adapter, batch in (
        (model.compress, "compressor", model.processor.encode_documents(DOCUMENTS[:1])),
        (model.reason, "query_reasoner", model.processor.encode_questions(QUESTIONS[:1])),
    ):
        text = model.get_input_embeddings()(batch["input_ids"])
        embeds = torch.cat([text, model.memory_tokens.unsqueeze(0)], dim=1)
        with wearing(model.decoder, adapter):
            states = model.decoder(inputs_embeds=embeds, output_hidden_states=True).hidden_states[-1]
        memory = call(**batch).values
        assert memory.shape == (1, M, H)
        torch.testing.assert_close(memory, states[:, -M:])


@torch.no_grad()
def test_compressor_and_reasoner_are_two_adapters(shared_model, encoded):
    documents = encoded["documents"]
    difference = compress(shared_model, **documents) - reason(shared_model, **documents)
    assert difference.abs().max() > 0.01


@pytest.mark.parametrize("pooling", ["memory_tokens", "mean"])
@torch.no_grad()
def test_padding_and_company_change_no_memory(base, pooling):
    model = make_model(base, pooling=pooling)
    together = model.compress(**model.processor.encode_documents(DOCUMENTS))
    batch = together.values
    for index, text in enumerate(DOCUMENTS[:3]):
        ids = model.processor.encode_documents([text])["input_ids"]
        alone = compress(model, ids)
        torch.testing.assert_close(batch[index, : together.counts[index]], alone[0], atol=1e-5, rtol=0)
        junk, one, zero = torch.full((1, 9), 77), torch.ones_like(ids), torch.zeros(1, 9, dtype=torch.long)
        left = compress(model, torch.cat([junk, ids], 1), torch.cat([zero, one], 1))
        right = compress(model, torch.cat([ids, junk], 1), torch.cat([one, zero], 1))
        own = alone.shape[1]
        torch.testing.assert_close(left[:, :own], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(right[:, :own], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_head_does_not_run(shared_model, encoded):
    def fail(*_):
        raise AssertionError("the LM head ran")

    handle = shared_model.decoder.get_output_embeddings().register_forward_pre_hook(fail)
    try:
        compress(shared_model, **encoded["documents"])
        reason(shared_model, **encoded["questions"])
    finally:
        handle.remove()


@torch.no_grad()
def test_mean_pooling_takes_the_states_of_the_text(base):
    model = make_model(base, pooling="mean")
    assert model.own_parameters() == {}
    batch = model.processor.encode_documents([DOCUMENTS[0], "Titan"])
    with wearing(model.decoder, "compressor"):
        states = model.decoder.base_model(batch["input_ids"][:1]).last_hidden_state
    expected = span_means(states, torch.ones(states.shape[:2]), 16)
    found = model.compress(**batch)
    assert found.counts.tolist() == [len(expected.rows()), 1]
    torch.testing.assert_close(found.values[0, : found.counts[0]], expected.rows(), atol=1e-5, rtol=0)


@torch.no_grad()
def test_dropout_is_off_in_eval_mode_and_on_in_training(model, encoded):
    first, second = (compress(model, **encoded["documents"]) for _ in range(2))
    assert torch.equal(first, second)
    model.train()
    first, second = (compress(model, **encoded["documents"]) for _ in range(2))
    assert (first - second).abs().max() > 0.01


# Slots


def test_each_documents_memory_lies_in_its_own_slots(shared_model):
    """Document d of question b is filled with the value 10 b + d."""
    batch = shared_model.processor.encode_prompts(QUESTIONS[:2], slots_of(QUESTIONS[:2], 2))
    memory = tensor([[0.0, 1.0], [10.0, 11.0]]).view(2, 2, 1, 1).expand(2, 2, M, H)
    embeds = shared_model.fill_slots(batch["input_ids"], memory.flatten(0, -2))
    text = batch["input_ids"] != SLOT_ID
    assert torch.equal(embeds[text], shared_model.get_input_embeddings()(batch["input_ids"][text]))
    for row, expected in enumerate([[0.0] * M + [1.0] * M, [10.0] * M + [11.0] * M]):
        filled = embeds[row][batch["input_ids"][row] == SLOT_ID]
        assert filled.tolist() == [[value] * H for value in expected]


@pytest.mark.parametrize("shape", [(12, H), (6, H), (7, H), (9, H)])
def test_slots_and_memories_must_match(shared_model, shape):
    batch = shared_model.processor.encode_prompts(QUESTIONS[:1], slots_of(QUESTIONS[:1], 2))
    with pytest.raises(ValueError, match=r"has \[8\] memory slots a row but \d+ memory vectors are given"):
        shared_model.fill_slots(batch["input_ids"], torch.zeros(shape))


def test_slots_of_one_row_are_never_filled_from_another(shared_model):
    """Three and one documents are four in all, as are two and two."""
    batch = shared_model.processor.encode_prompts(QUESTIONS[:2], [[M] * 3, [M]])
    with pytest.raises(ValueError, match=r"has \[12, 4\] memory slots a row"):
        shared_model(memory=torch.zeros(2, 2, M, H), **batch)
    mask = tensor([[True, True, True], [False, True, False]])
    assert shared_model(memory=torch.zeros(2, 3, M, H), memory_mask=mask, **batch).logits.isfinite().all()


def test_the_rms_connector_by_hand(base):
    """A row with one 4 and zeros has root mean square 4 / sqrt(32)."""
    model = make_model(base, connector="rms")
    assert set(model.own_parameters()) == {"memory_tokens", "memory_gain"}
    weight = model.get_input_embeddings().weight
    assert 0.5 < model.memory_gain[0] / weight.float().pow(2).mean().sqrt() < 2
    with torch.no_grad():
        model.memory_gain.copy_(torch.arange(1.0, H + 1))
    batch = model.processor.encode_prompts(QUESTIONS[:1], slots_of(QUESTIONS[:1], 1))
    memory = torch.zeros(1, 1, M, H)
    memory[..., 2] = 4.0
    filled = model.fill_slots(batch["input_ids"], memory.flatten(0, -2))[batch["input_ids"] == SLOT_ID]
    expected = torch.zeros(M, H)
    expected[:, 2] = 3 * H**0.5
    torch.testing.assert_close(filled, expected)


# forward: values


@torch.no_grad()
def test_without_memory_it_is_the_plain_base(shared_model, base):
    plain = AutoModelForCausalLM.from_pretrained(base)
    ids = shared_model.processor.encode_documents(DOCUMENTS[:2])["input_ids"]
    assert torch.equal(shared_model(ids).logits, plain(ids).logits)
    assert torch.equal(shared_model(ids, labels=ids).loss, plain(ids, labels=ids).loss)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
@pytest.mark.parametrize("longest", [1, 40])
@torch.no_grad()
def test_loss_is_the_mean_over_the_answers_whatever_the_order_of_lengths(shared_model, pools, order, longest):
    """Rows run in groups of similar length; logits and loss must come back in the order of the labels."""
    model = shared_model
    unlike = [ANSWERS[0], ANSWERS[1] * longest, ANSWERS[2] * 5]
    questions, answers = [QUESTIONS[i] for i in order], [unlike[i] for i in order]
    for counts in ([2, 2, 2], [1, 6, 2]):
        batch = model.processor.encode_prompts(questions, [[M] * size for size in counts], answers)
        assert (len(length_groups(batch["attention_mask"])) > 1) == (longest > 1)
        memory = torch.cat([pools[row, :size] for row, size in enumerate(counts)])
        out = model(memory=memory, **batch)
        keep = batch["labels"][:, 1:] != IGNORE_INDEX
        plain = model(
            memory=memory, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).logits
        torch.testing.assert_close(out.logits, plain[:, :-1][keep], atol=1e-5, rtol=0)
        torch.testing.assert_close(out.loss, full_loss(model, memory, batch), atol=1e-5, rtol=0)


@torch.no_grad()
def test_loss_with_padding_on_the_right(shared_model, pools):
    left = shared_model.processor.encode_prompts(QUESTIONS, slots_of(QUESTIONS, 2), ANSWERS)
    lengths = left["attention_mask"].sum(1).tolist()
    width = left["input_ids"].shape[1]
    right = {
        key: torch.stack([row.roll(n - width) for row, n in zip(rows, lengths, strict=True)])
        for key, rows in left.items()
    }
    assert right["attention_mask"][:, 0].all() and not right["attention_mask"][:, -1].all()
    memory = pools[:, :2]
    expected = shared_model(memory=memory, **left).loss
    torch.testing.assert_close(shared_model(memory=memory, **right).loss, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_batch_and_rows_alone_give_the_same_logits(shared_model, pools, encoded):
    batch = encoded["prompts"]
    together = shared_model(memory=pools[:, :2], **batch).logits
    alone = [
        shared_model(
            memory=pools[:1, :2], **{key: value[row : row + 1] for key, value in batch.items()}
        ).logits
        for row in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


@torch.no_grad()
def test_gradient_accumulation_divides_by_the_items_of_the_whole_batch(shared_model, pools, encoded):
    batch = encoded["prompts"]
    count = int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
    whole = shared_model(memory=pools[:, :2], **batch).loss
    parts = [
        shared_model(
            memory=pools[:1, :2],
            num_items_in_batch=count,
            **{key: value[row : row + 1] for key, value in batch.items()},
        ).loss
        for row in range(3)
    ]
    torch.testing.assert_close(sum(parts), whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_questions_choose_the_nearest_documents(shared_model, pools, encoded):
    query = {f"query_{key}": value for key, value in encoded["questions"].items()}
    out = shared_model(memory=pools, **query, **encoded["prompts"])
    scores = cosine_scores(reason(shared_model, **encoded["questions"]).mean(-2), pools.mean(-2))
    assert torch.equal(out.scores, scores)
    assert out.indices.tolist() == scores.topk(2).indices.tolist()
    chosen = gather(pools, out.indices)
    given = shared_model(memory=chosen, **encoded["prompts"])
    torch.testing.assert_close(out.loss, given.loss)
    assert given.scores is None and given.indices is None


@torch.no_grad()
def test_padded_pools(shared_model, pools, encoded):
    mask = tensor([[True] * 6, [True] * 2 + [False] * 4, [False] * 3 + [True] * 3])
    query = {f"query_{key}": value for key, value in encoded["questions"].items()}
    out = shared_model(memory=pools, memory_mask=mask, **query, **encoded["prompts"])
    assert sorted(out.indices[1].tolist()) == [0, 1] and min(out.indices[2].tolist()) >= 3
    ragged = tensor([[True, False, True], [True, True, True], [False, True, False]])
    batch = shared_model.processor.encode_prompts(QUESTIONS, [[M] * size for size in (2, 3, 1)], ANSWERS)
    given = shared_model(memory=pools[:, :3], memory_mask=ragged, **batch).loss
    by_hand = torch.cat([pools[0, [0, 2]], pools[1, :3], pools[2, [1]]])
    assert torch.equal(given, shared_model(memory=by_hand, **batch).loss)


@torch.no_grad()
def test_documents_compressed_on_the_way(shared_model, pools, encoded):
    documents = {f"document_{key}": value for key, value in encoded["documents"].items()}
    indices = tensor([[0, 3], [2, 2], [1, 5]])
    out = shared_model(document_indices=indices, **documents, **encoded["prompts"])
    given = shared_model(memory=gather(pools, indices), **encoded["prompts"])
    torch.testing.assert_close(out.loss, given.loss)
    assert out.alignment_loss > 0 and given.alignment_loss is None
    single = shared_model.processor.encode_prompts(QUESTIONS, slots_of(QUESTIONS, 1), ANSWERS)
    three = {key: value[:3] for key, value in documents.items()}
    counting = shared_model(**three, **single).loss
    torch.testing.assert_close(counting, shared_model(memory=pools[0, :3].unsqueeze(1), **single).loss)


@torch.no_grad()
def test_questions_to_match_are_scored_against_every_document_of_the_batch(shared_model, pools, encoded):
    documents = {f"document_{key}": value for key, value in encoded["documents"].items()}
    questions = {f"match_{key}": value[:2] for key, value in encoded["questions"].items()}
    single = shared_model.processor.encode_prompts(
        [*QUESTIONS, *QUESTIONS], slots_of(range(6), 1), [*ANSWERS, *ANSWERS]
    )
    out = shared_model(**documents, **questions, **single)
    as_documents = compress(shared_model, **{key: value[:2] for key, value in encoded["questions"].items()})
    torch.testing.assert_close(out.match_scores, cosine_scores(as_documents.mean(-2), pools[0].mean(-2)))
    assert out.match_scores.shape == (2, 6) and out.scores is None
    torch.testing.assert_close(out.loss, shared_model(**documents, **single).loss)


@torch.no_grad()
def test_memories_are_chosen_whole_and_read_at_twice_the_rate(shared_model, pools, encoded):
    batch = shared_model.processor.encode_prompts(QUESTIONS, slots_of(QUESTIONS, 2, 2), ANSWERS)
    query = {f"query_{key}": value for key, value in encoded["questions"].items()}
    out = shared_model(memory=pools, rate_factor=2, **query, **batch)
    whole = cosine_scores(reason(shared_model, **encoded["questions"]).mean(-2), pools.mean(-2))
    torch.testing.assert_close(out.scores, whole)
    halves = gather(pools, out.indices).unflatten(-2, (2, 2)).mean(-2)
    torch.testing.assert_close(out.loss, shared_model(memory=halves, **batch).loss)


@torch.no_grad()
def test_the_papers_form_compares_flattened_memories(base, pools, encoded):
    model = make_model(base, retrieval_pooling="flatten")
    query = {f"query_{key}": value for key, value in encoded["questions"].items()}
    scores = model(memory=pools, **query).scores
    wanted = cosine_scores(reason(model, **encoded["questions"]).flatten(1), pools.flatten(2))
    torch.testing.assert_close(scores, wanted)


@torch.no_grad()
def test_gumbel_noise_only_while_training(base, pools, encoded):
    model = make_model(base, retrieval_estimator="gumbel", lora_dropout=0.0, retrieval_temperature=1.0)
    query = {f"query_{key}": value for key, value in encoded["questions"].items()}

    def choices():
        return [str(model(memory=pools, **query, **encoded["prompts"]).indices.tolist()) for _ in range(8)]

    torch.manual_seed(0)
    assert len(set(choices())) == 1
    model.train()
    assert len(set(choices())) > 1


@torch.no_grad()
def test_wanted_documents_are_chosen_only_while_training(base, pools, encoded):
    model = make_model(base, lora_dropout=0.0)
    query = {f"query_{key}": value for key, value in encoded["questions"].items()}
    given = {"memory": pools, **query, **encoded["prompts"]}
    scores, best = (model(**given)[name] for name in ("scores", "indices"))
    worst = scores.argmin(dim=-1, keepdim=True)
    wanted = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, worst, True)
    assert not (best == worst).any()
    assert torch.equal(model(**given, wanted=wanted).indices, best)
    assert (model.train()(**given, wanted=wanted).indices == worst).any(dim=-1).all()


def test_bad_input_to_forward(shared_model, pools, encoded):
    query = {f"query_{key}": value for key, value in encoded["questions"].items()}
    odd = shared_model.processor.encode_prompts(QUESTIONS, slots_of(QUESTIONS, 2, 3), ANSWERS)
    with pytest.raises(ValueError, match="6 memory slots a row, not a multiple of M = 4"):
        shared_model(memory=pools, **query, **odd)
    with pytest.raises(ValueError, match=r"`k` must be between 1 and the 1 candidate"):
        shared_model(memory=pools[:, :1], **query, **encoded["prompts"])
    empty = {**encoded["prompts"], "labels": torch.full_like(encoded["prompts"]["labels"], IGNORE_INDEX)}
    with pytest.raises(ValueError, match="`labels` holds no label"):
        shared_model(memory=pools[:, :2], **empty)


# Gradients


def test_compressor_and_generator_learn_in_one_graph(model, encoded):
    model.set_trainable(ADAPTERS, memory_tokens=True)
    documents = {f"document_{key}": value for key, value in encoded["documents"].items()}
    out = model(document_indices=tensor([[0, 3], [2, 4], [1, 5]]), **documents, **encoded["prompts"])
    out.loss.backward()
    found = gradients(model)
    assert found["compressor"].abs().sum() > 0 and found["generator"].abs().sum() > 0
    assert found["query_reasoner"].abs().sum() == 0
    assert model.memory_tokens.grad.abs().sum() > 0
    adapters = {id(p) for p in adapter_parameters(model.decoder)}
    assert all(p.grad is None for p in model.decoder.parameters() if id(p) not in adapters)


def test_the_compressors_gradient_is_that_of_finite_differences(model, encoded):
    """The loss's slope along the gradient, by a central difference, is the gradient's length."""
    model.set_trainable(["compressor"], memory_tokens=False)
    parameters = adapter_parameters(model.decoder, ["compressor"])
    documents = {f"document_{key}": value for key, value in encoded["documents"].items()}
    indices, step = tensor([[0, 3], [2, 4], [1, 5]]), 0.02
    model(document_indices=indices, **documents, **encoded["prompts"]).loss.backward()
    length = gradients(model)["compressor"].norm()

    @torch.no_grad()
    def loss_after(distance):
        for parameter in parameters:
            parameter.add_(parameter.grad, alpha=float(distance / length))
        return full_loss(model, compress(model, **encoded["documents"])[indices], encoded["prompts"])

    slope = (loss_after(step) - loss_after(-2 * step)) / (2 * step)
    assert length > 1e-3
    torch.testing.assert_close(slope, length, rtol=0.02, atol=0)


def test_the_answers_loss_reaches_the_query_reasoner_only_through_the_choice(model, pools, encoded):
    model.set_trainable(["query_reasoner"], memory_tokens=False)
    model.config.retrieval_temperature = 0.5
    query = {f"query_{key}": value for key, value in encoded["questions"].items()}
    out = model(memory=pools, **query, **encoded["prompts"])
    out.loss.backward()
    found = gradients(model)
    assert found["query_reasoner"].abs().sum() > 0
    assert found["compressor"].abs().sum() == found["generator"].abs().sum() == 0
    model.zero_grad()
    given = model(memory=gather(pools, out.indices), **encoded["prompts"])
    assert not given.loss.requires_grad
    one_candidate = model.processor.encode_prompts(QUESTIONS, slots_of(QUESTIONS, 1), ANSWERS)
    no_choice = model(memory=pools[:, :1], **query, **one_candidate)
    no_choice.loss.backward()
    assert gradients(model)["query_reasoner"].abs().sum() == 0


@pytest.mark.parametrize("kind", ["documents", "questions"])
def test_activation_checkpointing_gives_the_same_gradients(base, pools, encoded, kind):
    """Adapters are worn again in the recomputation; otherwise gradients are silently wrong (error 19.9)."""
    inputs = {f"query_{key}": value for key, value in encoded["questions"].items()} | {"memory": pools}
    if kind == "documents":
        inputs = {f"document_{key}": value for key, value in encoded["documents"].items()}
        inputs["document_indices"] = tensor([[0, 3], [2, 4], [1, 5]])
    found = []
    for checkpointing in (False, True):
        model = make_model(base).train()
        model.set_trainable(ADAPTERS, memory_tokens=True)
        if checkpointing:
            model.activation_checkpointing_enable()
            assert model.is_activation_checkpointing
        torch.manual_seed(1)
        out = model(**inputs, **encoded["prompts"])
        (out.loss + (0 if out.alignment_loss is None else out.alignment_loss)).backward()
        assert worn_adapters(model.decoder) == []
        found.append(gradients(model) | {"tokens": model.memory_tokens.grad})
    assert found[0]["generator"].abs().sum() > 0
    for name in found[0]:
        torch.testing.assert_close(found[1][name], found[0][name], atol=1e-6, rtol=1e-5)


def test_a_copy_of_a_checkpointing_model_wears_its_own_adapters(base, encoded):
    model = make_model(base, lora_dropout=0.0).train()
    model.set_trainable(ADAPTERS, memory_tokens=True)
    inputs = {f"document_{key}": value[:3] for key, value in encoded["documents"].items()}
    batch = model.processor.encode_prompts(QUESTIONS, slots_of(QUESTIONS, 1), ANSWERS)
    model(**inputs, **batch).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    model.activation_checkpointing_enable()
    twin = copy.deepcopy(model)
    twin(**inputs, **batch).loss.backward()
    for name, gradient in gradients(twin).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-5)


# The model as an object


def test_calls_leave_the_model_as_it_was(model, pools, encoded):
    before = {key: value for key, value in vars(model).items() if not key.startswith("_")}
    config, modes = model.config.to_dict(), [module.training for module in model.modules()]
    query = {f"query_{key}": value for key, value in encoded["questions"].items()}
    model(memory=pools, **query, **encoded["prompts"])
    compress(model, **encoded["documents"])
    after = {key: value for key, value in vars(model).items() if not key.startswith("_")}
    assert after.keys() == before.keys() and all(after[key] is before[key] for key in before)
    assert model.config.to_dict() == config
    assert [module.training for module in model.modules()] == modes
    assert worn_adapters(model.decoder) == []


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@torch.no_grad()
def test_copies_are_equal_and_apart(model, encoded, duplicate):
    twin = duplicate(model)
    expected = compress(model, **encoded["documents"])
    assert torch.equal(compress(twin, **encoded["documents"]), expected)
    assert twin.lock is not model.lock
    for parameter in adapter_parameters(twin.decoder):
        parameter.zero_()
    assert torch.equal(compress(model, **encoded["documents"]), expected)
    with wearing(twin.decoder, "generator"):
        assert worn_adapters(model.decoder) == []


def test_memory_is_in_the_models_dtype(base, encoded):
    model = make_model(base, dtype=torch.bfloat16)
    memory = compress(model, **encoded["documents"])
    assert memory.dtype == torch.bfloat16 == model.dtype
    model.memory_tokens.data = model.memory_tokens.data.float()
    assert model.dtype == compress(model, **encoded["documents"]).dtype == torch.bfloat16


def test_the_plain_forward_divides_by_the_items_given(shared_model):
    ids = torch.randint(3, 500, (2, 9))
    mean = shared_model(input_ids=ids, labels=ids).loss
    found = shared_model(input_ids=ids, labels=ids, num_items_in_batch=160).loss
    torch.testing.assert_close(found, mean * 16 / 160)
    torch.testing.assert_close(found, shared_model.decoder(ids, labels=ids, num_items_in_batch=160).loss)


def test_questions_without_anything_to_score_are_refused(shared_model):
    ids = torch.randint(3, 500, (1, 5))
    with pytest.raises(ValueError, match="`query_input_ids` needs `memory` or `document_input_ids`"):
        shared_model(input_ids=ids, query_input_ids=ids)
    with pytest.raises(ValueError, match="`match_input_ids` are scored against passages"):
        shared_model(input_ids=ids, match_input_ids=ids, memory=torch.zeros(1, 1, 4, 32))
