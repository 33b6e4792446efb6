"""Writers that are killed with signal 9 at any moment: nothing acknowledged is lost, the next one goes on."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from build_helpers import part, plan
from clara.store import CorpusStore
from clara.store.build import StoreBuild
from clara.store.writing import AT_WORK
from memory_helpers import make_memory

TRIALS = 10
WRITER = """
import sys
sys.path.insert(0, {tests!r})
from datetime import timedelta
from memory_helpers import make_memory
from clara.store import CorpusStore
from clara.store.build import StoreBuild
from build_helpers import plan, part
folder, change = sys.argv[1:3]
def append(store, round):
    store.append(make_memory(40, first=1000 + 40 * round))
def upsert(store, round):
    store.upsert(make_memory(2, first=2 * (round % 20), metadata=[{{"round": round}}] * 2))
def delete(store, round):
    store.delete([f"d{{round}}"])
def optimize(store, round):
    store.append(make_memory(3, first=1000 + 3 * round))
    store.optimize(keep_versions=timedelta(0))
def index(store, round):
    store.build_index(num_partitions=4)
if change == "build":
    build = StoreBuild(folder)
    build.begin(plan())
    print("ready", flush=True)
    for number in range(3):
        build.write(number, part(number))
        print(number, flush=True)
    build.commit()
    print("done", flush=True)
else:
    store = CorpusStore.open(folder)
    print("ready", flush=True)
    for round in range(1000):
        globals()[change](store, round)
        print(round, flush=True)
"""


def killed(folder, change, seconds):
    """What a writer acknowledged before it was killed, a while after it began."""
    code = WRITER.format(tests=str(Path(__file__).parent.parent))
    command = [sys.executable, "-c", code, str(folder), change]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout.readline() == "ready\n"
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        said = child.stdout.read().split()
        child.wait()
    assert child.returncode == -signal.SIGKILL or said[-1] == "done"
    return said


def whole(store):
    """Checks every row of a store by its checksum, and its words and vectors by a search."""
    assert len(store.gather(range(len(store)))) == len(store)
    vectors = make_memory(300).vectors[:1]
    assert store.search(vectors, 1, ["text"], hybrid=True, exact=True)[1].shape == (1, 1)


def after_append(store, done):
    rounds, rest = divmod(len(store) - 300, 40)
    assert rest == 0 and rounds in (done, done + 1)
    store.append(make_memory(1, first=99_999))


def after_upsert(store, done):
    assert sorted(store.document_ids) == sorted(f"d{name}" for name in range(300))
    rounds = {row["round"] for row in store.metadata if "round" in row}
    assert rounds in (set(range(max(0, done - 20), done)), set(range(max(0, done - 19), done + 1)))
    store.upsert(make_memory(2))


def after_delete(store, done):
    assert len(store) in (300 - done, 300 - done - 1) and store.document_ids[-1] == "d299"
    store.delete(["d299"])


def after_optimize(store, done):
    rounds, rest = divmod(len(store) - 300, 3)
    assert rest == 0 and rounds in (done, done + 1)
    store.optimize()


def after_index(store, done):
    assert len(store) == 300
    store.search(make_memory(300).vectors[:1], 1)
    store.build_index(num_partitions=4)
    assert store.search(make_memory(300).vectors[:1], 1, exact=False)[1].shape == (1, 1)


AFTER = {
    "append": after_append,
    "upsert": after_upsert,
    "delete": after_delete,
    "optimize": after_optimize,
    "index": after_index,
}


def leftovers(store):
    """Files of data and deletions that no version of the store names."""
    named = set()
    for entry in store.versions():
        dataset = CorpusStore.open(store.uri, version=entry["version"])._dataset
        for fragment in dataset.get_fragments():
            named |= {Path(file.path).name for file in fragment.data_files()}
    return {path.name for path in Path(store.uri, "data").iterdir()} - named


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(TRIALS))
@pytest.mark.parametrize("change", AFTER)
def test_a_killed_writer_loses_nothing(tmp_path, change, trial):
    store = CorpusStore.open(tmp_path / "s")
    store.append(make_memory(300))
    wait = random.Random(f"{change}{trial}").uniform(0.0, 0.6)
    said = killed(tmp_path / "s", change, wait)
    fresh = CorpusStore.open(tmp_path / "s")
    whole(fresh)
    AFTER[change](fresh, len(said))
    fresh = CorpusStore.open(tmp_path / "s")
    whole(fresh)
    assert not (tmp_path / "s" / AT_WORK).exists() and not leftovers(fresh)


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(TRIALS))
def test_a_killed_build_goes_on(tmp_path, trial):
    said = killed(tmp_path / "s", "build", random.Random(trial).uniform(0.0, 0.4))
    build = StoreBuild(tmp_path / "s")
    if "done" not in said:
        if build.begun:
            build.begin(plan())
            assert len(build.waiting()) <= 3 - len(said)
            for number in build.waiting():
                build.write(number, part(number))
            build.commit()
        else:
            assert len(said) == 3
    store = CorpusStore.open(tmp_path / "s")
    assert list(store.document_ids) == [f"d{name}" for name in range(15)] and not build.begun
    whole(store)
    store.append(make_memory(1, first=99))
    assert not leftovers(store)
