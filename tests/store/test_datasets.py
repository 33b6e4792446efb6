"""A store becomes a data set and is the same again; what is no such data set is refused."""

import pytest
import torch
from clara.store import CorpusStore
from clara.store.datasets import from_dataset, to_dataset
from datasets import concatenate_datasets
from memory_helpers import make_memory, same


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_store_comes_back_as_it_was(tmp_path, dtype):
    store = CorpusStore.open(tmp_path / "store", dtype=dtype)
    store.append(make_memory(5, width=128))
    dataset = to_dataset(store)
    assert dataset.num_rows == 5 and dataset[1]["id"] == store.document_ids[1]
    dataset.save_to_disk(tmp_path / "saved")
    back = from_dataset(type(dataset).load_from_disk(tmp_path / "saved"), tmp_path / "back")
    assert same(back, store) and back.dtype == dtype and back.fingerprint == store.fingerprint
    questions = torch.randn(3, 128)
    for expected, found in zip(store.search(questions, 4), back.search(questions, 4), strict=True):
        assert torch.equal(expected, found)


def test_rows_can_be_chosen_on_the_way(tmp_path):
    store = CorpusStore.open(tmp_path / "store")
    store.append(make_memory(5))
    back = from_dataset(to_dataset(store).select([3, 1]), tmp_path / "back")
    assert list(back.document_ids) == [store.document_ids[3], store.document_ids[1]]
    assert torch.equal(back.gather([0])[0], store.gather([3])[0])


def test_what_is_no_such_data_set_is_refused(tmp_path):
    store = CorpusStore.open(tmp_path / "store")
    with pytest.raises(ValueError, match="holds nothing yet"):
        to_dataset(store)
    store.append(make_memory(2))
    dataset = to_dataset(store)
    with pytest.raises(ValueError, match=r"lacks the columns \['vector'\]"):
        from_dataset(dataset.remove_columns("vector"), tmp_path / "back")
    other = dataset.remove_columns("made_by").add_column("made_by", ["{}", "{}"])
    with pytest.raises(ValueError, match="of one compressor, got those of 2"):
        from_dataset(concatenate_datasets([dataset, other]), tmp_path / "back")
    with pytest.raises(ValueError, match="of one compressor, got those of 0"):
        from_dataset(dataset.select([]), tmp_path / "back")
