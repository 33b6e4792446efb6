import gzip
import json
import os
from pathlib import Path

import pytest
from clara.data.readers import read_corpus, read_pretraining, read_questions, read_rows
from clara.data.records import PretrainingRecord
from clara.data.writers import write_parquet

SHARED = Path(os.environ.get("CLARA_SHARED", Path(__file__).parents[3] / "shared")) / "data"
QA = {"data_type": "qa", "question": ["q1", "q2"], "answers": ["a1", "a2"], "docs": ["d"]}
PARAPHRASE = {"data_type": "paraphrase", "question": "", "answers": ["p"], "docs": ["d"]}
OTHER = {"data_type": "qa", "question": ["q3"], "answers": ["a3"], "docs": ["e"]}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_rows_of_one_document_are_joined(tmp_path):
    again = {**QA, "question": ["q2", "q4"], "answers": ["b2", "a4"]}
    path = write(tmp_path / "a.jsonl", [QA, OTHER, PARAPHRASE, again])
    first, second = read_pretraining(path)
    assert first.questions == ("q1", "q2", "q4")
    assert first.answers == (("a1",), ("a2", "b2"), ("a4",))
    assert first.paraphrases == ("p",)
    assert second.document == "e"


def test_joining_only_neighbours_or_nothing(tmp_path):
    path = write(tmp_path / "a.jsonl", [QA, PARAPHRASE, OTHER, QA])
    assert [r.num_signals for r in read_pretraining(path, join="adjacent")] == [3, 1, 2]
    assert [r.num_signals for r in read_pretraining(path, join="none")] == [2, 1, 1, 2]
    with pytest.raises(ValueError, match="`join` must be one of all, adjacent, none, got 'some'"):
        read_pretraining(path, join="some")


def test_signals_join_across_files_and_folders(tmp_path):
    write(tmp_path / "a.jsonl", [QA])
    write(tmp_path / "b.jsonl", [PARAPHRASE])
    (only,) = read_pretraining(tmp_path)
    assert only.num_signals == 3
    (same,) = read_pretraining([tmp_path / "b.jsonl", str(tmp_path / "a.jsonl")])
    assert same.num_signals == 3


def test_unlabelled_text_is_read_for_reconstruction(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"id": 7, "text": "words", "title": "T"}])
    assert list(read_pretraining(path)) == [PretrainingRecord("T\nwords", id="7")]
    assert next(read_corpus(path)).document == "T\nwords"


@pytest.mark.parametrize(
    ("fields", "answers", "generated"),
    [
        ({"gold_answer": "gold", "answer": "teacher"}, ("gold",), "teacher"),
        ({"golden_answers": ["g1", "g2"], "answer": "g1"}, ("g1", "g2"), None),
        ({"answer": "only"}, ("only",), None),
        ({"answers": ["x", "y"]}, ("x", "y"), None),
    ],
)
def test_names_of_the_answer_fields(tmp_path, fields, answers, generated):
    path = write(tmp_path / "a.jsonl", [{"question": "q", "docs": ["d", "e"], "pos_index": [1], **fields}])
    (record,) = read_questions(path)
    assert (record.answers, record.generated, record.positives) == (answers, generated, (1,))


def test_long_document_gives_one_record_for_each_question(tmp_path):
    pairs = [{"question": "q1", "golden_answers": ["a"]}, {"question": "q2", "answer": "b"}]
    path = write(tmp_path / "a.jsonl", [{"id": "long", "document": "text", "qa": pairs}])
    first, second = read_questions(path)
    assert (first.id, second.id, second.documents, second.positives) == ("long-0", "long-1", ("text",), (0,))


