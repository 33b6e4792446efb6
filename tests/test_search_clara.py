import pytest
import torch
from clara import search_clara
from clara.memory_clara import CorpusMemory
from clara.search_clara import _close_ones, default_block_size
from store_helpers import DTYPES, make_memory
from torch import tensor


def memory_of(rows, dtype=torch.float32):
    values = tensor(rows, dtype=torch.float32).unsqueeze(1).to(dtype)
    return CorpusMemory(values, [str(row) for row in range(len(rows))])


@pytest.mark.parametrize("dtype", DTYPES)
def test_cosines_by_hand(dtype):
    memory = memory_of([[3.0, 4.0], [0.0, -2.0], [8.0, 0.0], [0.0, 0.0]], dtype)
    scores, indices = memory.search(tensor([[[1.0, 0.0]], [[0.0, 5.0]]]), 4)
    assert indices.tolist() == [[2, 0, 1, 3], [0, 2, 3, 1]]
    assert scores[0].tolist() == pytest.approx([1.0, 0.6, 0.0, 0.0])
    assert scores[1].tolist() == pytest.approx([0.8, 0.0, 0.0, -1.0])
    assert scores.dtype == torch.float32 and indices.dtype == torch.int64


def test_memory_tokens_are_flattened():
    memory = CorpusMemory(tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]), ["a", "b"])
    scores, indices = memory.search(tensor([[[1.0, 0.0], [0.0, 0.0]]]), 2)
    assert indices.tolist() == [[0, 1]]
    assert scores[0].tolist() == pytest.approx([0.5**0.5, 0.0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", [1, 3, 10, 1000])
def test_same_as_a_plain_product(dtype, block_size):
    memory = make_memory(10, dtype=dtype)
    memory.append(make_memory(7, first=10, dtype=dtype))
    query = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1))
    normalize = torch.nn.functional.normalize
    expected = normalize(query.flatten(1)) @ normalize(memory[:].float().flatten(1)).T
    scores, indices = memory.search(query, 5, block_size=block_size)
    assert indices.tolist() == expected.topk(5).indices.tolist()
    assert torch.allclose(scores, expected.topk(5).values, atol=1e-6)


def test_equal_memories_come_in_the_order_of_their_indices():
    torch.manual_seed(0)
    first, second = torch.randn(2, 3, 37)
    order = [0, 1, 1, 0, 0, 1, 0, 1, 1, 0]
    memory = CorpusMemory(torch.stack([(first, second)[which] for which in order]), ["t"] * 10)
    for count in (1, 5):
        for block_size in (1, 3, 10):
            scores, indices = memory.search(first.expand(count, -1, -1), 10, block_size=block_size)
            assert indices.tolist() == [[0, 3, 4, 6, 9, 1, 2, 5, 7, 8]] * count
            assert len(set(scores[0].tolist())) == 2


def test_rounding_does_not_choose_among_equal_memories():
    torch.manual_seed(0)
    best = torch.randn(3, 37)
    for first in range(8):
        rows = torch.randn(40, 3, 37)
        equal = list(range(first, 40, 3))
        rows[equal] = best
        memory = CorpusMemory(rows, ["t"] * 40)
        for block_size in (7, 13, 40):
            assert memory.search(best.unsqueeze(0), 3, block_size=block_size)[1].tolist() == [equal[:3]]


def test_a_question_gets_the_same_alone_and_in_a_batch():
    memory = make_memory(300, shape=(3, 37))
    query = torch.randn(9, 3, 37, generator=torch.Generator().manual_seed(3))
    scores, indices = memory.search(query, 20)
    for row in range(9):
        alone = memory.search(query[row : row + 1], 20, block_size=11)
        assert torch.equal(alone[0][0], scores[row]) and torch.equal(alone[1][0], indices[row])


def test_large_and_small_values_keep_their_direction():
    memory = memory_of([[1e30, 1e30], [1e-30, 0.0], [0.0, 3.0]])
    scores, indices = memory.search(tensor([[[1e-25, 0.0]]]), 3)
    assert indices.tolist() == [[1, 0, 2]]
    assert scores[0].tolist() == pytest.approx([1.0, 0.5**0.5, 0.0])


