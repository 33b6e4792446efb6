"""Shares of a micro-batch in its optimizer step."""

import torch
from clara.train.groups import Group, counts, own_documents


def test_counts_documents_as_often_as_they_are_shown_and_questions_with_labels():
    positives = torch.tensor([[True, False], [False, False], [True, True]])
    batch = {"document_input_ids": torch.zeros(2, 4), "positives": positives}
    assert counts(batch) == {"documents": 2, "questions": 2, "rows": 3}
    assert counts({**batch, "document_counts": torch.tensor([3, 1])})["documents"] == 4
    assert counts({"match_indices": torch.tensor([0, 0, 1])})["questions"] == 3
    assert counts({}) == {"documents": 0, "questions": 0, "rows": 0}


class Two:
    """Two processes of which the other has three documents and no question."""

    num_processes = 2

    def gather(self, values):
        return torch.cat([values, torch.tensor([[3.0, 0.0, 0.0]])])


def test_shares_are_of_the_whole_step():
    batches = [{"document_input_ids": torch.zeros(n, 4), "match_indices": torch.zeros(n)} for n in (4, 1)]
    cpu = torch.device("cpu")
    alone = Group.of(batches, cpu)
    assert alone.shares(batches[0]) == {"documents": 0.8, "questions": 0.8, "rows": 0.8}
    both = Group.of(batches, cpu, Two())
    assert both.shares(batches[0]) == {"documents": 2 * 4 / 8, "questions": 2 * 4 / 5, "rows": 2 * 4 / 5}
    assert Group().shares(batches[0]) == {"documents": 1.0, "questions": 1.0, "rows": 1.0}


def test_copies_of_a_document_are_a_questions_own():
    """Padding on the left does not count, whatever ids stand there."""
    ids = torch.tensor([[0, 5, 6], [9, 5, 6], [4, 5, 6]])
    mask = torch.tensor([[0, 1, 1], [0, 1, 1], [1, 1, 1]])
    found = own_documents(torch.tensor([1, 2]), ids, mask)
    assert found.tolist() == [[True, True, False], [False, False, True]]
