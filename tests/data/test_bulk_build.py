"""Bulk builds from files: parts, resumption, faults."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from clara.data.bulk import build as build_module
from clara.data.bulk.build import build_parts, chunks, count_done
from clara.data.bulk.plan import survey
from clara.memory_clara import CorpusMemory
from clara.store import CorpusStore
from clara.store.build import BuildPlan, StoreBuild
from memory_helpers import same
from test_bulk_plan import write

BASE = {"name": "tiny", "revision": None}


class Model:
    """Stands in for a model: a memory is made of the text's length and its bytes."""

    processor = SimpleNamespace(split_documents=lambda texts, headers: [[text] for text in texts])
    seen = []

    def memory_fingerprint(self):
        return "f"

    def compress_passages(self, passages, batch_size, dtype, tick):
        self.seen.extend(passages.texts)
        for start in range(0, len(passages.texts), batch_size):
            tick(len(passages.texts[start : start + batch_size]))
        rows = [[len(text), *text.encode()[:7]] for text in passages.texts]
        names = ("texts", "document_ids", "metadata", "parents", "orders")
        columns = [getattr(passages, name) for name in names]
        values = torch.tensor(rows).float().repeat_interleave(2, 0)
        offsets = torch.arange(0, len(values) + 1, 2)
        return CorpusMemory(values, *columns, fingerprint="f", base=BASE, dtype=dtype, offsets=offsets)


def make_plan(corpus, **changes):
    source = {"corpus": asdict(corpus), "batch_size": 1, "threads": 1, "device": "cpu", **changes}
    return BuildPlan(len(corpus.starts), "f", BASE, "float32", 8, 8, corpus.fields, source)


@pytest.fixture(autouse=True)
def fresh():
    build_module._opened.cache_clear()
    Model.seen.clear()


@pytest.fixture
def corpus(tmp_path):
    """Ten documents in four parts."""
    (tmp_path / "rows").mkdir()
    return survey([write(tmp_path / "rows", 4, 6)], 3)


def begun(folder, corpus, **changes):
    build = StoreBuild(folder)
    build.begin(make_plan(corpus, **changes))
    return build


def test_parts_in_any_order_make_the_same_store(corpus, tmp_path):
    one, two = begun(tmp_path / "one", corpus), begun(tmp_path / "two", corpus)
    build_parts(one.uri, range(4), Model)
    for parts in ([3, 1], [2], [0]):
        build_parts(two.uri, parts, Model)
    first, second = one.commit(), two.commit()
    assert same(first, second) and list(first.document_ids) == [f"d{row}" for row in range(10)]
    assert first.base == BASE and [len(part) for part in first.gather(range(10))] == [2] * 10
    assert first.search(torch.ones(1, 8), 10, where="n = 3")[1].shape == (1, 2)


def test_finished_parts_are_not_built_again(corpus, tmp_path):
    build = begun(tmp_path / "s", corpus)
    assert count_done(build) == count_done(StoreBuild(tmp_path / "none")) == (0, 0)
    build_parts(build.uri, [1, 3], Model)
    assert build.waiting() == [0, 2] and count_done(build) == (3 + 1, 3 + 1)
    Model.seen.clear()
    build_parts(build.uri, range(4), Model)
    assert len(Model.seen) == 6 and count_done(build) == (10, 10)
    build_parts(build.uri, range(4), lambda: pytest.fail("opened a model for nothing"))


def test_progress_counts_documents_of_an_unfinished_part(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "BATCHES_PER_CHUNK", 1)
    build, calls = begun(tmp_path / "s", corpus), []

    class Stopping(Model):
        def compress_passages(self, *arguments, **options):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return super().compress_passages(*arguments, **options)

    with pytest.raises(KeyboardInterrupt):
        build_parts(build.uri, [0], Stopping)
    assert count_done(build) == (2, 2) and not build.is_done(0)
    build_module._opened.cache_clear()
    build_parts(build.uri, range(4), Model)
    assert len(build.commit()) == 10


def test_a_progress_that_is_not_written_yet_counts_nothing(corpus, tmp_path):
    build = begun(tmp_path / "s", corpus)
    for text, expected in (("", (0, 0)), ("3", (0, 0)), ("3 6", (3, 6))):
        build_module._progress(build, 0).write_text(text)
        assert count_done(build) == expected


def test_progress_moves_with_every_batch_of_a_chunk(corpus, tmp_path):
    build, seen = begun(tmp_path / "s", corpus), []

    class Watching(Model):
        processor = SimpleNamespace(split_documents=lambda texts, headers: [[text] * 2 for text in texts])

        def compress_passages(self, passages, batch_size, dtype, tick):
            def noted(count):
                tick(count)
                seen.append(count_done(build))

            return super().compress_passages(passages, batch_size, dtype, noted)

    build_parts(build.uri, [0], Watching)
    assert seen == [(0, 1), (1, 2), (1, 3), (2, 4), (2, 5), (3, 6)] and count_done(build) == (3, 6)


def test_another_model_is_refused(corpus, tmp_path):
    class Other(Model):
        def memory_fingerprint(self):
            return "g"

    build = begun(tmp_path / "s", corpus)
    with pytest.raises(ValueError, match="not the one with which the build was begun"):
        build_parts(build.uri, range(4), Other)


def test_an_edited_file_stops_the_build_that_goes_on(corpus, tmp_path):
    build = begun(tmp_path / "s", corpus)
    build_parts(build.uri, [0], Model)
    file = tmp_path / "rows" / "file0.jsonl"
    file.write_text(file.read_text().replace('"n": 0', '"n": 9'))
    with pytest.raises(ValueError, match="another source, source corpus"):
        build.begin(make_plan(survey([tmp_path / "rows"], 3)))
    assert CorpusStore.open(build.uri).version == 0


def test_threads_are_those_of_the_plan_and_then_as_before(corpus, tmp_path, monkeypatch):
    before, seen = torch.get_num_threads(), []

    class Watching(Model):
        def compress_passages(self, *arguments, **options):
            seen.append(torch.get_num_threads())
            return super().compress_passages(*arguments, **options)

    build_parts(begun(tmp_path / "s", corpus, threads=3).uri, [3], Watching)
    assert seen == [3] and torch.get_num_threads() == before


def test_chunks():
    assert list(chunks(range(5), 2)) == [[0, 1], [2, 3], [4]]
