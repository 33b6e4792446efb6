"""Two ways to compute the same: stored memories or compressing, gradients by hand, few logits or all."""

import pytest
import torch
from clara.data.collation import Item, PretrainingCollator
from clara.prompts_clara import answer_prompt
from clara.retrieval_clara import Memories, cosine_scores, select, soft_topk
from clara.train.stages import STAGES, prepare_stage
from conftest import make_model, save_base, slots_of
from torch import tensor
from torch.nn.functional import cross_entropy, normalize
from training_helpers import PRETRAINING, QUESTION_ROWS, assert_close, make_trainer

STORED = ("memory", "memory_counts", "memory_vectors")
TEMPERATURE = 0.5  # with the paper's 0.02 a random model's softmax is one-hot and most gradients vanish


@pytest.fixture
def trainer(base, tmp_path):
    model = make_model(base, lora_dropout=0.0, retrieval_temperature=TEMPERATURE)
    return make_trainer(model, tmp_path, "end_to_end")


def stored_batch(trainer, rows=(0, 1, 6)):
    batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    places = batch.pop("candidate_indices")
    kept = {key: value for key, value in batch.items() if key not in ("rows", "positives", "query_texts")}
    return kept | trainer.data_collator.collator.candidates.batch(
        places, trainer.model.config.num_memory_tokens
    )


def gather(memory, indices):
    return memory[torch.arange(len(memory)).unsqueeze(-1), indices]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def of(found, adapter):
    return torch.cat([g.flatten() for name, g in sorted(found.items()) if f".{adapter}." in name])


# Stored memories


def test_stored_memories_give_what_compressing_on_the_way_gives(trainer):
    model, batch = trainer.model.train(), stored_batch(trainer)
    texts = list(dict.fromkeys(text for record in QUESTION_ROWS for text in record.documents))
    documents = model.processor.encode_documents(texts)
    places = {text: place for place, text in enumerate(texts)}
    rows = [QUESTION_ROWS[row] for row in (0, 1, 6)]
    indices = torch.zeros(batch["memory_mask"].shape, dtype=torch.long)
    for row, record in enumerate(rows):
        indices[row, : len(record.documents)] = tensor([places[text] for text in record.documents])
    fresh = {f"document_{name}": value for name, value in documents.items()} | {"document_indices": indices}
    fresh |= {key: value for key, value in batch.items() if key not in STORED}
    stored, again = model(**batch), model(**fresh)
    torch.testing.assert_close(again.scores, stored.scores)
    torch.testing.assert_close(again.loss, stored.loss)
    assert torch.equal(again.indices, stored.indices)
    expected = gradients(model, stored.loss)
    assert_close(gradients(model, again.loss), expected, atol=1e-6, rtol=1e-4)
    assert of(expected, "query_reasoner").abs().max() > 1e-5
    assert not any(".compressor." in name for name in expected)


# The gradient of the choice, by hand


def test_the_query_reasoner_learns_through_the_choice_alone(trainer):
    """Without the choice's weights (a plain gather of the same documents) it gets no gradient at all."""
    model, batch = trainer.model.train(), stored_batch(trainer)
    through = gradients(model, model(**batch).loss)
    chosen = gather(batch["memory"], model(**batch).indices)
    plain = {key: batch[key] for key in ("input_ids", "attention_mask", "labels")}
    around = gradients(model, model(**plain, memory=chosen).loss)
    assert of(through, "query_reasoner").abs().max() > 1e-5
    assert not any(".query_reasoner." in name for name in around)
    torch.testing.assert_close(of(through, "generator"), of(around, "generator"), atol=1e-6, rtol=1e-4)


def choice_gradient(scores, memory, slot_gradients, temperature):
    """dL/ds by hand: a slot gives (1 / t) pi_d g^T (z_d - r), pi over what is left, r its mean (app. A)."""
    taken, total = torch.zeros_like(scores, dtype=torch.bool), torch.zeros_like(scores)
    for gradient in slot_gradients.unbind(1):
        open_scores = (scores / temperature).masked_fill(taken, float("-inf"))
        pi = open_scores.softmax(-1)
        value = torch.einsum("bd,bnd->bn", gradient.flatten(1), memory.flatten(2))
        total += pi * (value - (pi * value).sum(-1, keepdim=True)) / temperature
        taken = taken.scatter(1, open_scores.argmax(-1, keepdim=True), True)
    return total


