"""Prompts: one place for each, chat templates with a system role, without one, and none at all."""

import pytest
import torch
from clara.processing_clara import ClaraProcessor
from clara.prompts_clara import (
    ANSWER_SYSTEM,
    NOT_FOUND,
    SLOT_ID,
    SLOTS,
    STYLES,
    TEXT,
    alone_and_together,
    answer_prompt,
    choose_answers,
    may_be_passed,
    paraphrase_prompt,
    questions_and_answers_prompt,
    questions_and_answers_target,
    reconstruction_prompt,
    refusals_last,
    render_chat,
    template_ids,
)
from conftest import CHATML, NO_SYSTEM, make_tokenizer
from tokenizers.pre_tokenizers import Metaspace

DROPS_SYSTEM = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['content'] | trim }}"
    "{% endif %}{% endfor %}{{ '>>' }}"
)
BROKEN = "{{ raise_exception('no conversation at all') }}"
PROMPTS = [answer_prompt, questions_and_answers_prompt, paraphrase_prompt, reconstruction_prompt]


@pytest.mark.parametrize("template", [CHATML, NO_SYSTEM, DROPS_SYSTEM, None])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_prompt_has_one_place_for_memories_in_every_template(prompt, template):
    rendered = render_chat(make_tokenizer(template), prompt())
    assert rendered.count(SLOTS) == 1
    assert rendered.count(TEXT) == (prompt is answer_prompt)


@pytest.mark.parametrize("template", [CHATML, NO_SYSTEM, DROPS_SYSTEM, None])
def test_the_system_text_is_never_lost(template):
    rendered = render_chat(make_tokenizer(template), answer_prompt())
    assert rendered.count(ANSWER_SYSTEM) == 1
    assert rendered.index(ANSWER_SYSTEM) < rendered.index(SLOTS) < rendered.index(TEXT)


def test_every_style_has_every_place():
    for style, words in STYLES.items():
        assert "{slots}" in words.answer_user and "{question}" in words.answer_user
        assert "{slots}" in words.paraphrase_user
        rendered = render_chat(make_tokenizer(CHATML), answer_prompt(style), style)
        assert rendered.count(SLOTS) == rendered.count(TEXT) == 1 and words.answer_system in rendered
        assert render_chat(make_tokenizer(CHATML), paraphrase_prompt(style), style).count(SLOTS) == 1


def test_a_template_with_a_system_role_gets_it():
    rendered = render_chat(make_tokenizer(CHATML), answer_prompt())
    assert rendered.startswith(f"<|im_start|>system\n{ANSWER_SYSTEM}<|im_end|>\n<|im_start|>user\n")
    assert rendered.endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_without_one_gets_it_in_the_users_turn():
    rendered = render_chat(make_tokenizer(NO_SYSTEM), answer_prompt())
    assert rendered.startswith(f"<|im_start|>[INST] {ANSWER_SYSTEM}\n\nDocuments:\n")
    assert rendered.count("[INST]") == 1 and rendered.endswith(" [/INST]")


def test_no_template_gives_paragraphs_with_bos_only_where_used():
    plain = render_chat(make_tokenizer(None), answer_prompt())
    assert plain.startswith(ANSWER_SYSTEM) and plain.endswith("\n\nAnswer: ")
    assert render_chat(make_tokenizer(None, bos=True), answer_prompt()) == "<|im_start|>" + plain


def test_a_template_that_fails_on_every_chat_says_so():
    with pytest.raises(Exception, match="no conversation at all"):
        render_chat(make_tokenizer(BROKEN), answer_prompt())


def test_rendering_leaves_the_prompt_as_it_was():
    messages = answer_prompt()
    render_chat(make_tokenizer(NO_SYSTEM), messages)
    assert messages == answer_prompt()


def test_target_of_questions_and_answers():
    target = questions_and_answers_target(["Who?", "When?"], ["Ada", "1843"])
    assert target == "Question: Who?\nAnswer: Ada\nQuestion: When?\nAnswer: 1843"
    with pytest.raises(ValueError):
        questions_and_answers_target(["Who?"], [])


