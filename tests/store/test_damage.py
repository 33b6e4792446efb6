import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clara.memory_clara import CorpusMemory
from clara.store import CorpusStore
from memory_helpers import flip, make_memory, same

WIDE = 576


@pytest.fixture
def store(tmp_path):
    made = CorpusStore.open(tmp_path / "s")
    made.append(make_memory(6, width=WIDE))
    return made


def data_file(store):
    [path] = Path(store.uri, "data").iterdir()
    return path


def place_of(path, content):
    found = path.read_bytes().find(content)
    assert found > 0
    return found


def test_a_flipped_bit_of_a_memory_is_refused(store):
    memory = store.gather([4])[0].numpy().tobytes()
    flip(data_file(store), place_of(data_file(store), memory) + 100)
    with pytest.raises(ValueError, match="passage 'd4' in .* was altered"):
        CorpusStore.open(store.uri).gather([4])
    assert torch.equal(CorpusStore.open(store.uri).gather([3])[0], make_memory(6, width=WIDE).gather([3])[0])


def test_a_flipped_bit_of_a_vector_is_refused(store):
    vector = store._vectors.at(store._places.addresses(torch.tensor([2]).numpy())).tobytes()
    flip(data_file(store), place_of(data_file(store), vector) + 700)
    with pytest.raises(ValueError, match="passage 'd2' in .* was altered"):
        CorpusStore.open(store.uri).gather([1, 2])


@pytest.mark.parametrize("name", ["text", "id", "metadata_json", "parent", "order"])
def test_a_row_that_was_changed_is_refused(store, name):
    version = store.version
    store._dataset.update({name: "7" if name == "order" else "'forged'"}, where="id = 'd5'")
    fresh = CorpusStore.open(store.uri)
    with pytest.raises(ValueError, match="was altered"):
        fresh.gather([5])
    assert len(fresh.gather(range(5))) == 5
    assert same(CorpusStore.open(store.uri, version=version), make_memory(6, width=WIDE))


@pytest.mark.parametrize("offset", range(-40, 0))
@pytest.mark.parametrize("bit", [1, 64])
def test_the_end_of_a_file_asks_for_no_memory(store, offset, bit):
    path = data_file(store)
    content = bytearray(path.read_bytes())
    content[offset] ^= bit
    path.write_bytes(content)
    # the first number is bounded only, the version of the format is for Lance to check
    if offset < -32 or -8 <= offset < -4:
        try:
            assert same(CorpusStore.open(store.uri), make_memory(6, width=WIDE))
        except (ValueError, OSError):
            return
    else:
        with pytest.raises(ValueError, match="was altered or cut short"):
            CorpusStore.open(store.uri)


def test_a_file_that_is_missing_or_short_is_told(store):
    path = data_file(store)
    content = path.read_bytes()
    for short in (content[:-1], content[:30], b""):
        path.write_bytes(short)
        with pytest.raises(ValueError, match="was altered or cut short"):
            CorpusStore.open(store.uri)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        CorpusStore.open(store.uri)


def test_rows_without_a_value_are_refused(store):
    store._dataset.update({"text": "cast(null as string)"}, where="id = 'd5'")
    fresh = CorpusStore.open(store.uri)
    with pytest.raises(ValueError, match="was altered"):
        fresh.gather([5])
    for read in (lambda: fresh.texts[5], lambda: list(fresh.texts)):
        with pytest.raises(ValueError, match="`text` is missing"):
            read()
    assert fresh.texts[2] == "text 2"


@pytest.mark.slow
def test_flipped_bits_anywhere_are_refused_or_right(tmp_path):
    store = CorpusStore.open(tmp_path / "s")
    store.append(make_memory(6, width=WIDE))
    expected = make_memory(6, width=WIDE)
    refused = 0
    files = [path for path in sorted(Path(store.uri).rglob("*")) if path.is_file() and path.name[0] != "."]
    for path in files:
        size = path.stat().st_size
        for offset in range(0, size, max(1, size // 25)):
            flip(path, offset)
            try:
                seen = CorpusStore.open(store.uri, create=False)
                rows = seen.gather(range(len(seen)))
                texts = list(seen.texts)
                assert len(seen) == 6 and all(map(torch.equal, rows, expected.gather(range(6))))
                assert texts == expected.texts
            except (ValueError, OSError):
                refused += 1
            flip(path, offset)
    assert refused > 10
    assert same(CorpusStore.open(store.uri), expected)


FULL = """
import resource, sys
sys.path.insert(0, {tests!r})
from memory_helpers import make_memory
from clara.store import CorpusStore
store = CorpusStore.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for change in (store.append, store.upsert):
    try:
        change(make_memory(200, first=100, width=576))
    except OSError as error:
        print("told:", error)
memory = make_memory(200, width=576)
try:
    memory.save_pretrained(sys.argv[2])
except Exception as error:
    print("told:", error)
"""


def test_no_room_is_an_error_and_loses_nothing(store, tmp_path):
    make_memory(3).save_pretrained(tmp_path / "plain")
    code = FULL.format(tests=str(Path(__file__).parent.parent))
    command = [sys.executable, "-c", code, store.uri, str(tmp_path / "plain")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("told:") == 3 and f"The store {store.uri} cannot be" in done.stdout
    fresh = CorpusStore.open(store.uri)
    assert same(fresh, make_memory(6, width=WIDE))
    assert same(CorpusMemory.from_pretrained(tmp_path / "plain"), make_memory(3))
    fresh.append(make_memory(1, first=99, width=WIDE))
    assert len(list(Path(store.uri, "data").iterdir())) == 2 and len(fresh) == 7