def test_the_whole_chain_by_hand(trainer):
    """Answer loss -> chosen memories -> scores -> question's memory -> query reasoner, each link apart."""
    model, batch = trainer.model.train(), stored_batch(trainer, rows=(1, 3))
    output = model(**batch)
    output.scores.retain_grad()
    found = of(gradients(model, output.loss), "query_reasoner")
    chosen = gather(batch["memory"], output.indices).requires_grad_()
    plain = {key: batch[key] for key in ("input_ids", "attention_mask", "labels")}
    (slots,) = torch.autograd.grad(model(**plain, memory=chosen).loss, chosen)
    scores = choice_gradient(output.scores.detach(), batch["memory"], slots, TEMPERATURE)
    torch.testing.assert_close(output.scores.grad, scores, atol=1e-6, rtol=1e-3)
    assert scores.abs().max() > 1e-3

    query = model.reason(batch["query_input_ids"], batch["query_attention_mask"]).values.mean(dim=-2)
    unit, memories = (
        normalize(query.detach(), dim=-1),
        normalize(batch["memory"].mean(dim=-2), dim=-1),
    )
    jacobian = memories - output.scores.detach().unsqueeze(-1) * unit.unsqueeze(1)
    direction = torch.einsum("bn,bnd->bd", scores, jacobian) / query.detach().norm(dim=-1, keepdim=True)
    model.zero_grad()
    query.backward(direction)
    by_hand = of({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, "query_reasoner")
    torch.testing.assert_close(found, by_hand, atol=1e-6, rtol=1e-3)


def whole(memory):
    return Memories(memory, torch.full(memory.shape[:2], memory.shape[2]))


TOY = {
    "scores": tensor([[0.4, 0.1, -0.2]]),
    "memory": tensor([[[[1.0, 0.0]], [[0.0, 2.0]], [[-1.0, 1.0]]]]),
    "direction": tensor([0.3, -0.7]),
}


def test_the_representation_path_on_a_toy_case():
    """Appendix A, term II: p(y | x, r) is a sigmoid of w^T r, and r the chosen document's memory.

    dL/ds_d = -(1/t) pi_d g^T (z_d - sum_j pi_j z_j), where g = (1 - p) w at the chosen z_0 = (1, 0).
    """
    scores, memory, w = TOY["scores"].clone().requires_grad_(), TOY["memory"], TOY["direction"]
    weights, indices = soft_topk(scores, 1, TEMPERATURE)
    loss = -torch.sigmoid(select(weights, indices, whole(memory)).values.flatten() @ w).log()
    loss.backward()
    assert indices.tolist() == [[0]]
    pi = (TOY["scores"][0] / TEMPERATURE).softmax(-1)
    z = memory.flatten(0, 2)
    g = (1 - torch.sigmoid(z[0] @ w)) * w
    expected = -pi * ((z - pi @ z) @ g) / TEMPERATURE
    torch.testing.assert_close(scores.grad[0], expected)
    assert expected[0] < 0 and expected.sum().abs() < 1e-6  # more of the first document lowers the loss


def test_the_probability_path_on_a_toy_case():
    """Appendix A, term I: the answer's probability is that of the chosen document, p(y|x,d) = 0.9, 0.2, 0.4.

    dL/ds_d = -(1 / p(y|x)) (1/t) pi_d (p(y|x,d) - sum_j pi_j p(y|x,j)); p(y|x) is 0.9 in the hard forward.
    """
    scores, given = TOY["scores"].clone().requires_grad_(), tensor([0.9, 0.2, 0.4])
    weights, _ = soft_topk(scores, 1, TEMPERATURE)
    loss = -(weights[0, 0] @ given).log()
    loss.backward()
    assert loss.item() == pytest.approx(-tensor(0.9).log().item())
    pi = (TOY["scores"][0] / TEMPERATURE).softmax(-1)
    torch.testing.assert_close(scores.grad[0], -pi * (given - pi @ given) / TEMPERATURE / 0.9)


def test_the_second_slot_learns_from_what_is_left():
    scores, memory = TOY["scores"].clone().requires_grad_(), TOY["memory"]
    slots = tensor([[[[0.5, -0.1]], [[-0.2, 0.8]]]])
    weights, indices = soft_topk(scores, 2, TEMPERATURE)
    select(weights, indices, whole(memory)).values.backward(slots)
    assert indices.tolist() == [[0, 1]]
    torch.testing.assert_close(scores.grad, choice_gradient(TOY["scores"], memory, slots, TEMPERATURE))


def test_scores_and_choice_go_together(trainer):
    """The trainer's scores are cosines of the memories, whose best are chosen."""
    model, batch = trainer.model.train(), stored_batch(trainer)
    output = model(**batch)
    query = model.reason(batch["query_input_ids"], batch["query_attention_mask"]).values
    wanted = cosine_scores(query.mean(dim=-2), batch["memory"].mean(dim=-2))
    torch.testing.assert_close(output.scores, wanted)
    masked = output.scores.masked_fill(~batch["memory_mask"], float("-inf"))
    assert torch.equal(output.indices, masked.topk(2).indices)


# Logits


@pytest.fixture(scope="module", params=["gemma3", "granite", "llama"])
def scaled_base(request, tmp_path_factory):
    """Gemma has a soft cap on its logits, Granite divides them."""
    return save_base(tmp_path_factory.mktemp(request.param), request.param)


def test_labelled_logits_are_those_of_the_full_forward(scaled_base):
    model = make_model(scaled_base, lora_dropout=0.0)
    prepare_stage(model, "pretraining")
    collator = PretrainingCollator(model.processor)
    batch = collator([Item(i, 0, record) for i, record in enumerate(PRETRAINING)])
    output = model(**batch)
    kept = batch["labels"][:, 1:] != -100
    memory = model.compress(batch["document_input_ids"], batch["document_attention_mask"]).values
    full = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        memory=memory[batch["document_indices"]],
    ).logits[:, :-1]
    assert output.logits.shape == (int(kept.sum()), full.shape[-1])
    torch.testing.assert_close(output.logits, full[kept], atol=1e-4, rtol=1e-4)
    loss = cross_entropy(full[kept], batch["labels"][:, 1:][kept])
    torch.testing.assert_close(output.loss, loss, atol=1e-5, rtol=1e-5)
    assert_close(gradients(model, output.loss), gradients(model, loss), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("stage", STAGES)
def test_the_head_computes_a_logit_for_every_label_and_no_other(base, tmp_path, stage):
    """In training and in evaluation: the rows that go through the head are counted."""
    model = make_model(base)
    rows = PRETRAINING if stage == "pretraining" else QUESTION_ROWS
    trainer = make_trainer(model, tmp_path, stage, rows, eval_dataset=rows, max_steps=2)
    labelled, logits = [], []
    collate = trainer.data_collator.collator

    def count_labels(items):
        batch = collate(items)
        labelled.append(int((batch["labels"][:, 1:] != -100).sum()))
        return batch

    trainer.data_collator.collator = count_labels
    head = model.decoder.get_output_embeddings()
    head.register_forward_hook(lambda _, __, out: logits.append(out.flatten(0, -2).shape[0]))
    trainer.train()
    trainer.evaluate()
    assert sum(logits) == sum(labelled) > 0


def test_evaluation_prompts_are_those_of_training(shared_model):
    """The same question gives the same ids with an answer in training and without in generation."""
    processor = shared_model.processor
    trained = processor.encode_messages([answer_prompt()], slots_of([0], 2), ["Who?"], ["Huygens"])
    answered = processor.encode_prompts(["Who?"], slots_of([0], 2))
    assert torch.equal(trained["input_ids"][trained["labels"] == -100], answered["input_ids"][0])