def test_zero_query_scores_zero():
    scores, indices = make_memory(3).search(torch.zeros(1, 2, 4), 3)
    assert scores.tolist() == [[0.0, 0.0, 0.0]] and indices.tolist() == [[0, 1, 2]]


def test_result_does_not_hang_on_autocast():
    memory = make_memory(20)
    query = torch.randn(2, 2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = memory.search(query, 5)
    assert torch.equal(inside[0], memory.search(query, 5)[0])


def test_what_rounding_may_have_put_in_the_wrong_order_is_scored_again():
    """Of two questions' candidates, best first: all that lie within 1e-5 of the second best."""
    scores = torch.tensor([[0.9, 0.5, 0.499995, 0.4], [0.9, 0.8, 0.7, float("-inf")]])
    indices = torch.tensor([[7, 3, 1, 0], [2, 5, 6, -1]])
    assert _close_ones(scores, indices, 2).tolist() == [[7, 3, 1], [2, 5, -1]]
    assert _close_ones(scores[1:], indices[1:], 9).tolist() == [[2, 5, 6, -1]]


def test_reads_a_block_at_a_time(monkeypatch):
    memory, read, gathered = make_memory(100), [], []
    plain_read, plain_gather = memory._read, memory.gather
    monkeypatch.setattr(memory, "_read", lambda *rows: (read.append(rows), plain_read(*rows))[1])
    monkeypatch.setattr(memory, "gather", lambda rows: (gathered.append(len(rows)), plain_gather(rows))[1])
    memory.search(torch.ones(2, 2, 4), 3, block_size=30)
    assert read == [(0, 30), (30, 60), (60, 90), (90, 100)]
    assert gathered == [3]  # the best of both questions, once


def test_default_block_is_bounded():
    assert default_block_size(9216) == 455
    assert default_block_size(1) == 8192
    assert default_block_size(1 << 30) == 1


def test_norms_are_computed_once(monkeypatch):
    memory = make_memory(50)
    calls, plain = [], search_clara.row_norms
    monkeypatch.setattr(
        search_clara, "row_norms", lambda rows, places: (calls.append(len(rows)), plain(rows, places))[1]
    )
    first = memory.search(torch.ones(1, 2, 4), 3, block_size=20)
    assert calls == [20, 20, 10]
    again = memory.search(torch.ones(1, 2, 4), 3, block_size=20)
    assert calls == [20, 20, 10]
    assert torch.equal(first[0], again[0])
    memory.append(make_memory(5, first=50))
    memory.search(torch.ones(1, 2, 4), 3, block_size=50)
    assert calls == [20, 20, 10, 5]


@pytest.mark.parametrize("k", [0, -1, 6, True, 2.0, None])
def test_refuses_bad_k(k):
    with pytest.raises(ValueError, match="`retrieval_top_k` must be from 1 to the 5 passages"):
        make_memory(5).search(torch.ones(1, 2, 4), k)


@pytest.mark.parametrize("shape", [(1, 3, 4), (1, 2, 5), (2, 4), (1, 8), (0, 2, 4)])
def test_refuses_a_query_of_another_shape(shape):
    with pytest.raises(ValueError, match="M = 2 and H = 4"):
        make_memory().search(torch.ones(shape), 1)


def test_refuses_a_query_that_is_not_finite():
    with pytest.raises(ValueError, match="NaN"):
        make_memory().search(torch.full((1, 2, 4), float("nan")), 1)


def test_refuses_a_block_of_nothing():
    with pytest.raises(ValueError, match="`block_size`"):
        make_memory().search(torch.ones(1, 2, 4), 1, block_size=0)


def test_a_damaged_row_is_no_row_of_the_answer(tmp_path):
    make_memory(5).save_pretrained(tmp_path)
    path = next(tmp_path.glob("memory-*"))
    content = bytearray(path.read_bytes())
    content[512 + 3 * 32 : 512 + 3 * 32 + 4] = b"\x00\x00\xc0\x7f"
    path.write_bytes(content)
    memory = CorpusMemory.from_pretrained(tmp_path, verify=False)
    with pytest.raises(ValueError, match="was altered between bytes 0 and"):
        memory.search(torch.ones(1, 2, 4), 1)
