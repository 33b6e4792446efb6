"""From rows to batches: every signal, the labels, repeatable draws."""

import random

import pytest
import torch
from clara.data.collation import (
    InstructionCollator,
    Item,
    PretrainingCollator,
    RecordDataset,
    draw_rate,
)
from clara.data.records import PretrainingRecord, QuestionRecord
from clara.prompts_clara import (
    SLOT_ID,
    answer_prompt,
    paraphrase_prompt,
    questions_and_answers_prompt,
    reconstruction_prompt,
)
from conftest import DOCUMENTS
from training_helpers import BRIDGE, PRETRAINING, QUESTION_ROWS

M = 4


@pytest.fixture
def processor(shared_model):
    return shared_model.processor


def item(record, index=0, epoch=0):
    return Item(index, epoch, record)


def only(name):
    return {name: 1.0}


def said(processor, labels):
    """The text of each row's labels."""
    return [processor.tokenizer.decode(row[row != -100]) for row in labels]


def test_questions_to_match_are_of_their_documents(processor):
    rows = [item(record, index) for index, record in enumerate(PRETRAINING)]
    batch = PretrainingCollator(processor, match_questions=1)(rows)
    own = batch["match_indices"].tolist()
    assert own == [index for index, record in enumerate(PRETRAINING) if record.questions]
    for row, ids, mask in zip(own, batch["match_input_ids"], batch["match_attention_mask"], strict=True):
        encoded = processor.encode_questions(PRETRAINING[row].questions)
        known = [i[m.bool()].tolist() for i, m in zip(*encoded.values(), strict=True)]
        assert ids[mask.bool()].tolist() in known
    unlabelled = [row for row in rows if not row.record.questions]
    assert "match_indices" not in PretrainingCollator(processor, match_questions=1)(unlabelled)
    assert "match_indices" not in PretrainingCollator(processor)(rows)


def test_the_question_to_match_is_drawn_anew_in_each_epoch(processor):
    def drawn(epoch, seed=0):
        return PretrainingCollator(processor, match_questions=1, seed=seed)([item(PRETRAINING[0], 0, epoch)])[
            "match_texts"
        ]

    findable = set(PRETRAINING[0].findable_questions)
    assert len(findable) > 1 and {text for epoch in range(40) for text in drawn(epoch)} == findable
    assert {text for seed in range(40) for text in drawn(0, seed)} == findable
    assert drawn(3) == drawn(3)


def test_several_questions_of_a_document_may_be_matched(processor):
    rows = [item(record, index) for index, record in enumerate(PRETRAINING)]
    batch = PretrainingCollator(processor, match_questions=2)(rows)
    wanted = [min(2, len(record.findable_questions)) for record in PRETRAINING]
    assert 2 in wanted
    assert batch["match_indices"].tolist() == [i for i, count in enumerate(wanted) for _ in range(count)]
    assert len(set(batch["match_texts"])) == sum(wanted) == len(batch["match_input_ids"])


# The dataset


def test_keys_tell_row_and_epoch():
    dataset = RecordDataset(PRETRAINING)
    assert len(dataset) == 8
    assert dataset[3] == Item(3, 0, PRETRAINING[3])
    assert dataset[2 * 8 + 5] == Item(5, 2, PRETRAINING[5])


def test_lengths_are_those_of_the_longest_document():
    rows = [QuestionRecord("q", ("a",), ("abc", "abcdef")), QuestionRecord("q", ("a",), ("ab",))]
    assert RecordDataset(rows).lengths() == [6, 2]
    assert RecordDataset(PRETRAINING).lengths()[0] == len(BRIDGE)


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="`records` is empty"):
        RecordDataset([])


# Pretraining


def test_each_document_is_compressed_once_for_all_its_signals(processor):
    batch = PretrainingCollator(processor)([item(r, i) for i, r in enumerate(PRETRAINING[:3])])
    assert batch["document_input_ids"].shape[0] == 3
    # bridge: 1 list, 3 answers, 1 paraphrase, 1 reconstruction; Schumann 1+1+1; Titan 1+1+1+1
    assert batch["document_indices"].flatten().tolist() == [0] * 6 + [1] * 3 + [2] * 4
    assert batch["input_ids"].shape[0] == batch["labels"].shape[0] == 13
    assert ((batch["input_ids"] == SLOT_ID).sum(-1) == M).all()


