"""Search vectors as sentence-transformers gives vectors: shapes, kinds, lengths, similarities."""

import numpy as np
import pytest
import torch
from clara.integrations.encoder import ClaraEncoder
from conftest import DOCUMENTS, QUESTIONS


@pytest.fixture(scope="module")
def encoder(shared_model):
    return ClaraEncoder(shared_model)


def test_the_nearest_are_those_of_retrieve(encoder, shared_model):
    documents, queries = encoder.encode_document(DOCUMENTS), encoder.encode_query(QUESTIONS)
    assert documents.dtype == np.float32 and documents.shape == (6, 32) and queries.shape == (3, 32)
    memory = shared_model.build_memory(DOCUMENTS, show_progress=False)
    hits = shared_model.retrieve(QUESTIONS, memory, retrieval_top_k=6)
    scores, order = encoder.similarity(queries, documents).sort(dim=-1, descending=True)
    assert order.tolist() == hits.indices
    assert torch.allclose(scores, hits.scores, atol=1e-5)
    pairs = encoder.similarity_pairwise(queries, documents[:3])
    assert torch.allclose(pairs, encoder.similarity(queries, documents).diag(), atol=1e-6)


def test_forms(encoder):
    assert encoder.encode("Titan").shape == (32,)
    assert isinstance(encoder.encode(["Titan"], convert_to_tensor=True), torch.Tensor)
    assert np.linalg.norm(encoder.encode(DOCUMENTS), axis=1) == pytest.approx([1] * 6, abs=1e-5)
    plain = encoder.encode(DOCUMENTS, normalize_embeddings=False)
    assert np.linalg.norm(plain, axis=1) != pytest.approx([1] * 6, abs=1e-3)
    assert not np.allclose(encoder.encode("Titan"), encoder.encode("Titan", prompt_name="query"))
    with pytest.raises(ValueError, match='must be "document" or "query", got \'passage\''):
        encoder.encode("Titan", prompt_name="passage")


def test_long_texts_are_cut_at_what_the_model_reads(encoder, shared_model):
    long = "The Rhine rises in the Alps. " * 200
    first = shared_model.processor.split_documents([long])[0][0]
    assert np.array_equal(encoder.encode(long), encoder.encode(first)) and len(first) < len(long)
    assert encoder.encode_query(long).shape == (32,)
