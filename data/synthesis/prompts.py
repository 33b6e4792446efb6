"""Every prompt that a teacher sees, and the form of every reply. A change here needs a new PROMPT_VERSION.

The steps follow the paper's synthesis (section on SCP, appendix I): questions, answers from the document
only, a judgement of each pair, the facts that no pair covers yet, a paraphrase and its judgement. The
wording is our own.
"""

from pydantic import BaseModel, Field

PROMPT_VERSION = "1"

SYSTEM = (
    "You prepare training data from documents. Use nothing but the document you are given. "
    "Reply with one JSON object and no other text."
)

QUESTIONS = {
    "simple": """Write questions about the document below. Each question asks for one atomic fact (a name, \
date, number, place, property or event), no two ask for the same fact, and together they cover every fact \
in the document.

Rules:
- A reader who has never seen the document must understand the question: name the people, things and \
times in full, and never mention "the document", "the text" or "the passage".
- The document must answer the question, and the question must not contain its answer.
- Ask as many questions as there are facts, at most {limit}.

Example document: Marie Curie, born in Warsaw in 1867, won the Nobel Prize in Physics in 1903.
Example reply: {{"questions": ["In which city was Marie Curie born?", "In which year was Marie Curie \
born?", "Which prize did Marie Curie win in 1903?"]}}

{document}""",
    "complex": """Write questions about the document below. Each question can only be answered by joining \
two or more separate facts of the document: by following one fact to another, by comparing, by counting or \
adding up, or by ordering events in time or by cause.

Rules:
- Prefer facts that no other question joins, and give each question a single answer.
- A reader who has never seen the document must understand the question: name the people, things and \
times in full, and never mention "the document", "the text" or "the passage".
- No question may be answered by yes or no, and no question may contain its answer.
- Ask at most {limit} questions; reply with an empty list if the document does not join any facts.

Example document: Marie Curie, born in Warsaw in 1867, won the Nobel Prize in Physics in 1903, and in \
Chemistry in 1911.
Example reply: {{"questions": ["How old was the Warsaw-born winner of the 1903 Nobel Prize in Physics in \
the year of that prize?", "How many years lay between Marie Curie's two Nobel Prizes?"]}}

{document}""",
}

ANSWER = """Answer the question from the document below and from nothing else, in as few words as \
possible. If the document does not hold the answer, set "answerable" to false and leave "answer" empty.

Form of the reply: {{"answerable": true, "answer": "..."}}

{document}

Question: {question}"""

JUDGE_PAIR = """Judge whether the answer to the question is right according to the document below. It is \
right only if the document fully supports it and it answers the whole question. A partial, wrong or \
unsupported answer is not right.

Form of the reply: {{"correct": true}} or {{"correct": false}}

{document}

Question: {question}
Answer: {answer}"""

COVERAGE = {
    "simple": """Below are a document and questions that were already asked about it. List the facts of \
the document that none of these questions asks for, and write one new question for each of them, by the \
same rules: one atomic fact each, understandable without the document, never mentioning it, not \
containing the answer. If every fact is covered, reply with empty lists.

Form of the reply: {{"uncovered_facts": ["..."], "questions": ["..."]}}

{document}

Questions already asked:
{questions}""",
    "complex": """Below are a document and questions that were already asked about it. Each question \
joins two or more facts of the document. List the facts that could be joined but that no question uses, \
and write new questions that join them, by the same rules: at least two separate facts each, a single \
answer, no yes or no, understandable without the document, never mentioning it. If nothing is left to \
join, reply with empty lists.

Form of the reply: {{"uncovered_facts": ["..."], "questions": ["..."]}}

{document}

Questions already asked:
{questions}""",
}

PARAPHRASE = """Write the document below again in other words.

Rules:
- Change the order and the structure of the sentences and the vocabulary; copy no sentence.
- Keep every fact, name, number and date, and every relation between them.
- Add nothing, explain nothing, leave nothing out, and leave what is ambiguous as ambiguous as it was.
- Keep the voice and the language of the document.

Form of the reply: {{"paraphrase": "..."}}
{feedback}
{document}"""

PARAPHRASE_FEEDBACK = """
An earlier attempt was refused. It left out: {missing}. It added: {added}. Avoid both.
"""

JUDGE_PARAPHRASE = """Compare the paraphrase with the document below. List what the document says and the \
paraphrase does not, and what the paraphrase says and the document does not. It is faithful only if both \
lists are empty.

Form of the reply: {{"missing": [], "added": [], "faithful": true}}

{document}

Paraphrase: {paraphrase}"""

DISTIL = """Answer the question from the documents below, as briefly as possible. If they do not hold the \
answer, set "answerable" to false and leave "answer" empty.

Form of the reply: {{"answerable": true, "answer": "..."}}

{documents}

Question: {question}"""

REPAIR = """Your reply could not be read: {problem}. Reply again with one JSON object of the form asked \
for, complete, and nothing else."""


class Questions(BaseModel):
    """Questions about a document."""

    questions: list[str]


class Answer(BaseModel):
    """The answer to one question."""

    answerable: bool = True
    answer: str


class PairVerdict(BaseModel):
    """Whether a question and its answer hold."""

    correct: bool


class Coverage(BaseModel):
    """What no question asks for yet, and questions that do."""

    uncovered_facts: list[str] = Field(default_factory=list)
    questions: list[str]


class Paraphrase(BaseModel):
    """The document in other words."""

    paraphrase: str


class ParaphraseVerdict(BaseModel):
    """What a paraphrase lost or added."""

    missing: list[str] = Field(default_factory=list)
    added: list[str] = Field(default_factory=list)
    faithful: bool


def tagged(*documents: str) -> str:
    """Marks where documents begin and end in a prompt."""
    return "\n\n".join(f"<document>\n{document}\n</document>" for document in documents)
