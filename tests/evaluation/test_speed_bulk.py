"""Bulk building measured: the ways are built, their rows compared, failures told."""

import json
import threading

import pytest
import torch
from clara.commands.main import main
from clara.data.bulk import build as build_module
from clara.data.bulk.plan import survey
from clara.evaluation.speed import bulk
from clara.evaluation.speed.bulk import Variant, bench_bulk, build_once, variants
from clara.memory_clara import CorpusMemory
from clara.store import CorpusStore
from conftest import DOCUMENTS
from test_bulk_build import Model, make_plan
from test_bulk_plan import write


class Threaded(Model):
    """A model whose memories depend on the number of threads, as sums of floats may."""

    def compress_passages(self, *arguments, **options):
        plain = super().compress_passages(*arguments, **options)
        values = plain.values + torch.get_num_threads()
        columns = (plain.texts, plain.document_ids, plain.metadata, plain.parents, plain.orders)
        return CorpusMemory(values, *columns, fingerprint="f", base=plain.base, offsets=plain.offsets)


class Failing(Model):
    def compress_passages(self, *arguments, **options):
        raise ValueError("no memory today")


class Worker(threading.Thread):
    """A thread that looks like a process."""

    exitcode = 0

    def run(self):
        try:
            super().run()
        except BaseException:
            self.exitcode = 1


class Threads:
    """What is asked of a context of multiprocessing."""

    Barrier = threading.Barrier
    Process = Worker


def cannot_open():
    raise ValueError("no model today")


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Ten documents in four parts; threads stand in for processes, which start more slowly."""
    monkeypatch.setattr(bulk.multiprocessing, "get_context", lambda _: Threads)
    build_module._opened.cache_clear()
    (tmp_path / "rows").mkdir()
    return make_plan(survey([write(tmp_path / "rows", 4, 6)], 3))


def test_names():
    assert [way.name for way in variants(3)] == [
        "1 process of 1 thread",
        "3 processes of 1 thread",
        "1 process of 3 threads",
    ]


def test_all_three_ways(plan, tmp_path):
    section = bench_bulk(plan, Model, tmp_path / "stores", repeats=2)
    names = [way.name for way in variants(2)]
    assert [line.name for line in section.lines] == names
    assert all(len(line.seconds) == 2 and min(line.seconds) > 0 for line in section.lines)
    assert [(ratio.name, ratio.needed) for ratio in section.ratios] == [
        (f"{names[0]} / {names[1]}", 1.7),
        (f"{names[2]} / {names[1]}", None),
    ]
    rounds = [one / two for one, two in zip(section.lines[0].seconds, section.lines[1].seconds, strict=True)]
    assert section.ratios[0].minimum == min(rounds) and section.ratios[0].maximum == max(rounds)
    assert section.facts["passages"] == 10
    assert section.facts[f"same rows as {names[0]}"] == {names[1]: True, names[2]: True}
    assert min(section.facts["seconds of starting and clearing up, not counted"].values()) > 0
    assert not list((tmp_path / "stores").glob("*x*"))


def test_other_rows_are_seen(plan, tmp_path):
    same = bench_bulk(plan, Threaded, tmp_path / "stores", repeats=1).facts
    assert same["same rows as 1 process of 1 thread"] == {
        "2 processes of 1 thread": True,
        "1 process of 2 threads": False,
    }


def test_the_store_is_whole_and_built_by_so_many_processes(plan, tmp_path):
    def open_model():
        (tmp_path / f"opened-{threading.get_ident()}").touch()
        return Model()

    built = build_once(tmp_path / "store", plan, Variant(2, 1), open_model)
    memory = CorpusStore.open(tmp_path / "store", fingerprint="f")
    assert built.passages == len(memory) == 10 and len(memory.gather(range(10))) == 10
    assert list(memory.document_ids) == [f"d{row}" for row in range(10)]
    assert len(list(tmp_path.glob("opened-*"))) == 2
    again = build_once(tmp_path / "again", plan, Variant(1, 1), Model)
    assert again.digest == built.digest


@pytest.mark.parametrize(
    ("model", "message"), [(Failing, "failed"), (cannot_open, "could not open the model")]
)
def test_failures_are_told(plan, tmp_path, model, message):
    with pytest.raises(RuntimeError, match=message):
        build_once(tmp_path / "store", plan, Variant(2, 1), model)


@pytest.mark.parametrize("processes", [1, 5])
def test_refuses_processes_that_compare_nothing(plan, tmp_path, processes):
    with pytest.raises(ValueError, match=f"from 2 to the 4 parts of the plan, got {processes}"):
        bench_bulk(plan, Model, tmp_path, processes)


def test_random_weights_are_refused(capsys):
    assert main(["bench", "build", "--random-weights"]) == 2
    assert "`build` opens one model in many processes" in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_user_types_it(checkpoint, tmp_path, monkeypatch, capsys):
    from clara.evaluation.speed import roofline

    plain = roofline.measure_roof
    monkeypatch.setattr(roofline, "measure_roof", lambda device, dtype: plain(device, dtype, 32))
    file = tmp_path / "documents.jsonl"
    rows = [{"id": f"d{row}", "text": text} for row, text in enumerate(DOCUMENTS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["bench", "build", "--model", checkpoint, "--device", "cpu", "--repeats", "1"]
    assert main([*words, "--documents", str(file), "--output", str(tmp_path / "out")]) == 0
    assert "1 process of 1 thread / 2 processes of 1 thread" in capsys.readouterr().out
    section = json.loads((tmp_path / "out" / "bench.json").read_text())["sections"][0]
    assert section["facts"]["passages"] == 6
    assert section["facts"]["same rows as 1 process of 1 thread"]["2 processes of 1 thread"] is True
