"""The kinds of training and evaluation rows: one frozen dataclass each, checked when made."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


def _texts(name: str, values: Sequence[str], allow_none: bool = True) -> tuple[str, ...]:
    """Returns `values` as a tuple of texts, or raises if one of them is not a text or is empty."""
    if isinstance(values, str):
        raise ValueError(
            f"`{name}` must be a sequence of strings, got one string: {values[:60]!r}. Wrap it in a list."
        )
    if not allow_none and not len(values):
        raise ValueError(f"`{name}` is empty: at least one is needed.")
    for index, value in enumerate(values):
        _text(f"{name}[{index}]", value)
    return tuple(values)


def _text(name: str, value: str) -> str:
    """Returns `value`, or raises if it is not a text or holds nothing but white space."""
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be a string, got {type(value).__name__}: {str(value)[:60]!r}.")
    if not value.strip():
        raise ValueError(f"`{name}` is an empty string: give a text or leave the row out.")
    return value


def _positives(positives: Sequence[int], num_documents: int) -> tuple[int, ...]:
    """Returns `positives` as a tuple of indices into the documents, or raises."""
    for position in positives:
        if isinstance(position, bool) or not isinstance(position, int):
            raise ValueError(f"`positives` must hold integers, got {position!r}.")
        if not 0 <= position < num_documents:
            raise ValueError(
                f"`positives` holds {position}, but the row has {num_documents} documents: "
                f"indices go from 0 to {num_documents - 1}."
            )
    if len(set(positives)) != len(positives):
        raise ValueError(f"`positives` names a document twice: {list(positives)}.")
    return tuple(positives)


@dataclass(frozen=True)
class PretrainingRecord:
    r"""One document with all its training signals (stage `pretraining`).

    A record without questions and without paraphrases is unlabelled text: only reconstruction can be learnt
    from it.

    Attributes:
        document: the text the compressor reads, as `Title\ntext` where a title is known.
        questions: the questions that the document answers.
        answers: for each question its accepted answers; the first one is the training target.
        paraphrases: the document in other words.
        id: the row's name in its source, if it had one.
        findable: for each question whether it names its subject, so that the document can be found by it
            among others ("Who is she?" does not); empty: all do.

    Raises:
        ValueError: on an empty text, or unequal numbers of questions and answers.
    """

    document: str
    questions: tuple[str, ...] = ()
    answers: tuple[tuple[str, ...], ...] = ()
    paraphrases: tuple[str, ...] = ()
    id: str | None = None
    findable: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        _text("document", self.document)
        object.__setattr__(self, "questions", _texts("questions", self.questions))
        object.__setattr__(self, "paraphrases", _texts("paraphrases", self.paraphrases))
        if len(self.questions) != len(self.answers):
            raise ValueError(
                f"`questions` and `answers` must be equally many, got {len(self.questions)} questions and "
                f"{len(self.answers)} answers."
            )
        answers = (_texts(f"answers[{i}]", a, allow_none=False) for i, a in enumerate(self.answers))
        object.__setattr__(self, "answers", tuple(answers))
        if self.findable and len(self.findable) != len(self.questions):
            raise ValueError(
                f"`findable` must have one entry a question, got {len(self.findable)} for "
                f"{len(self.questions)} questions."
            )

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each question with the answer that is learnt, the first one."""
        return list(zip(self.questions, (answers[0] for answers in self.answers), strict=True))

    @property
    def findable_questions(self) -> tuple[str, ...]:
        """The questions by which the document can be found."""
        flags = self.findable or (True,) * len(self.questions)
        return tuple(question for question, flag in zip(self.questions, flags, strict=True) if flag)

    @property
    def num_signals(self) -> int:
        """Number of training signals: question-answer pairs and paraphrases."""
        return len(self.questions) + len(self.paraphrases)


@dataclass(frozen=True)
class QuestionRecord:
    """One question with its documents (stages `instruction_tuning` and `end_to_end`, and evaluation).

    Attributes:
        question: the question.
        answers: the accepted (gold) answers, at least one.
        documents: the N candidate documents, at least one.
        positives: indices into `documents` of those known to hold the answer; may be empty.
        generated: a teacher's answer from the documents, the target of sequence-level distillation (paper,
            instruction tuning); None where there is none or where it equals the first gold answer.
        id: the row's name in its source, if it had one.

    Raises:
        ValueError: on an empty text, no answers, no documents, or positives out of range.
    """

    question: str
    answers: tuple[str, ...]
    documents: tuple[str, ...]
    positives: tuple[int, ...] = ()
    generated: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        _text("question", self.question)
        object.__setattr__(self, "answers", _texts("answers", self.answers, allow_none=False))
        object.__setattr__(self, "documents", _texts("documents", self.documents, allow_none=False))
        object.__setattr__(self, "positives", _positives(self.positives, len(self.documents)))
        if self.generated is not None:
            _text("generated", self.generated)
        if self.generated == self.answers[0]:
            object.__setattr__(self, "generated", None)

    def without_copies(self) -> "QuestionRecord":
        """The record with each document once; it is positive if one of its copies is."""
        kept = list(dict.fromkeys(self.documents))
        if len(kept) == len(self.documents):
            return self
        place = {text: index for index, text in enumerate(kept)}
        positives = dict.fromkeys(place[self.documents[index]] for index in self.positives)
        return replace(self, documents=tuple(kept), positives=tuple(positives))

    @property
    def target(self) -> str:
        """The text to learn: the teacher's answer where there is one, else the first gold answer."""
        return self.answers[0] if self.generated is None else self.generated


@dataclass(frozen=True)
class CorpusRecord:
    """One document of a corpus.

    Attributes:
        id: its name, unique in the corpus.
        text: its text, without the title if `title` is given.
        title: its title, or None.

    Raises:
        ValueError: on an empty id or text.
    """

    id: str
    text: str
    title: str | None = None

    def __post_init__(self) -> None:
        _text("id", self.id)
        _text("text", self.text)

    @property
    def document(self) -> str:
        r"""The text as the compressor reads it: `Title\ntext` where there is a title."""
        return f"{self.title}\n{self.text}" if self.title else self.text
