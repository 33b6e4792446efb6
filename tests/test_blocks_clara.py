import io
import zlib

import numpy as np
import pytest
from clara.blocks_clara import BLOCK_BYTES, BlockChecksums, CheckedBytes, map_file, write_checked

CONTENT = np.random.default_rng(0).integers(0, 256, 3 * BLOCK_BYTES + 100).astype(np.uint8).tobytes()
SUMS = [zlib.crc32(CONTENT[start : start + BLOCK_BYTES]) for start in range(0, len(CONTENT), BLOCK_BYTES)]


@pytest.mark.parametrize("size", [1000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, len(CONTENT)])
def test_checksums_do_not_depend_on_the_pieces(size):
    checksums, file = BlockChecksums(), io.BytesIO()
    for start in range(0, len(CONTENT), size):
        write_checked(file, CONTENT[start : start + size], checksums)
    assert file.getvalue() == CONTENT and checksums.values().tolist() == SUMS
    assert BlockChecksums().values().tolist() == []


def altered(*places):
    content = np.frombuffer(CONTENT, np.uint8).copy()
    content[list(places)] ^= 1
    return CheckedBytes(content, np.array(SUMS, np.uint32), "it")


def test_only_blocks_that_are_asked_for_are_checked():
    content = altered(2 * BLOCK_BYTES)
    content.check_range(0, 2 * BLOCK_BYTES)
    content.check_range(3 * BLOCK_BYTES, len(CONTENT))
    content.check_range(2 * BLOCK_BYTES, 2 * BLOCK_BYTES)
    content.check_ranges(np.array([0, BLOCK_BYTES - 5, 3 * BLOCK_BYTES]), 100)
    for check in (
        lambda: content.check_range(0, len(CONTENT)),
        lambda: content.check_range(2 * BLOCK_BYTES - 1, 2 * BLOCK_BYTES + 1),
        lambda: content.check_ranges(np.array([0, 2 * BLOCK_BYTES - 1]), 2),
        lambda: content.check_ranges(np.array([10]), 3 * BLOCK_BYTES),
    ):
        with pytest.raises(ValueError, match=f"it was altered between bytes {2 * BLOCK_BYTES} and"):
            check()


def test_the_last_short_block_counts():
    with pytest.raises(ValueError, match="altered"):
        altered(len(CONTENT) - 1).check_ranges(np.array([3 * BLOCK_BYTES]), 1)


def test_a_block_is_checked_once(monkeypatch):
    content, calls, plain = altered(), [], zlib.crc32
    monkeypatch.setattr(zlib, "crc32", lambda *given: (calls.append(1), plain(*given))[1])
    content.check_range(0, BLOCK_BYTES + 1)
    assert len(calls) == 2
    content.check_ranges(np.array([5, BLOCK_BYTES]), 7)
    assert len(calls) == 2
    content.trust()
    content.check_range(0, len(CONTENT))
    assert len(calls) == 2


def test_a_mapped_file_outlives_its_name(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    content = map_file(tmp_path / "a")
    (tmp_path / "a").unlink()
    assert content.tobytes() == CONTENT
    with pytest.raises(ValueError):
        content[0] = 1