@pytest.mark.parametrize(
    ("signal", "prompts", "answers"),
    [
        (
            "questions_and_answers",
            [questions_and_answers_prompt()],
            [
                "Question: When was the Forth Bridge opened?\nAnswer: 1890\nQuestion: Where is it?\n"
                "Answer: Scotland\nQuestion: What is it?\nAnswer: a railway bridge"
            ],
        ),
        ("answer", [answer_prompt()] * 3, ["1890", "Scotland", "a railway bridge"]),
        ("paraphrase", [paraphrase_prompt()], [PRETRAINING[0].paraphrases[0]]),
        ("reconstruction", [reconstruction_prompt()], [BRIDGE]),
    ],
)
def test_every_signal_has_its_prompt_and_its_target(processor, signal, prompts, answers):
    collator = PretrainingCollator(processor, signals=only(signal))
    targets = collator.targets(item(PRETRAINING[0]))
    assert [target.prompt for target in targets] == prompts
    assert sorted(answer for target in targets for answer in target.answers) == sorted(answers)
    labels = collator([item(PRETRAINING[0])])["labels"]
    assert sorted(said(processor, labels)) == sorted(answer + "<|im_end|>" for answer in answers)


def test_a_question_lies_in_the_prompt_and_only_its_answer_is_learnt(processor):
    batch = PretrainingCollator(processor, signals=only("answer"))([item(PRETRAINING[1])])
    row = batch["input_ids"][0]
    text = processor.tokenizer.decode(row[row != SLOT_ID])
    assert "Where was Clara Schumann born?" in text
    assert said(processor, batch["labels"]) == ["Leipzig<|im_end|>"]


def test_the_prompt_is_that_of_generation(processor):
    """Training sees the ids that `generate` sees, then the answer."""
    batch = PretrainingCollator(processor, signals=only("answer"))([item(PRETRAINING[1])])
    prompt = processor.encode_prompts(["Where was Clara Schumann born?"], [[M]])["input_ids"][0]
    answered = batch["input_ids"][0][batch["labels"][0] == -100]
    assert torch.equal(answered, prompt)


def test_unlabelled_text_is_reconstructed(processor):
    for signals in (only("answer"), {"reconstruction": 0.0}):
        (target,) = PretrainingCollator(processor, signals=signals).targets(item(PRETRAINING[3]))
        assert target.prompt == reconstruction_prompt() and target.answers == [PRETRAINING[3].document]


def test_draws_follow_seed_epoch_and_row_alone(processor):
    signals = {"questions_and_answers": 0.5, "answer": 0.5, "paraphrase": 0.5, "reconstruction": 0.5}

    def draws(seed, epoch, index):
        random.seed(torch.randint(1000, ()).item())
        return PretrainingCollator(processor, signals, seed=seed).targets(item(PRETRAINING[0], index, epoch))

    assert draws(0, 0, 0) == draws(0, 0, 0)
    assert any(draws(0, 0, 0) != draws(0, epoch, 0) for epoch in range(1, 5))
    assert any(draws(0, 0, 0) != draws(seed, 0, 0) for seed in range(1, 5))
    assert any(draws(0, 0, 0) != draws(0, 0, index) for index in range(1, 5))


def test_chances_are_met(processor):
    collator = PretrainingCollator(processor, {"questions_and_answers": 0.25, "reconstruction": 1.0})
    counts = [len(collator.targets(item(PRETRAINING[1], index))) - 1 for index in range(2000)]
    assert sum(counts) / 2000 == pytest.approx(0.25, abs=0.03)


def test_at_most_so_many_single_questions(processor):
    collator = PretrainingCollator(processor, only("answer"), max_answers=2)
    seen = [tuple(a for t in collator.targets(item(PRETRAINING[0], i)) for a in t.answers) for i in range(50)]
    assert {len(answers) for answers in seen} == {2}
    assert {answer for answers in seen for answer in answers} == {"1890", "Scotland", "a railway bridge"}


def test_long_targets_are_cut_at_a_word_and_pairs_left_out(processor):
    collator = PretrainingCollator(processor, target_max_length=12)
    record = PretrainingRecord(BRIDGE, ("What is it?", "Where?"), (("a bridge",), ("Scotland " * 20,)))
    targets = {t.prompt[0]["content"]: t.answers[0] for t in collator.targets(item(record))}
    assert targets[questions_and_answers_prompt()[0]["content"]] == "Question: What is it?\nAnswer: a bridge"
    text = targets[reconstruction_prompt()[0]["content"]]
    assert BRIDGE.startswith(text + " ") and 0 < len(processor.tokenizer(text)["input_ids"]) <= 12


