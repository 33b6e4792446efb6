import pytest

pytest.importorskip("py3langid")

from clara.data.synthesis.gates import (
    EvaluationQuestions,
    Gates,
    GateSettings,
    language_of,
    paraphrase_measures,
    same_language,
)
from clara.data.synthesis.machine import DocumentOutcome, Pair, Signal
from clara.data.synthesis.texts import jaccard, names, normalized, numbers, share_inside, shingles

DOCUMENT = (
    "Marie Curie was born in Warsaw in 1867. She won the Nobel Prize in Physics in 1903, and she was the "
    "first woman to hold a chair at the University of Paris. Her daughter Irène won a Nobel Prize in 1935."
)
PARAPHRASE = (
    "Warsaw, in 1867, is where the life of Marie Curie began. In 1903 Physics brought her a Nobel Prize; no "
    "woman before her had been given a professorship by the University of Paris. A Nobel Prize also went to "
    "Irène, her daughter, in 1935."
)
GATES = Gates(GateSettings())


def test_numbers_are_compared_by_value():
    assert numbers("In 1,280 metres, 3.5 of the 007, twelve, ５") == {"1280", "3.5", "7", "12", "5"}


def test_names_are_capitals_inside_sentences():
    assert names("The tower of Paris. Later Anna Smith's house burnt. It was I.") == {
        "paris",
        "anna",
        "smith",
    }


def test_overlap_measures_by_hand():
    assert shingles(["a", "b", "c", "d"], 3) == {("a", "b", "c"), ("b", "c", "d")}
    assert shingles(["a"], 3) == {("a",)}
    assert jaccard({1, 2, 3}, {2, 3, 4}) == pytest.approx(0.5)
    assert share_inside([1, 2, 2, 5], {2}) == pytest.approx(0.5)
    assert share_inside([], {2}) == 1.0
    assert normalized(" Who’s  THAT?") == "who’s that"


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("In which city was Marie Curie born?", "Warsaw", ""),
        ("When did Marie Curie win a Nobel Prize?", "in 1903", ""),
        ("How many years lie between the two Nobel Prizes of the family?", "32", ""),
        ("Was Marie Curie a woman?", "Yes", ""),
        ("Born where?", "Warsaw", "question_length"),
        ("In which city was Marie Curie born?", "word " * 61, "answer_length"),
        ("In which city was Marie Curie born?", "...", "answer_length"),
        ("Which prize is named in the document?", "Nobel Prize", "leaked_question"),
        ("According to the passage, where was she born?", "Warsaw", "leaked_question"),
        ("Where was the daughter mentioned above born?", "Warsaw", "leaked_question"),
        ("What is the use of numbers in the context of prizes?", "Nobel Prize", ""),
        ("Which Nobel Prize in Physics did Marie Curie win?", "Nobel Prize in Physics", "answer_in_question"),
        ("Who was older, Marie Curie or her daughter?", "Marie Curie", ""),
        ("In which city was Marie Curie born?", "Vienna, Austria", "unsupported_answer"),
        ("In which year was Marie Curie born?", "1868", "unsupported_answer"),
    ],
)
def test_gate_of_pairs(question, answer, reason):
    assert GATES.pair_reason(DOCUMENT, Pair(question, answer)) == reason


@pytest.mark.parametrize(
    ("paraphrase", "reason"),
    [
        (PARAPHRASE, ""),
        (DOCUMENT, "paraphrase_copies"),
        ("She was a great woman.", "paraphrase_length"),
        (PARAPHRASE.replace("in 1867, ", ""), "paraphrase_loses_numbers"),
        (PARAPHRASE + " She died in 1934.", "paraphrase_adds_numbers"),
        (
            PARAPHRASE.replace("Paris", "that city").replace("Irène", "the girl").replace("Curie", "C"),
            "paraphrase_loses_names",
        ),
    ],
)
def test_gate_of_paraphrases(paraphrase, reason):
    assert GATES.paraphrase_reason(DOCUMENT, paraphrase) == reason


def test_paraphrase_measures_by_hand():
    measures = paraphrase_measures("a b c d e f g h", "a b c d x y z w")
    assert measures["copied"] == pytest.approx(1 / 5)
    assert measures["length_ratio"] == 1.0
    assert paraphrase_measures("In 5 of 10", "five")["numbers"] == pytest.approx(0.5)


def test_languages_are_told_apart_only_when_clear():
    german = "Die Stadt wurde im Jahre 1867 von Bürgern gegründet, und sie hat noch viele alte Häuser."
    assert language_of(german) == "de"
    assert language_of("Die Stadt") is None
    assert not same_language(DOCUMENT, german)
    assert same_language(DOCUMENT, "kurz und gut")
    assert GATES.paraphrase_reason("In 1867 " + german, german + " In 1867.") == "paraphrase_copies"


def outcome(*signals):
    return DocumentOutcome("1", DOCUMENT, list(signals))


def test_repeated_questions_are_dropped_across_the_kinds_of_a_document():
    first = Signal("simple", True, pairs=[Pair("In which city was Marie Curie born?", "Warsaw")])
    pairs = [
        Pair("Marie Curie was born in which city?", "Warsaw"),
        Pair("In which year was Irène given a Nobel Prize?", "1935"),
    ]
    simple, complex_ = GATES.apply(outcome(first, Signal("complex", True, pairs=pairs))).signals
    assert len(simple.pairs) == 1
    assert complex_.pairs == pairs[1:]
    assert complex_.rejected == {"duplicate_question": 1}


def test_like_questions_with_other_numbers_are_no_repetition():
    pairs = [
        Pair(f"Who won the Nobel Prize in Physics of the year {year}?", "Curie") for year in (1903, 1935)
    ]
    (signal,) = GATES.apply(outcome(Signal("simple", True, pairs=pairs))).signals
    assert signal.pairs == pairs


def test_foreign_questions_are_dropped_together():
    asked = "In welcher großen Stadt wurde die Physikerin Marie Curie im neunzehnten Jahrhundert geboren?"
    (signal,) = GATES.apply(outcome(Signal("simple", True, pairs=[Pair(asked, "Warsaw")]))).signals
    assert signal.rejected == {"language": 1}
    assert signal.reason == "no_pairs_left"


def test_refused_signals_stay_refused_and_keep_their_reason():
    (signal,) = GATES.apply(outcome(Signal("simple", reason="not_covered", pairs=[Pair("q", "a")]))).signals
    assert (signal.accepted, signal.reason, signal.pairs) == (False, "not_covered", [])


def test_evaluation_questions_are_kept_out():
    evaluation = EvaluationQuestions(["In which city was the physicist Marie Curie born?", "Who wrote it"])
    asked = Pair("in which city was the physicist marie curie born", "Warsaw")
    assert evaluation.overlap(asked.question) == 1.0
    assert Gates(GateSettings(), evaluation).pair_reason(DOCUMENT, asked) == "contaminated"
    assert evaluation.overlap("In which city was Marie Curie born?") == pytest.approx(3 / 5)
    assert evaluation.overlap("a b c d") == 0.0
    assert evaluation.overlap("") == 0.0
