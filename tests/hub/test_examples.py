"""Facts about a model's weights, and example answers that it really gives."""

import pytest
import torch
from clara.data.sample_corpus import sample_documents, sample_questions
from clara.hub import examples
from clara.hub.examples import make_examples, model_facts


def test_facts_by_hand(shared_model, base):
    facts = model_facts(shared_model)
    assert facts["base_name"] is None and facts["base_model"] is None
    assert facts["trained"] == ["compressor", "query_reasoner", "generator"]
    assert facts["config"]["compression_rate"] == 16
    assert facts["memory_bytes"] == 4 * 32 * 4 and facts["dtype"] == "float32"
    # rank 4 on q, k, v, o, gate, up, down of two layers, width 32, 2 of 4 heads of 8 for keys, 48 inside
    layer = 4 * ((32 + 32) + (32 + 16) * 2 + (32 + 32) + (32 + 48) * 2 + (48 + 32))
    assert facts["adapter_parameters"] == 2 * layer
    assert facts["base_parameters"] == sum(p.numel() for p in shared_model.decoder.parameters()) - 6 * layer
    assert str(base) not in str(facts)
    assert model_facts(shared_model, "org/base")["base_model"] == "org/base"


@torch.no_grad()
def test_untrained_adapters_and_a_copied_reasoner_are_seen(model):
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.zero_()
    facts = model_facts(model)
    assert facts["trained"] == [] and facts["reasoner_is_copy"]
    for name, parameter in model.named_parameters():
        if "lora_B.generator" in name:
            parameter.fill_(0.1)
    assert model_facts(model)["trained"] == ["generator"]


def test_examples_are_generated_by_the_model_and_right_ones_come_first(shared_model, monkeypatch):
    documents, questions = sample_documents(), sample_questions()
    asked = [questions[row * len(questions) // 8] for row in range(8)]
    memory = shared_model.build_memory(documents, show_progress=False)
    out = shared_model.generate([row["question"] for row in asked], memory, return_dict_in_generate=True)
    monkeypatch.setattr(examples, "cover_exact_match", lambda answer, golds: golds == asked[5]["answers"])
    made = make_examples(shared_model, 2)
    assert (made.asked, made.right) == (8, 1)
    for row, number, right in zip(made.shown, (5, 0), (True, False), strict=True):
        assert (row["question"], row["gold"]) == (asked[number]["question"], asked[number]["answers"][0])
        assert (row["answer"], row["right"]) == (out.answers[number], right)
        assert row["documents"] == [{"id": out.document_ids[number][0]}]


def test_exact_answers_come_before_others_that_are_right(shared_model, monkeypatch):
    questions = sample_questions()
    asked = [questions[row * len(questions) // 4]["question"] for row in range(4)]
    monkeypatch.setattr(examples, "cover_exact_match", lambda answer, golds: True)
    golds = {row["question"]: row["answers"][0] for row in questions}
    monkeypatch.setattr(examples, "exact_match", lambda answer, gold: gold == [golds[asked[2]]])
    assert [row["question"] for row in make_examples(shared_model, 1).shown] == [asked[2]]


def test_the_gold_answer_shown_is_the_one_that_the_answer_holds(shared_model, monkeypatch):
    told = [*sample_questions()[0]["answers"], "an answer of its own"]
    rows = [{**row, "answers": told} for row in sample_questions()]
    monkeypatch.setattr(examples, "sample_questions", lambda: rows)
    monkeypatch.setattr(examples, "cover_exact_match", lambda answer, golds: golds[-1] == told[-1])
    assert {row["gold"] for row in make_examples(shared_model, 1).shown} == {told[-1]}


def test_no_examples_and_too_many(shared_model):
    assert make_examples(shared_model, 0).shown == ()
    for count in (-1, 1000):
        with pytest.raises(ValueError, match="must be from 0 to the"):
            make_examples(shared_model, count)