def test_a_word_above_the_limit_is_cut_inside(processor):
    (target,) = PretrainingCollator(processor, only("answer"), target_max_length=3).targets(
        item(PretrainingRecord("  " + "z" * 50))
    )
    (answer,) = target.answers
    assert answer.strip() and len(processor.tokenizer(answer)["input_ids"]) <= 3


def test_an_answer_above_the_prompts_limit_is_refused(shared_model):
    record = PretrainingRecord(BRIDGE, ("What?",), (("word " * 2000,),))
    with pytest.raises(ValueError, match="the limit is 1024: shorten the answer"):
        PretrainingCollator(shared_model.processor, only("answer"))([item(record)])


@pytest.mark.parametrize("signals", [{}, {"qa": 1.0}])
def test_unknown_signals_are_refused(processor, signals):
    with pytest.raises(ValueError, match="`signals` must map some of"):
        PretrainingCollator(processor, signals=signals)


def test_one_rate_a_batch_out_of_those_given(processor):
    collator = PretrainingCollator(processor, rate_factors=(1, 4))
    factors = set()
    for index in range(20):
        batch = collator([item(PRETRAINING[1], index)])
        factors.add(batch["rate_factor"])
        assert ((batch["input_ids"] == SLOT_ID).sum(-1) == M // batch["rate_factor"]).all()
    assert factors == {1, 4}
    assert draw_rate((1,), [item(None)], 0) == 1


# Instruction tuning


def test_a_gold_document_is_shown_wherever_it_stands(processor):
    collator = InstructionCollator(processor, documents_per_question=2)
    row = QUESTION_ROWS[2]  # its third document is the gold one
    shown = collator.documents(row, random.Random(0))
    assert set(shown) == {row.documents[2], row.documents[0]}


def test_documents_are_the_gold_ones_and_then_others_in_their_order(processor):
    collator = InstructionCollator(processor, documents_per_question=3)
    row = QUESTION_ROWS[1]  # Basalt, Titan (gold), the bridge, the Rhine
    chosen = collator.documents(row, random.Random(0))
    assert set(chosen) == {DOCUMENTS[2], DOCUMENTS[3], DOCUMENTS[0]}
    orders = {tuple(collator.documents(row, random.Random(seed))) for seed in range(30)}
    assert len(orders) == 6


def test_documents_of_a_batch_are_compressed_once_and_lie_in_their_rows(processor):
    collator = InstructionCollator(processor, documents_per_question=3)
    rows = [QUESTION_ROWS[0], QUESTION_ROWS[7]]  # they share Titan and the Rhine
    batch = collator([item(row, i) for i, row in enumerate(rows)])
    texts = [
        processor.tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["document_input_ids"], batch["document_attention_mask"], strict=True)
    ]
    assert len(texts) == len(set(texts)) == 4
    for row, places in zip(rows, batch["document_indices"].tolist(), strict=True):
        assert {texts[place] for place in places} == set(row.documents)
    assert ((batch["input_ids"] == SLOT_ID).sum(-1) == 3 * M).all()
    assert said(processor, batch["labels"]) == ["1890<|im_end|>", "the sea<|im_end|>"]


def test_the_teachers_answer_is_the_target(processor):
    row = QuestionRecord("Who?", ("gold",), tuple(DOCUMENTS[:2]), generated="a teacher's answer")
    batch = InstructionCollator(processor, 2)([item(row)])
    assert said(processor, batch["labels"]) == ["a teacher's answer<|im_end|>"]


def test_mixed_numbers_of_documents_are_refused(processor):
    rows = [QUESTION_ROWS[0], QUESTION_ROWS[1]]
    with pytest.raises(ValueError, match=r"\[3, 4\] documents: set `documents_per_question` to at most 3"):
        InstructionCollator(processor, 4)([item(row) for row in rows])


def test_the_order_of_documents_is_drawn_anew_for_each_row_and_epoch(processor):
    collator = InstructionCollator(processor, documents_per_question=3, seed=1)
    row = QUESTION_ROWS[1]
    orders = {
        place: tuple(collator([Item(*place, row)])["document_input_ids"].sum(-1).tolist())
        for place in [(index, epoch) for index in range(4) for epoch in range(4)]
    }
    assert len({orders[0, epoch] for epoch in range(4)}) > 1
    assert len({orders[index, 0] for index in range(4)}) > 1
    other = InstructionCollator(processor, documents_per_question=3, seed=2)
    drawn = [tuple(other([Item(*place, row)])["document_input_ids"].sum(-1).tolist()) for place in orders]
    assert drawn != list(orders.values())
