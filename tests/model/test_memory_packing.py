"""Formats of memories: what packing keeps, and what it refuses."""

import pytest
import torch
from clara.memory_clara import file_digest
from clara.processing_clara import check_unique
from clara.retrieval_clara import format_name, pack, unpack


@pytest.mark.parametrize(("dtype", "steps"), [("int8", 127), ("int4", 7)])
def test_packed_values_are_off_by_half_a_step_at_most(dtype, steps):
    values = torch.randn(9, 128)
    groups = values.unflatten(-1, (-1, 64))
    step = (groups.abs().amax(-1) / steps).to(torch.bfloat16).float().unsqueeze(-1)
    kept = unpack(pack(values, dtype), dtype).unflatten(-1, (-1, 64))
    inside = groups.abs() <= steps * step  # the scale is rounded to bfloat16, so the largest may be clipped
    assert ((kept - groups).abs() <= 0.5001 * step)[inside].all()
    assert ((kept - groups).abs() <= 0.05 * groups.abs().amax(-1, keepdim=True) + step).all()


def test_bytes_of_the_formats():
    values = torch.randn(4, 128)
    sizes = {name: sum(part.nbytes for part in pack(values, name).values()) for name in ("int8", "int4")}
    assert sizes == {"int8": 4 * (128 + 2 * 2), "int4": 4 * (64 + 2 * 2)}


def test_floats_come_back_as_they_are():
    values = torch.randn(3, 8).bfloat16()
    assert torch.equal(unpack(pack(values, "bfloat16"), "bfloat16"), values)


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`dtype` must be one of float32.*got torch.float64"):
        format_name(torch.float64)
    with pytest.raises(ValueError, match=r"`values\[1\]` holds NaN"):
        pack(torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]), "int8")
    with pytest.raises(ValueError, match="odd: use int8"):
        pack(torch.ones(1, 3), "int4")
    with pytest.raises(ValueError, match=r"`ids` must be unique, got 'a' 2 times, first at \[0, 2\]"):
        check_unique("ids", ["a", "b", "a"])


def test_a_files_digest_sees_every_byte(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 2_000_000)
    (tmp_path / "b").write_bytes(b"x" * 1_999_999 + b"y")
    assert file_digest(tmp_path / "a") != file_digest(tmp_path / "b")
