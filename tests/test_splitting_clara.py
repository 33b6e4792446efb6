"""Splitting: nothing but white space is lost, every passage fits, words stay whole where they can."""

import logging

import pytest
from clara.processing_clara import ClaraProcessor
from clara.splitting_clara import sentences, split_text
from clara.tokens_clara import plain_ids, plain_offsets
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


def test_sentences():
    text = (
        "Titan was found in 1655. Is that really so?\nYes it is, says everybody!  Short. Huygens saw it first"
    )
    assert sentences(text) == [
        "Titan was found in 1655.",
        "Yes it is, says everybody!",
        "Huygens saw it first",
    ]
    first, second = (
        "太陽系最大的衛星是木衛三而土衛六是第二大的衛星。",
        "土衛六由惠更斯於一六五五年發現他也是天文學家。",
    )
    assert sentences(first + second) == [first, second]
    assert sentences("x" * 500) == ["x" * 200]
    assert sentences("  Tiny. ") == ["Tiny."]
