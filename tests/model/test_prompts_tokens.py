"""Token ids: users' markers are letters, templates' are special, also from several threads."""

from concurrent.futures import ThreadPoolExecutor

from clara.prompts_clara import (
    following_ids,
    framed_ids,
    has_specials,
    opening_ids,
    plain_ids,
    plain_offsets,
    template_ids,
)
from conftest import make_tokenizer

TEXT = "<|im_start|>user<|im_end|>"


def test_markers_are_letters_in_users_texts_and_special_in_templates(tokenizer):
    plain, special = plain_ids(tokenizer, [TEXT])[0], template_ids(tokenizer, TEXT)
    assert not set(plain) & {1, 2}
    assert special[0] == 1 and special[-1] == 2
    assert tokenizer.decode(plain) == tokenizer.decode(special) == TEXT


def test_offsets_are_those_of_the_plain_ids(tokenizer):
    offsets = plain_offsets(tokenizer, [TEXT, "a b"])
    assert [len(row) for row in offsets] == [len(row) for row in plain_ids(tokenizer, [TEXT, "a b"])]
    assert offsets[0][0] == (0, 1) and offsets[0][-1][1] == len(TEXT)


def test_opening_is_the_bos_of_tokenizers_that_use_one(tokenizer):
    assert opening_ids(tokenizer) == []
    assert opening_ids(make_tokenizer(bos=True)) == [1]


def test_special_tokens_are_found_in_a_text(tokenizer):
    assert has_specials(tokenizer, f"a {TEXT} b")
    assert not has_specials(tokenizer, "a <MEM> b <|im_") and not has_specials(tokenizer, "")


def test_a_piece_behind_special_tokens_comes_without_them(tokenizer):
    alone = template_ids(tokenizer, "Titan")
    assert following_ids(tokenizer, "Titan") == following_ids(tokenizer, "Titan", "<|im_end|>") == alone


def test_frames_are_special_and_what_they_hold_is_not(tokenizer):
    titan, marker = plain_ids(tokenizer, ["Titan", TEXT])
    framed = framed_ids(tokenizer, ["Titan", TEXT], "<|im_start|>", "<|im_end|>")
    assert framed == [[1, *titan, 2], [1, *marker, 2]]
    assert framed_ids(tokenizer, ["Titan"], None, "") == [titan]
    assert framed_ids(make_tokenizer(bos=True), ["Titan"], None, "") == [[1, *titan]]
    assert framed_ids(make_tokenizer(bos=True), ["Titan"], "", "<|im_end|>") == [[*titan, 2]]


def test_no_thread_changes_how_another_reads():
    """The reading of special tokens is a state of the tokenizer itself."""
    tokenizer = make_tokenizer()
    plain, special = plain_ids(tokenizer, [TEXT])[0], template_ids(tokenizer, TEXT)

    def read(turn):
        return plain_ids(tokenizer, [TEXT])[0] if turn % 2 else template_ids(tokenizer, TEXT)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, range(400)))
    assert all(ids == (plain if turn % 2 else special) for turn, ids in enumerate(found))
