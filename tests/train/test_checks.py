"""Rows are checked before training begins."""

import pytest
from clara.data.collation import Item, PretrainingCollator, RecordDataset
from clara.data.records import PretrainingRecord, QuestionRecord
from clara.train.checks import check_rows, checked_collator
from conftest import make_model
from training_helpers import PRETRAINING, QUESTION_ROWS, make_args


@pytest.fixture
def check(model, tmp_path):
    model.config.retrieval_top_k = 3

    def run(stage, records):
        check_rows(model, make_args(tmp_path, stage, documents_per_question=3), records)

    return run


@pytest.mark.parametrize("stage", ["instruction_tuning", "end_to_end"])
def test_good_rows_pass_also_with_more_documents(check, stage):
    check(stage, QUESTION_ROWS)


def test_good_documents_pass_also_without_signals(check):
    check("pretraining", PRETRAINING)


@pytest.mark.parametrize(
    ("stage", "name"), [("instruction_tuning", "documents_per_question"), ("end_to_end", "retrieval_top_k")]
)
def test_rows_with_too_few_documents_are_named(check, stage, name):
    rows = [*QUESTION_ROWS, QuestionRecord("Q?", ("a",), ("one", "two"))]
    with pytest.raises(ValueError, match=f"Row 8 has 2 documents, fewer than `{name}` = 3: lower it, fill"):
        check(stage, rows)


def test_an_answer_above_the_limit_is_named(check):
    long = ("word " * 1100,)
    with pytest.raises(
        ValueError, match=r"Row 1: `prompts\[0\]` has .* the limit is 1024: shorten the answer"
    ):
        check("pretraining", [PRETRAINING[0], PretrainingRecord("text", ("Q?", "R?"), (("a",), long))])
    with pytest.raises(ValueError, match="Row 0: .*shorten the answer"):
        check("instruction_tuning", [QuestionRecord("Q?", ("a",), ("1", "2", "3"), generated=long[0])])


def test_a_question_above_the_query_reasoners_limit_is_named_where_it_is_used(check):
    row = QuestionRecord("word " * 120, ("a",), ("1", "2", "3"))
    check("instruction_tuning", [row])
    with pytest.raises(ValueError, match=r"Row 0: `questions\[0\]` has .* the limit is 256: shorten it"):
        check("end_to_end", [row])


@pytest.mark.parametrize("words", range(274, 294))
def test_what_passes_the_check_is_never_refused_by_the_collator(check, model, words):
    """Around the limit of 1024 tokens, which lies at 289 words: the check by bytes misses nothing."""
    from clara.data.collation import InstructionCollator, Item

    row = QuestionRecord("Q?", ("word " * words,), ("1", "2", "3"))
    collator = InstructionCollator(model.processor, 3)
    outcomes = []
    for attempt in (lambda: check("instruction_tuning", [row]), lambda: collator([Item(0, 0, row)])):
        try:
            attempt()
            outcomes.append("good")
        except ValueError:
            outcomes.append("refused")
    assert outcomes == ["good" if words <= 289 else "refused"] * 2


class Settings:
    stage, contrastive_weight, target_max_length, pool_size = "pretraining", 0.3, 64, None
    pack_questions, max_answers = False, 4


def test_questions_that_are_to_be_matched_are_checked(base):
    model = make_model(base, question_max_length=64)
    long = PretrainingRecord("Basalt cools.", ("Why " + "does it cool so quickly " * 10,), (("iron",),))
    with pytest.raises(ValueError, match=r"Row 1: `questions\[0\]` has \d+ tokens, the limit is 64"):
        check_rows(model, Settings, [PretrainingRecord("Basalt cools."), long])
    Settings.contrastive_weight = 0.0
    check_rows(model, Settings, [long])


def test_the_longest_target_must_fit_a_prompt(base):
    class TooLong(Settings):
        target_max_length = 1000

    with pytest.raises(ValueError, match="`target_max_length` must be from 1 to .*, got 1000: a prompt has"):
        check_rows(make_model(base), TooLong, [PretrainingRecord("Basalt cools.")])


def test_a_pool_must_hold_what_is_chosen_from_it(base):
    class EndToEnd(Settings):
        stage, pool_size = "end_to_end", 2

    model = make_model(base, retrieval_top_k=3)
    rows = [QuestionRecord("Q?", ("a",), ("one", "two", "three", "four"))]
    with pytest.raises(ValueError, match="`pool_size` must be at least `retrieval_top_k` = 3, got 2"):
        check_rows(model, EndToEnd, rows)
    EndToEnd.pool_size = 3
    with pytest.raises(
        ValueError, match="Row 0 has 4 documents, more than `pool_size` = 3, so .* at least 4"
    ):
        check_rows(model, EndToEnd, rows)
    EndToEnd.pool_size = 4
    check_rows(model, EndToEnd, rows)


def test_copies_do_not_count_as_documents(base):
    class Instruction(Settings):
        stage, documents_per_question = "instruction_tuning", 2

    with pytest.raises(ValueError, match="Row 0 has 1 documents, fewer than `documents_per_question` = 2"):
        check_rows(make_model(base), Instruction, [QuestionRecord("Q?", ("a",), ("one", "one"))])


def test_documents_that_begin_alike_are_one_candidate(base, tmp_path):
    """Told before the first of them is compressed."""
    model = make_model(base, retrieval_top_k=2, doc_max_length=64)
    alike = ("word " * 100 + "one", "word " * 100 + "two")
    rows = [QuestionRecord("Q?", ("a",), (*alike, "three")), QuestionRecord("Q?", ("a",), alike)]
    with pytest.raises(ValueError, match="Row 1 has 1 documents that differ in their first 64 tokens"):
        checked_collator(model, make_args(tmp_path, "end_to_end"), [RecordDataset(rows)])
    assert not (tmp_path / "memory").exists()
    checked_collator(model, make_args(tmp_path, "end_to_end", pool_size=3), [RecordDataset(rows)])
    assert (tmp_path / "memory").exists()


def test_questions_packed_into_one_prompt_must_fit_together(base):
    """Each of them fits alone; what passes is never refused by the collator, whichever it draws."""

    class Packed(Settings):
        pack_questions, contrastive_weight = True, 0.0

    model = make_model(base, prompt_max_length=256)
    collator = PretrainingCollator(
        model.processor, {"answer": 1.0}, Packed.max_answers, 64, pack_questions=True
    )
    outcomes = []
    for count in range(1, 9):
        record = PretrainingRecord(
            "Basalt cools.",
            tuple(f"Why {number} does it cool so quickly?" for number in range(count)),
            (("because water is cold there",),) * count,
        )
        told = []
        for attempt in (
            lambda record=record: check_rows(model, Packed, [PretrainingRecord("Basalt."), record]),
            lambda record=record: [collator([Item(0, epoch, record)]) for epoch in range(8)],
        ):
            try:
                told.append(attempt() and None)
            except ValueError as error:
                told.append(str(error))
        outcomes.append([bool(one) for one in told])
        if told[0]:
            shown = min(count, Packed.max_answers)
            assert told[0].startswith(
                f"Row 1: its {shown} longest questions do not fit one prompt (`prompts[0]`"
            )
            assert told[0].endswith("Lower `max_answers`, or leave `pack_questions` out.")
    assert all(checked == refused for checked, refused in outcomes)
    assert [False] * 2 in outcomes and [True] * 2 in outcomes
