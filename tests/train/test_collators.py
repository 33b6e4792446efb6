"""The collator of each stage as the configuration says."""

import pickle

import pytest
from clara.data.collation import InstructionCollator, PretrainingCollator
from clara.train.collators import RowCollator, make_collator
from clara.train.memories import EndToEndCollator
from training_helpers import PRETRAINING, QUESTION_ROWS, make_args


def test_each_stage_has_its_own(model, tmp_path):
    args = make_args(
        tmp_path, signals={"answer": 0.5}, max_answers=2, target_max_length=9, seed=7, compression_rates=[32]
    )
    collator = make_collator(model, args, PRETRAINING)
    assert type(collator) is PretrainingCollator and collator.signals == {"answer": 0.5}
    assert (collator.max_answers, collator.target_max_length, collator.seed) == (2, 9, 7)
    assert collator.rate_factors == (2,)
    collator = make_collator(model, make_args(tmp_path, "instruction_tuning"), QUESTION_ROWS)
    assert type(collator) is InstructionCollator and collator.documents_per_question == 2


@pytest.mark.parametrize("named", [True, False])
def test_end_to_end_stores_the_candidates(model, tmp_path, named):
    folder = tmp_path / "elsewhere" if named else tmp_path / "run" / "memory"
    fields = {"memory_folder": str(folder) if named else None, "pool_size": 5}
    args = make_args(tmp_path / "run", "end_to_end", **fields)
    collator = make_collator(model, args, QUESTION_ROWS)
    assert type(collator) is EndToEndCollator and len(collator.candidates.texts) == 6
    assert (folder / "candidates.safetensors").is_file() and collator.retrieval_top_k == 5


def test_batches_and_errors_name_their_rows(model, tmp_path):
    from clara.data.collation import Item

    collator = RowCollator(make_collator(model, make_args(tmp_path), PRETRAINING))
    items = [Item(5, 0, PRETRAINING[5]), Item(2, 0, PRETRAINING[2])]
    assert collator(items)["rows"].tolist() == [5, 2]
    collator.collator.processor.prompt_max_length = 10
    with pytest.raises(ValueError, match=r"The batch of the rows \[5, 2\]: `prompts\[0\]` has"):
        collator(items)


def test_workers_can_be_sent_the_collator():
    assert pickle.loads(pickle.dumps(RowCollator(len))).collator is len