@pytest.mark.parametrize(("style", "between"), [("clara", "\n"), ("released", "")])
def test_memories_stand_in_the_prompt_as_documents_would(style, between):
    tokenizer = make_tokenizer(None)
    processor = ClaraProcessor(tokenizer, num_memory_tokens=4, prompt_style=style)
    ids = processor.encode_prompts(["Who?"], [[2, 1, 3]])["input_ids"][0].tolist()
    read = "".join("#" if token == SLOT_ID else tokenizer.decode([token]) for token in ids)
    slots = between.join(["##", "#", "###"])
    words = STYLES[style]
    turn = words.answer_user.format(slots=slots, question="Who?")
    assert read == f"{words.answer_system}\n\n{turn}\n\nAnswer: "


def test_the_readings_of_each_are_the_memories_alone_and_perhaps_all_of_them():
    assert alone_and_together("abc", None) == [["a"], ["b"], ["c"]]
    assert alone_and_together("abc", -0.5) == [["a"], ["b"], ["c"], ["a", "b", "c"]]
    assert alone_and_together("a", -0.5) == [["a"]]


def test_the_answer_that_is_likeliest_with_its_passage_is_told():
    scores = torch.tensor([[0.3, 0.2], [0.5, float("-inf")]])

    def chosen(likely, odds=(0.0,) * 3, counts=(2, 1), least=None, joint=None):
        return choose_answers(torch.tensor(likely), torch.tensor(odds), [*counts], scores, least, joint)

    assert chosen([-1.0, -0.5, -9.0]) == [0, 0]  # -1 + 3 against -0.5 + 2
    assert chosen([-2.0, -0.5, -9.0]) == [1, 0]
    assert refusals_last(torch.tensor([-1.0, -0.5]), [NOT_FOUND, "b"]).argmax() == 1
    assert chosen([-1.0, -0.5, -9.0], [-4.0, -0.5, 1.0], least=2.0) == [None, 0]  # -1 and 1.5; 6
    assert chosen([-1.0, -0.5, -9.0], [-4.0, 0.5, 1.0], least=2.5) == [0, 0]
    # with both passages together: its own log probability, the best cosine, and what is added
    both, odds = [-1.0, -0.5, -0.4, -9.0], [-4.0, -0.5, 99.0, 1.0]
    assert chosen(both, odds, (3, 1), joint=-0.5) == [2, 0]  # -0.4 + 3 - 0.5 against -1 + 3
    assert chosen(both, odds, (3, 1), joint=-0.7) == [0, 0]
    assert chosen(both, odds, (3, 1), least=2.0, joint=-0.5) == [None, 0]  # its odds do not count


def test_all_passages_are_read_together_only_where_that_answer_may_be_told():
    cosines = torch.tensor([0.3, 0.2, float("-inf")])
    assert may_be_passed(torch.tensor([-1.0, -0.5]), cosines, -0.5)  # 2 and 1.5 against 0 + 3 - 0.5
    assert not may_be_passed(torch.tensor([-1.0, -0.5]), cosines, -1.0)
    assert not may_be_passed(torch.tensor([-1.0, 0.6]), cosines, -0.5)
    assert not may_be_passed(torch.tensor([-9.0]), cosines, -0.5)  # one passage
    assert not may_be_passed(torch.tensor([-9.0, -9.0]), cosines, None)


def test_what_stands_behind_the_suffix_of_a_memory_is_read_in_its_place():
    tokenizer = make_tokenizer(None)
    tokenizer.backend_tokenizer.pre_tokenizer = Metaspace("Ġ", "first")  # as of SentencePiece
    rest = STYLES["released"].answer_user.partition("{slots}")[2].format(question="Who?") + "\n\nAnswer: "
    expected = template_ids(tokenizer, "<|im_end|>" + rest)
    assert expected[1:] != template_ids(tokenizer, rest)
    processor = ClaraProcessor(
        tokenizer, num_memory_tokens=4, prompt_style="released", memory_suffix="<|im_end|>"
    )
    ids = processor.encode_prompts(["Who?"], [[2]])["input_ids"][0].tolist()
    assert ids[ids.index(SLOT_ID) + 2 :] == expected