@pytest.mark.parametrize(
    ("reader", "row", "message"),
    [
        (read_pretraining, {**QA, "docs": []}, r"`docs` \(or `documents`\) is missing or empty"),
        (read_pretraining, {**QA, "docs": ["d", "e"]}, "exactly one document in a pretraining row, got 2"),
        (read_pretraining, {**QA, "answers": []}, "`answers` is missing or empty"),
        (read_pretraining, {**QA, "answers": ["a1"]}, "got 2 questions and 1 answers"),
        (read_pretraining, {**QA, "data_type": "qqa"}, "must be 'qa' or 'paraphrase', got 'qqa'"),
        (
            read_questions,
            {"question": "q", "answer": "a", "docs": ["d"], "pos_index": [1]},
            "holds 1, but the row",
        ),
        (read_questions, {"question": "q", "docs": ["d"]}, "no answers: give `golden_answers`"),
        (read_questions, {"answer": "a", "docs": ["d"]}, "`question` must be a string, got NoneType"),
        (
            read_questions,
            {"question": "q", "answer": "a", "docs": "d", "pos_index": "zero"},
            "must hold integers",
        ),
        (read_corpus, {"id": "1"}, "`text` is missing"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(tmp_path, reader, row, message):
    good = {"id": "0", "text": "t"}
    if reader is not read_corpus:
        good = {"question": ["q"], "answers": ["a"], "docs": ["d"]}
    path = write(tmp_path / "rows.jsonl", [good, row])
    with pytest.raises(ValueError, match=message) as error:
        list(reader(path))
    assert str(error.value).startswith(f"{path}:2: ")


@pytest.mark.parametrize(
    ("text", "message"), [("{'a': 1}\n", "not valid JSON"), ("[1]\n", "must be a JSON object")]
)
def test_broken_lines_are_named(tmp_path, text, message):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n" + text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"rows.jsonl:2: {message}"):
        list(read_rows(path))


def test_compressed_and_parquet_files_read_like_jsonl(tmp_path):
    path = write(tmp_path / "a.jsonl", [QA, PARAPHRASE, OTHER])
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    records = list(read_pretraining(path))
    write_parquet(records, tmp_path / "c.parquet")
    assert list(read_pretraining(packed)) == records == list(read_pretraining(tmp_path / "c.parquet"))


def test_error_in_parquet_names_the_row(tmp_path):
    import pyarrow
    import pyarrow.parquet as parquet

    path = tmp_path / "bad.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"id": "1", "text": "t"}, {"id": "2", "text": ""}]), path)
    with pytest.raises(ValueError, match="bad.parquet:2: `text` is an empty"):
        list(read_corpus(path))


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_data_sets_are_read_by_name_and_configuration(monkeypatch, streaming):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(*args, **options):
        asked.append((*args, options))
        return [QA, {**PARAPHRASE, "extra": None}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (record,) = read_pretraining("apple/CLaRa_multi_stage:pretraining", split="dev", streaming=streaming)
    assert record.num_signals == 3
    expected = ("apple/CLaRa_multi_stage", "pretraining", {"split": "dev", "streaming": streaming})
    assert asked == [expected]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.jsonl", "does not exist"),
        ("notes.txt", "must be a .jsonl"),
        ([], "empty list"),
        ("a/b/c", "must be"),
    ],
)
def test_unknown_sources_are_refused_at_once(source, message):
    with pytest.raises(ValueError, match=message):
        read_rows(source)


def test_folder_without_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is a folder without"):
        read_corpus(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
def test_shared_data_reads_as_it_is():
    train, dev = SHARED / "train", SHARED / "dev"
    pretraining = [train / "pretraining_qa.jsonl", train / "pretraining_paraphrase.jsonl"]
    records = list(read_pretraining(pretraining))
    assert len(list(read_pretraining(pretraining, join="none"))) == 13_094 + 1_101
    assert len(records) == 13_891
    assert len(list(read_corpus(train / "corpus.jsonl"))) == 23_990
    counts = {(train, "nq"): 1655, (train, "hotpotqa"): 1430, (train, "2wiki"): 958, (dev, "musique"): 150}
    for (folder, name), count in counts.items():
        questions = list(read_questions(folder / f"{name}.jsonl"))
        assert len(questions) == count
        assert all(question.generated is None and question.positives for question in questions)
    assert len(list(read_questions(dev / "long_timeqa.jsonl"))) == 586
