"""Splitting: nothing but white space is lost, every passage fits, words stay whole where they can."""

import logging

import pytest
from clara.processing_clara import ClaraProcessor
from clara.prompts_clara import plain_ids, plain_offsets, split_text, split_texts
from conftest import DOCUMENTS, make_tokenizer


def make_processor(bos=False, doc_max_length=64):
    return ClaraProcessor(make_tokenizer(bos=bos), num_memory_tokens=4, doc_max_length=doc_max_length)


@pytest.fixture(scope="module")
def processor():
    return make_processor()


def rows_of(batch):
    """The ids of each row without its padding."""
    pairs = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in pairs]


@pytest.mark.parametrize("text", [" ".join(DOCUMENTS), "x" * 200, "\U0001f600" * 30, "a  b\n\n" * 40])
@pytest.mark.parametrize("limit", [4, 17])
def test_passages_fit_small_limits_and_hold_everything(tokenizer, text, limit):
    passages = split_text(tokenizer, text, plain_offsets(tokenizer, [text])[0], limit)
    assert "".join("".join(passages).split()) == "".join(text.split())
    assert max(len(ids) for ids in plain_ids(tokenizer, passages)) <= limit


def test_cuts_lie_at_white_space(tokenizer):
    text = "one two three four five six seven eight"
    passages = split_text(tokenizer, text, plain_offsets(tokenizer, [text])[0], 8)
    assert len(passages) > 1 and " ".join(passages) == text


def squeezed(text):
    return "".join(text.split())


def check_split(processor, text):
    passages = processor.split_documents([text])[0]
    assert squeezed("".join(passages)) == squeezed(text)
    lengths = [len(row) for row in rows_of(processor.encode_documents(passages))]
    assert max(lengths) <= processor.doc_max_length
    return passages, lengths


def test_a_short_text_stays_as_it_is(processor):
    texts = ["  padded with spaces  ", DOCUMENTS[0]]
    assert processor.split_documents(texts) == [[text] for text in texts]


def test_a_text_of_exactly_the_limit_is_not_split():
    length = len(rows_of(make_processor().encode_documents([DOCUMENTS[0]]))[0])
    assert len(make_processor(doc_max_length=length).split_documents([DOCUMENTS[0]])[0]) == 1
    assert len(make_processor(doc_max_length=length - 1).split_documents([DOCUMENTS[0]])[0]) == 2


@pytest.mark.parametrize(
    "text",
    [
        "The moon orbits the planet. " * 60,
        "x" * 700,
        "\U0001f600" * 120 + " tail",
        "\n\n  leading and trailing \n\n" * 40,
        "<|im_end|>" * 60,
        "nul \x00 \ufffd <MEM> " * 50,
        " " * 500 + "end",
        "a" + " " * 500 + "b",
    ],
)
@pytest.mark.parametrize("bos", [False, True])
def test_splitting_loses_only_white_space_at_the_cuts(text, bos):
    passages, _ = check_split(make_processor(bos=bos), text)
    assert all(passage.strip() for passage in passages)


def test_words_are_not_cut_where_there_is_white_space(processor):
    words = [f"word{number}" for number in range(200)]
    passages, lengths = check_split(processor, " ".join(words))
    assert " ".join(passages).split() == words
    assert min(lengths[:-1]) > processor.doc_max_length // 2


def test_a_document_of_100_000_tokens(processor, caplog, monkeypatch):
    """It is split without the warning that such a text would not fit the model."""
    monkeypatch.setattr(processor.tokenizer, "model_max_length", 512)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    sentence = "The Forth Bridge is a railway bridge in Scotland. Titan is the largest moon of Saturn. "
    tokens = len(plain_ids(processor.tokenizer, [sentence])[0])
    passages, lengths = check_split(processor, sentence * (100_000 // tokens + 1))
    assert sum(lengths) >= 100_000 * 0.95
    assert len(passages) < 100_000 / (processor.doc_max_length / 2)
    assert "longer than the specified maximum" not in caplog.text


# Where passages end


def cut(tokenizer, text, limit, header=""):
    passages = split_texts(tokenizer, [text], limit, [header])[0]
    assert max(len(ids) for ids in plain_ids(tokenizer, passages)) <= limit
    return passages


def test_passages_end_at_paragraphs_and_sentences(tokenizer):
    text = (
        "Dr. J. Smith came at 3.14, e.g. late. He said no. Then he went to St. Ives and stayed.\n\n"
        "A second paragraph\nis wrapped here and\ngoes on. It ends."
    )
    passages = cut(tokenizer, text, 50)
    assert all(passage.endswith(".") for passage in passages)
    assert "Dr. J. Smith came at 3.14, e.g. late." in passages[0]
    assert not any("stayed" in passage and "second" in passage for passage in passages)


def test_lists_end_at_items(tokenizer):
    text = "\n".join(f"- item number {number} without an end" for number in range(12))
    assert all(passage.startswith("- ") for passage in cut(tokenizer, text, 40))


def test_code_and_tables_stay_whole(tokenizer):
    code = "```sh\nmake one\n\nmake two. Then three.\n```"
    table = "| a | b |\n|---|---|\n| one. Two | x |\n| 3 | 4 |"
    text = f"Some words come first here. More of them.\n\n{code}\n\nA word.\n\n{table}\n\nThe end."
    for limit in (50, 60, 70):
        passages = cut(tokenizer, text, limit)
        assert len(passages) > 1
        assert sum(code in passage for passage in passages) == 1
        assert sum(table in passage for passage in passages) == 1


def test_code_above_the_limit_is_cut_between_lines(tokenizer):
    lines = [f"step {number} of many" for number in range(40)]
    passages = cut(tokenizer, "```\n" + "\n".join(lines) + "\n```", 40)
    assert [line for passage in passages for line in passage.splitlines() if "`" not in line] == lines


def test_each_passage_stands_below_its_header_which_counts(tokenizer):
    text = "The moon orbits the planet. " * 20
    passages = cut(tokenizer, text, 40, "Guide > Moon")
    assert all(passage.startswith("Guide > Moon\nThe moon") for passage in passages)
    short = split_texts(tokenizer, ["One.", "Two."], 40, ["Head", ""])
    assert short == [["Head\nOne."], ["Two."]]


def test_a_header_of_more_than_half_a_passage_stands_once(tokenizer):
    header = "A very long header that goes on and on " * 3
    passages = cut(tokenizer, "The moon orbits the planet. " * 20, 40, header.strip())
    assert squeezed("".join(passages)).count(squeezed(header)) == 1
