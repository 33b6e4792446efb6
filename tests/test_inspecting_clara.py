"""The logit lens on memories set by hand; paraphrases of stored memories."""

import pytest
import torch
from clara.inspecting_clara import likeliest_tokens
from conftest import DOCUMENTS, QUESTIONS


def test_likeliest_tokens_are_those_of_the_output_head(shared_model):
    weight = shared_model.decoder.get_output_embeddings().weight.detach().float()
    memory = 100 * torch.nn.functional.normalize(weight[[7, 300]], dim=-1)
    found, shares = likeliest_tokens(shared_model, memory, 3)
    logits = memory @ weight.T
    assert torch.equal(found, logits.topk(3, dim=-1).indices)
    torch.testing.assert_close(shares, logits.softmax(dim=-1).topk(3, dim=-1).values)


def test_logit_lens_names_the_tokens_of_the_questions_memory(shared_model):
    lens = shared_model.logit_lens(QUESTIONS[0], top=4)
    batch = shared_model.processor.encode_questions(QUESTIONS[:1])
    with torch.no_grad():
        ids, shares = likeliest_tokens(shared_model, shared_model.reason(**batch)[0], 4)
    assert len(lens) == shared_model.config.num_memory_tokens and {len(row) for row in lens} == {4}
    decode = shared_model.processor.tokenizer.decode
    assert [[text for text, _ in row] for row in lens] == [[decode([i]) for i in row] for row in ids.tolist()]
    assert [share for _, share in lens[0]] == pytest.approx(shares[0].tolist())
    with pytest.raises(ValueError, match="empty"):
        shared_model.logit_lens(" ")


def test_paraphrase_memory_reads_the_stored_memory_not_the_text(shared_model):
    memory = shared_model.build_memory(DOCUMENTS, show_progress=False)
    wanted = shared_model.paraphrase(DOCUMENTS[2], max_new_tokens=8)
    assert shared_model.paraphrase_memory(memory, 2, max_new_tokens=8) == wanted
    with pytest.raises(IndexError):
        shared_model.paraphrase_memory(memory, 99)


def test_passages_in_pieces_make_the_same_memory(shared_model):
    whole = shared_model.build_memory([*DOCUMENTS, "word " * 150], show_progress=False)
    passages = shared_model.split_passages([*DOCUMENTS, "word " * 150])
    pieces = shared_model.compress_passages(passages[:4])
    pieces.append(shared_model.compress_passages(passages[4:]))
    assert pieces.document_ids == whole.document_ids and pieces.parents == whole.parents
    assert pieces.orders == whole.orders
    torch.testing.assert_close(pieces[:], whole[:], rtol=1e-3, atol=1e-3)
