import pytest
from clara.data.readers import read_corpus, read_pretraining, read_questions
from clara.data.records import CorpusRecord, PretrainingRecord, QuestionRecord
from clara.data.writers import write_jsonl, write_parquet

CASES = [
    (
        read_pretraining,
        [
            PretrainingRecord("Ä\nd", ["q1", "q2"], [["a", "b"], ["c"]], ["p1", "p2"], id="1"),
            PretrainingRecord("e", paraphrases=["p"]),
        ],
        3,
    ),
    (
        read_questions,
        [QuestionRecord("q", ["a"], ["d", "e"], [1], "teacher"), QuestionRecord("r", ["b"], ["d"])],
        2,
    ),
    (read_corpus, [CorpusRecord("1", "text", "title"), CorpusRecord("2", "more")], 2),
]


@pytest.mark.parametrize(("read", "records", "rows"), CASES)
@pytest.mark.parametrize(("write", "name"), [(write_jsonl, "a/b.jsonl"), (write_parquet, "a/b.parquet")])
def test_round_trip(tmp_path, read, records, rows, write, name):
    assert write(records, tmp_path / name) == rows
    assert list(read(tmp_path / name)) == records


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.jsonl"
    write_jsonl([CorpusRecord("1", "old")], path)
    with pytest.raises(TypeError, match="must be one of PretrainingRecord, .*, got str"):
        write_jsonl([CorpusRecord("2", "new"), "not a record"], path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]
    assert [record.text for record in read_corpus(path)] == ["old"]


def test_empty_parquet_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`records` is empty"):
        write_parquet([], tmp_path / "a.parquet")
