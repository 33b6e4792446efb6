"""`clara evaluate` on a tiny checkpoint: files, continuation, errors."""

import argparse
import json

import pytest
from clara.commands import evaluate
from clara.evaluation.language_models import ClaraModel
from clara.modeling_clara import ClaraForRetrievalGeneration
from conftest import DOCUMENTS, QUESTIONS

ANSWERS = ["1890", "Christiaan Huygens", "Leipzig"]
POSITIVES = [0, 2, 1]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [
        json.dumps({"question": q, "golden_answers": [a], "docs": DOCUMENTS[:3], "pos_index": [p]})
        for q, a, p in zip(QUESTIONS, ANSWERS, POSITIVES, strict=True)
    ]
    other = {
        "question": "where is the sea",
        "golden_answers": ["Rotterdam"],
        "docs": DOCUMENTS[3:],
        "pos_index": [1],
    }
    path.write_text("\n".join([*lines, json.dumps(other)]) + "\n")
    return path


def run(checkpoint, rows, output, *extra):
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    words = ["--benchmark", "nq", "--file", str(rows), "--model", checkpoint, "--output", str(output)]
    words += ["--retrieval-top-k", "2", "--max-new-tokens", "4", "--device", "cpu", *extra]
    evaluate.run(parser.parse_args(words))


