"""Tests of commands/: the command line as a user types it, on tiny models."""

import argparse
import gc
import json
import logging
import subprocess
import sys
import time

import pytest
import torch
from clara.commands import demo, display
from clara.commands.main import find_commands, main
from clara.commands.models import UNTRAINED, load_model, quiet_libraries
from clara.commands.search_options import open_memory
from clara.memory_clara import CorpusMemory
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.store import CorpusStore
from conftest import make_model

CORPUS = [
    {"id": "titan", "title": "Titan", "text": "The largest moon of Saturn.", "kind": "moon"},
    {"id": "basalt", "text": "A dark volcanic rock."},
    {"text": "The Rhine rises in the Alps."},
]


@pytest.fixture
def files(tmp_path):
    """Documents of three kinds in one folder."""
    folder = tmp_path / "files"
    folder.mkdir()
    rows = "".join(json.dumps(row) + "\n" for row in CORPUS)
    (folder / "rows.jsonl").write_text(rows, encoding="utf-8")
    (folder / "note.md").write_text("# Ada\nAda Lovelace wrote notes in 1843.", encoding="utf-8")
    (folder / "note.txt").write_text("word " * 200, encoding="utf-8")
    return folder


@pytest.fixture
def store(files, tmp_path, checkpoint):
    """A corpus memory that the command line built."""
    output = tmp_path / "store"
    assert main(["build-memory", str(files), "--output", str(output), "--model", checkpoint]) == 0
    return output


