"""Outputs: fields in order, and a single question's taken out of a batch of one."""

import torch
from clara.modeling_clara import ClaraOutput
from clara.retrieval_clara import ClaraGenerateOutput, RetrievalOutput, first


def test_the_first_of_a_batch_of_one():
    batch = RetrievalOutput(document_ids=[["a", "b"]], indices=[[3, 1]], scores=torch.tensor([[0.5, 0.25]]))
    one = first(batch)
    assert one.document_ids == ["a", "b"] and one.indices == [3, 1] and one.scores.tolist() == [0.5, 0.25]
    assert batch.document_ids == [["a", "b"]]


def test_sequences_and_generation_stay_whole():
    sequences, inner = torch.ones(1, 4), ClaraOutput(loss=torch.tensor(1.0))
    out = ClaraGenerateOutput(
        answers=["yes"],
        document_ids=[["a"]],
        indices=[[0]],
        scores=torch.ones(1, 1),
        sequences=sequences,
        generation=inner,
    )
    one = first(out)
    assert one.answers == "yes" and one.document_ids == ["a"]
    assert one.sequences is sequences and one.generation is inner


def test_absent_fields_are_left_out():
    out = ClaraOutput(loss=torch.tensor(2.0), scores=torch.zeros(1, 2))
    assert list(out.keys()) == ["loss", "scores"] and out.indices is None
    assert out[0] == 2.0
