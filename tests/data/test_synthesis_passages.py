import asyncio
import json

import pytest

pytest.importorskip("pydantic")

from clara.data.synthesis.passages import read_passages, read_texts, split_text
from clara.data.synthesis.scripted_teacher import BLANK, ScriptedTeacher, blanked_statements
from clara.data.synthesis.teacher import Request


def test_short_documents_stay_whole_and_keep_their_id():
    documents = [{"id": "a", "text": "One two.  Three?", "title": "T"}, {"text": "Four."}]
    assert list(read_passages(documents)) == [("a", "T\nOne two. Three?"), ("1", "Four.")]


def test_long_documents_are_cut_between_sentences():
    text = "One two three. Four five! Six seven eight nine. Ten."
    assert list(split_text(text, 5)) == ["One two three. Four five!", "Six seven eight nine. Ten."]
    assert [id for id, _ in read_passages([{"id": "a", "text": text}], 5)] == ["a#0", "a#1"]


def test_endless_sentences_and_words_are_cut_too():
    assert list(split_text("a b c d e", 2)) == ["a b", "c d", "e"]
    assert [len(part) for part in split_text("x" * 450, 2)] == [401, 50]


def test_nothing_of_a_huge_document_is_lost():
    text = " ".join(f"Word{n} is here." if n % 3 else f"word{n}" for n in range(30_000))
    passages = list(split_text(text, 100))
    assert " ".join(passages).split() == text.split()
    assert max(len(passage.split()) for passage in passages) <= 100


def test_passages_of_files_are_listed_once_each(tmp_path):
    (tmp_path / "a.txt").write_text("  \n")
    (tmp_path / "b.txt").write_text("Some text.")
    rows = [{"text": ""}, {"id": 5, "text": "x", "title": "T"}, {"text": "Some text."}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_texts([tmp_path], 150) == ["Some text.", "T\nx"]


def test_bad_length_is_refused():
    with pytest.raises(ValueError, match="`max_words` must be at least 1"):
        read_passages([], 0)


def test_scripted_teacher_blanks_one_name_or_number_a_sentence():
    statements = blanked_statements(
        "The bridge was built in 1933. It is red. The city of San Diego paid 3.5 million."
    )
    assert statements == [
        (f"The bridge was built in {BLANK}", "1933"),
        (f"The city of {BLANK} paid 3.5 million", "San Diego"),
    ]


def test_scripted_teacher_answers_a_repair_from_the_first_prompt():
    document = "The bridge was built in 1933."
    prompt = f"<document>\n{document}\n</document>\n\nQuestion: Which “The bridge was built in {BLANK}”?"
    messages = ({"role": "user", "content": prompt}, {"role": "user", "content": "Reply again."})
    reply = asyncio.run(ScriptedTeacher().complete(Request(messages, schema_name="Answer")))
    assert json.loads(reply.text)["answer"] == "1933"