def test_help_loads_neither_torch_nor_transformers():
    code = (
        "import sys\nfrom clara.commands.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'transformers', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "demo" in done.stdout and "build-memory" in done.stdout and "ask" in done.stdout


def test_every_command_can_be_found_and_says_what_it_does():
    commands = find_commands()
    assert {"demo", "build-memory", "ask"} <= set(commands)
    assert not {"main", "models", "display"} & set(commands)
    for module in commands.values():
        assert callable(module.run)
        assert module.__doc__.splitlines()[0].endswith(".")


def test_user_errors_are_one_line_and_debug_shows_them(tmp_path, capsys):
    words = ["build-memory", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"clara build-memory: {tmp_path / 'nowhere'} does not exist.\n"
    with pytest.raises(FileNotFoundError):
        main([*words, "--debug"])


def test_no_garbage_is_looked_for_while_a_model_loads(checkpoint, monkeypatch):
    load, seen = ClaraForRetrievalGeneration.from_pretrained, []
    monkeypatch.setattr(
        ClaraForRetrievalGeneration,
        "from_pretrained",
        lambda *words, **options: seen.append(gc.isenabled()) or load(*words, **options),
    )
    load_model(checkpoint)
    assert seen == [False] and gc.isenabled()
    with pytest.raises(FileNotFoundError):
        load_model("./nowhere")
    assert gc.isenabled()


def test_kernels_of_other_libraries_are_quiet_in_workers_too():
    logger = logging.getLogger("bitsandbytes")
    logger.setLevel(logging.NOTSET)
    quiet_libraries()
    assert logger.level == logging.ERROR


def test_interrupt_ends_with_130(monkeypatch, capsys):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupt)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "clara demo: interrupted\n"


def test_build_memory_stores_every_document_with_its_metadata(store, checkpoint):
    model, trained = load_model(checkpoint)
    memory = open_memory(model, str(store))
    assert trained
    parents = list(dict.fromkeys(memory.parents))
    assert parents == ["note.md", "note.txt", "titan", "basalt", "rows.jsonl:3"]
    assert sum(parent == "note.txt" for parent in memory.parents) > 1
    titan = list(memory.document_ids).index("titan")
    assert memory.texts[titan] == "Titan\nThe largest moon of Saturn."
    assert memory.metadata[titan] == {"title": "Titan", "kind": "moon"}
    expected = model.build_memory(["A dark volcanic rock."], show_progress=False).gather([0])[0]
    found = memory.gather([list(memory.document_ids).index("basalt")])[0]
    assert (found - expected).abs().max() < 1e-4
    assert memory.search(torch.ones(1, expected.shape[1]), 1, where="kind = 'moon'")[1].tolist() == [[titan]]


def test_build_memory_takes_a_dtype_and_counts(files, tmp_path, checkpoint, capfd):
    output = str(tmp_path / "half")
    words = ["build-memory", str(files / "rows.jsonl"), "--output", output, "--model", checkpoint]
    assert main([*words, "--dtype", "bfloat16", "--batch-size", "1"]) == 0
    captured = capfd.readouterr()
    assert captured.out == f"3 documents (3 passages) are in {output}.\n"
    assert "3/3" in captured.err and " passages/s" in captured.err
    assert "WARN" not in captured.err  # of Lance
    assert CorpusStore.open(output).dtype == "bfloat16"


def test_build_memory_says_how_large_the_store_would_be(files, tmp_path, checkpoint, capsys):
    words = [
        "build-memory",
        str(files),
        "--output",
        str(tmp_path / "dry"),
        "--model",
        checkpoint,
        "--dry-run",
    ]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "5 documents" in shown and "1 parts of 4,096" in " ".join(shown.split())
    assert all(name in shown for name in ("bfloat16", "int8", "int4", "search vectors", "their index"))
    assert not (tmp_path / "dry").exists()


def test_build_memory_in_parts(files, store, tmp_path, checkpoint):
    words = ["build-memory", str(files), "--output", str(tmp_path / "parts"), "--model", checkpoint]
    assert main([*words, "--shard-size", "2", "--workers", "1", "--dtype", "int8"]) == 0
    memory, expected = CorpusStore.open(tmp_path / "parts"), CorpusStore.open(store)
    assert len(memory._dataset.get_fragments()) == 3 and memory.dtype == "int8"
    assert memory.document_ids == expected.document_ids and memory.texts == expected.texts
    for found, wanted in zip(
        memory.gather(range(len(memory))), expected.gather(range(len(memory))), strict=True
    ):
        assert (found - wanted).abs().max() < 0.02 * wanted.abs().max()


@pytest.mark.slow
def test_the_log_of_the_workers_stays_off_the_terminal(files, tmp_path, checkpoint):
    words = ["build-memory", str(files), "--output", str(tmp_path / "two"), "--model", checkpoint]
    command = [sys.executable, "-m", "clara", *words, "--shard-size", "2", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "5/5" in done.stderr
    assert not [word for word in ("INFO", "SUCCESS", "fork-safe", "datatrove") if word in done.stderr]
    assert len(CorpusStore.open(tmp_path / "two")._dataset.get_fragments()) == 3


@pytest.mark.parametrize("option", ["--batch-size", "--workers", "--shard-size", "--threads", "--tasks"])
def test_build_memory_refuses_numbers_below_one(files, tmp_path, checkpoint, capsys, option):
    words = ["build-memory", str(files), "--output", str(tmp_path / "a"), "--model", checkpoint, option, "0"]
    assert main(words) == 2
    assert f"`{option}` must be at least 1, got 0" in capsys.readouterr().err


def test_build_memory_keeps_the_store_that_is_there(store, files, checkpoint, capsys):
    before = {file: file.read_bytes() for file in store.rglob("*") if file.is_file()}
    assert main(["build-memory", str(files), "--output", str(store), "--model", checkpoint]) == 2
    assert "holds a stored corpus memory already" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in store.rglob("*") if file.is_file()} == before


def test_build_memory_goes_on_where_it_stopped(files, tmp_path, checkpoint, capsys, monkeypatch):
    from clara.data.bulk import build

    words = ["build-memory", str(files), "--output", str(tmp_path / "s"), "--model", checkpoint]
    words += ["--shard-size", "2", "--workers", "1"]
    plain, parts = build.memories, []

    def stopping(builder, plan, part, model):
        parts.append(part)
        if len(parts) == 2:
            raise KeyboardInterrupt
        return plain(builder, plan, part, model)

    monkeypatch.setattr(build, "memories", stopping)
    assert main(words) == 130
    assert main([*words, "--dtype", "int8"]) == 2
    assert "was begun with another dtype" in capsys.readouterr().err
    rows = files / "rows.jsonl"
    text = rows.read_text()
    rows.write_text(text.replace("dark", "DARK"))
    assert main(words) == 2
    assert "was begun with another source, source corpus" in capsys.readouterr().err
    rows.write_text(text)
    assert main(words) == 0
    assert parts == [0, 1, 1, 2] and len(set(CorpusStore.open(tmp_path / "s").parents)) == 5


@pytest.mark.parametrize("bad", ["", '{"id": "titan", "text": "again"}', "not json"])
def test_build_memory_leaves_nothing_of_a_bad_corpus(files, tmp_path, checkpoint, capsys, bad):
    rows = files / "rows.jsonl"
    rows.write_text("" if not bad else rows.read_text() + bad + "\n", encoding="utf-8")
    output = tmp_path / "store"
    words = ["build-memory", str(rows), "--output", str(output), "--model", checkpoint, "--batch-size", "1"]
    assert main(words) == 2
    assert len(capsys.readouterr().err.strip().splitlines()[-1]) > 30
    assert not output.exists()


@pytest.mark.parametrize("reading", ["each", "together"])
def test_ask_shows_the_answer_and_its_sources(store, checkpoint, capsys, reading):
    words = ["ask", str(store), "Which moon is large?", "--model", checkpoint]
    words += ["--retrieval-top-k", "2", "--max-new-tokens", "5"]
    words += ["--reading", reading]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    model, _ = load_model(checkpoint)
    memory = open_memory(model, str(store))
    options = {"retrieval_top_k": 2, "max_new_tokens": 5, "reading": reading, "return_dict_in_generate": True}
    expected = model.generate("Which moon is large?", memory, **options)
    assert found["answer"] == expected.answers
    assert [item["id"] for item in found["documents"]] == expected.document_ids
    assert [item["score"] for item in found["documents"]] == pytest.approx(expected.scores.tolist())
    assert [item["text"] for item in found["documents"]] == [
        memory.texts[index] for index in expected.indices
    ]
    assert main(words) == 0
    shown = capsys.readouterr().out
    written = model.processor.tokenizer.decode(expected.sequences[0], skip_special_tokens=True)
    assert shown.startswith(written)
    assert all(document_id in shown for document_id in expected.document_ids)


def test_ask_refuses_the_memory_of_another_model(store, base, capsys):
    assert main(["ask", str(store), "Which moon?", "--model", base]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("clara ask: ") and "another compressor or base" in last


def test_demo_shows_and_writes_what_it_measured(checkpoint, tmp_path, capsys):
    words = ["demo", "--model", checkpoint, "--questions", "2", "--max-new-tokens", "3"]
    output, file = tmp_path / "memory", tmp_path / "demo.json"
    assert main([*words, "--output", str(output), "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    report = json.loads(file.read_text(encoding="utf-8"))
    assert UNTRAINED[:20] not in shown
    assert report["model"]["trained"] is True
    assert report["store"]["documents"] == 106
    assert report["store"]["passages"] == len(CorpusMemory.from_pretrained(output))
    assert len(report["questions"]) == report["summary"]["questions"] == 2
    for row in report["questions"]:
        assert row["question"][:30] in shown
        assert len(row["documents"]) == 5
        assert row["memory_tokens"] == 5 * 4
        assert row["text_tokens"] > row["memory_tokens"]
        assert row["answer_seconds"] > 0


def test_demo_says_that_adapters_are_untrained(base, tmp_path, capsys):
    file = tmp_path / "demo.json"
    words = ["demo", "--model", base, "--questions", "1", "--max-new-tokens", "1", "--json", str(file)]
    assert main([*words, "--compression-rate", "64", "--retrieval-top-k", "3"]) == 0
    assert "UNTRAINED" in capsys.readouterr().out
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["model"]["trained"] is False
    assert report["model"]["num_memory_tokens"] == 4
    assert report["questions"][0]["memory_tokens"] == 3 * 4


@pytest.mark.parametrize("count", ["0", "91"])
def test_demo_names_a_wrong_number_of_questions(count, capsys):
    assert main(["demo", "--questions", count]) == 2
    assert f"must be between 1 and 90, got {count}" in capsys.readouterr().err


def test_compression_rate_of_a_checkpoint_is_its_own(checkpoint):
    with pytest.raises(ValueError, match=r"`--compression-rate` 8 .*trained at 16"):
        load_model(checkpoint, compression_rate=8)
    assert load_model(checkpoint, compression_rate=16)[0].config.compression_rate == 16


def test_a_checkpoint_of_means_is_read_at_any_rate(base, tmp_path):
    make_model(base, pooling="mean").save_pretrained(tmp_path)
    model, _ = load_model(str(tmp_path), compression_rate=4)
    tokens = int(model.processor.encode_documents(["A text."])["attention_mask"].sum())
    memory = model.build_memory(["A text."], show_progress=False)
    assert tokens > 4 and len(memory.gather([0])[0]) == -(-tokens // 4)
    assert model.processor.num_memory_tokens == model.config.doc_max_length // 4


@pytest.mark.parametrize("name", ["/nowhere/model", "./model", "runs/first/model"])
def test_model_folder_must_exist(name):
    with pytest.raises(FileNotFoundError, match=f"`--model` {name} is not a folder"):
        load_model(name)


def test_questions_are_spread_and_carry_the_ids_of_their_positives():
    rows = demo.read_questions(90)
    assert [row["question"] for row in demo.read_questions(3)] == [rows[i]["question"] for i in (0, 30, 60)]
    assert rows[0]["positives"] == ["golden-gate-bridge"]


def test_summary_by_hand():
    base = {"documents": [{}, {}], "text_tokens": 100, "memory_tokens": 10, "search_seconds": 1.0}
    rows = [
        {**base, "recall": 1.0, "contains_gold": True, "answer_seconds": 2.0},
        {**base, "recall": 0.5, "contains_gold": False, "answer_seconds": 4.0, "text_tokens": 300},
    ]
    summary = demo.summarize(rows, passages=20)
    assert summary["recall"] == 0.75
    assert summary["recall_by_chance"] == 0.1
    assert summary["contains_gold"] == 0.5
    assert (summary["text_tokens"], summary["memory_tokens"], summary["answer_seconds"]) == (200, 10, 3.0)


def test_right_documents_are_marked(capsys):
    documents = [{"id": "a", "score": 0.5, "positive": True}, {"id": "b", "score": 0.25, "positive": False}]
    display.console.print(display.documents_table(documents))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if "0." in line] == [["✓", "0.500", "a"], ["✗", "0.250", "b"]]


def test_sources_keep_score_and_id_beside_long_texts(capsys):
    documents = [{"id": "files/note.txt#1", "score": 0.5, "text": "Some words " * 100}]
    display.show_sources({"documents": documents, "seconds": 1.25})
    shown = capsys.readouterr().out
    assert "0.500" in shown and "files/note.txt#1" in shown and "Some words Some" in shown
    assert "1.25 s for search and answer" in shown


@pytest.mark.slow
def test_killed_build_leaves_no_store_that_loads(checkpoint, tmp_path):
    rows, output = tmp_path / "rows.jsonl", tmp_path / "store"
    rows.write_text("".join(json.dumps({"text": f"Document number {n}."}) + "\n" for n in range(20_000)))
    words = ["build-memory", str(rows), "--output", str(output), "--model", checkpoint, "--batch-size", "8"]
    words += ["--shard-size", "10000"]
    code = f"from clara.commands.main import main; main({words!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(file.stat().st_size for file in output.glob("_build/progress-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    sizes = None
    while sizes != (sizes := [file.stat().st_size for file in output.glob("_build/progress-*")]):
        time.sleep(2)
    assert not list(output.glob("_build/part-*.json")), "workers outlived the build that was killed"
    assert CorpusStore.open(output).version == 0
    rows.write_text(json.dumps({"text": "One document."}) + "\n")
    assert main(words) == 2
    assert main([*words, "--restart"]) == 0
    assert len(CorpusStore.open(output)) == 1
    assert not list(output.glob("_build*")) and len(list(output.glob("data/*"))) == 1


def test_untrained_models_are_the_same_each_time(base):
    first, second = (load_model(base)[0] for _ in range(2))
    assert first.memory_fingerprint() == second.memory_fingerprint()


def test_arguments_of_every_command_parse():
    for name, module in find_commands().items():
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        given = [action.dest for action in parser._actions if action.required or action.option_strings]
        assert set(given) > {"help"} and len(given) == len(set(given)), name
