"""Exact search with numbers by hand, scores combined, filters, words."""

import pytest
import torch
from clara.retrieval_clara import check_search, mean_vectors, nearest, row_blocks
from clara.store.ranking import WordIndex, check_where, combined


def test_means_by_hand():
    values = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]])
    assert mean_vectors(values, torch.tensor([0, 2, 3])).tolist() == [[2.0, 1.0], [5.0, 5.0]]


def test_the_nearest_by_cosine_and_the_first_of_equals():
    vectors = torch.tensor([[0.0, 2.0], [3.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    query = torch.tensor([[1.0, 0.0]])
    scores, indices = nearest(query, row_blocks(vectors, vectors.norm(dim=1)), 3)
    assert indices.tolist() == [[1, 2, 0]] and scores.tolist() == [[1.0, 1.0, 0.0]]


def test_cosines_and_words_are_added_on_one_scale():
    """Cosines from the lowest to the highest, words from 0 to the highest; what one lacks is 0 there."""
    found = combined(([7, 8, 5], [0.9, 0.6, 0.5]), ([8, 9], [4.0, 3.0]), 0.4)
    assert list(found) == [7, 8, 9, 5]
    assert found == pytest.approx({7: 0.6, 8: 0.6 * 0.25 + 0.4, 9: 0.4 * 0.75, 5: 0.0})
    assert list(combined(([7, 8], [0.9, 0.6]), ([8], [4.0]), 0.5)) == [7, 8]  # equal: the nearer one first
    assert combined(([3], [-0.2]), ([], []), 0.5) == {3: 0.5}  # one passage, no scale
    assert combined(([], []), ([2], [1.5]), 0.5) == {2: 0.5}


def test_filters_are_checked():
    with pytest.raises((ValueError, TypeError), match="where"):
        check_where({"year": {"~": 1}})


def test_a_search_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"`vectors` must be \(B, 4\)"):
        check_search(torch.ones(1, 3), 1, 5, 4)
    with pytest.raises(ValueError, match="got 6"):
        check_search(torch.ones(1, 4), 6, 5, 4)


def test_words_of_one_letter_count():
    pytest.importorskip("bm25s")
    index = WordIndex(["vitamin c", "vitamin d", "nothing"])
    scores = next(index.scores(["what is vitamin d"]))
    assert scores.argmax() == 1 and scores[2] == 0