def test_writes_predictions_tables_and_plots(checkpoint, rows, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    output = tmp_path / "out"
    systems = "clara,clara_shuffled,closed_book,text,cut"
    run(checkpoint, rows, output, "--systems", systems, "--setting", "oracle", "--pool-size", "3")
    assert "| clara |" in capsys.readouterr().out
    report = json.loads((output / "report.json").read_text())
    assert list(report["systems"]) == systems.split(",")
    assert report["questions"] == 4
    model = ClaraForRetrievalGeneration.from_pretrained(checkpoint)
    assert report["model"] == ClaraModel(model).fingerprint() and report["source"] == "rows.jsonl"
    assert (output / "report.md").is_file()
    assert (output / "tokens.png").is_file()
    assert (output / "bytes.png").is_file()
    files = {path: path.read_bytes() for path in (output / "predictions").iterdir()}
    assert sorted(path.stem for path in files) == sorted(systems.split(","))

    run(checkpoint, rows, output, "--systems", systems, "--setting", "oracle", "--pool-size", "3")
    assert files == {path: path.read_bytes() for path in (output / "predictions").iterdir()}
    with pytest.raises(ValueError, match="another run .it differs in questions, setting"):
        run(checkpoint, rows, output, "--systems", systems, "--pool-size", "3")


def test_only_the_search_is_measured(checkpoint, rows, tmp_path, capsys):
    pytest.importorskip("bm25s")
    both, searched = tmp_path / "both", tmp_path / "searched"
    systems = ("--systems", "clara,text_bm25")
    run(checkpoint, rows, both, *systems)
    run(checkpoint, rows, searched, *systems, "--search-only")
    whole, found = (json.loads((folder / "report.json").read_text()) for folder in (both, searched))
    for name in ("clara", "text_bm25"):
        metrics = found["systems"][name]["metrics"]
        assert metrics.items() <= whole["systems"][name]["metrics"].items()
        assert {"recall@1", "mrr"} <= metrics.keys() and "exact_match" not in metrics
    assert [row["metric"] for row in found["comparisons"]] == ["recall@1"]
    assert not list(searched.glob("*.png"))
    with pytest.raises(ValueError, match="it differs in search_only"):
        run(checkpoint, rows, searched, *systems)


def test_unknown_names_fail_before_any_work(checkpoint, rows, tmp_path):
    with pytest.raises(ValueError, match="`--systems` must be one of clara"):
        run(checkpoint, rows, tmp_path / "out", "--systems", "clara,gpt")
    assert not (tmp_path / "out").exists()


def test_another_text_model(base, checkpoint, rows, tmp_path):
    pytest.importorskip("matplotlib")
    run(checkpoint, rows, tmp_path / "a", "--systems", "text")
    run(checkpoint, rows, tmp_path / "b", "--systems", "text", "--text-model", base)
    first, second = (
        (tmp_path / name / "predictions" / "text.jsonl").read_text().splitlines()[1:] for name in ("a", "b")
    )
    assert first == second  # the same base, loaded as a model of its own


def test_a_tuned_model_makes_systems_of_its_own(base, checkpoint, rows, tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="needs `--tuned-model`"):
        run(checkpoint, rows, tmp_path / "a", "--systems", "text,tuned")
    run(checkpoint, rows, tmp_path / "b", "--systems", "text,tuned", "--tuned-model", base)
    first, second = (
        (tmp_path / "b" / "predictions" / f"{name}.jsonl").read_text().splitlines()[1:]
        for name in ("text", "tuned")
    )
    assert first == second  # the same base, as if it had been tuned


def test_all_systems_are_those_that_can_be_made():
    arguments = argparse.Namespace(systems="all", tuned_model=None)
    names = evaluate.system_names(arguments)
    assert "text_dense_corpus" in names and not any(name.startswith("tuned") for name in names)
    arguments.tuned_model = "somewhere"
    assert set(evaluate.system_names(arguments)) - set(names) == {
        "tuned",
        "tuned_clara",
        "tuned_bm25",
        "tuned_dense",
    }


def test_a_stored_corpus_joins_the_documents(checkpoint, rows, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    texts = [DOCUMENTS[0], "A ninth text about nothing.", "A tenth text about less."]
    ClaraForRetrievalGeneration.from_pretrained(checkpoint).build_memory(texts).save_pretrained(
        tmp_path / "store"
    )
    compressed = []
    compress = ClaraForRetrievalGeneration.compress_texts

    def noted(self, texts, *args, **kwargs):
        compressed.extend(texts)
        return compress(self, texts, *args, **kwargs)

    monkeypatch.setattr(ClaraForRetrievalGeneration, "compress_texts", noted)
    words = ["--systems", "clara,clara_corpus", "--corpus", str(tmp_path / "store")]
    run(checkpoint, rows, tmp_path / "out", *words, "--retrieval-top-k", "8")
    assert sorted(compressed) == sorted(DOCUMENTS[1:])
    files = [tmp_path / "out" / "predictions" / f"{name}.jsonl" for name in ("clara", "clara_corpus")]
    rows_of = [file.read_text().splitlines()[1:] for file in files]
    documents = [{d for line in lines for d in json.loads(line)["documents"]} for lines in rows_of]
    added = {len(DOCUMENTS), len(DOCUMENTS) + 1}
    assert not documents[0] & added and documents[1] & added
    with pytest.raises(ValueError, match="another run .it differs in questions"):
        run(checkpoint, rows, tmp_path / "out", "--systems", "clara", "--retrieval-top-k", "8")


def test_the_whole_corpus_in_milvus(checkpoint, rows, tmp_path, capsys):
    pytest.importorskip("milvus_lite")
    pytest.importorskip("matplotlib")
    systems = ["--systems", "clara_corpus"]
    run(checkpoint, rows, tmp_path / "here", *systems)
    run(checkpoint, rows, tmp_path / "there", *systems, "--milvus", str(tmp_path / "vectors.db"))
    files = [tmp_path / name / "predictions" / "clara_corpus.jsonl" for name in ("here", "there")]
    here, there = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    assert there[0]["settings"]["back_end"] == "another" and "back_end" not in here[0]["settings"]
    for one, other in zip(here[1:], there[1:], strict=True):
        assert one.pop("scores") == pytest.approx(other.pop("scores"), abs=1e-3)
        assert one == other
    with pytest.raises(ValueError, match="`--milvus` needs a system that searches there: .*clara_corpus"):
        run(checkpoint, rows, tmp_path / "out", "--systems", "clara", "--milvus", str(tmp_path / "b.db"))
