import pytest
import torch
from clara.formats_clara import (
    FORMATS,
    check_memory,
    format_name,
    memory_bytes,
    pack,
    parts_of,
    read_dtype,
    unpack,
)
from torch import tensor


def test_int8_by_hand():
    memory = tensor([[[127.0, -63.4, 0.6, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    values, scale = pack(memory, "int8")
    assert values.tolist() == [[[127, -63, 1, 0], [0, 0, 0, 0]]] and scale.tolist() == [[[1.0], [0.0]]]
    assert unpack((values, scale), "int8").tolist() == [[[127.0, -63.0, 1.0, 0.0], [0.0] * 4]]


def test_int4_by_hand():
    values, scale = pack(tensor([[[7.0, -3.4, 0.6, -7.0]]]), "int4")
    assert scale.tolist() == [[[1.0]]]
    assert values.tolist() == [[[(7 + 8) | (-3 + 8) << 4, (1 + 8) | (-7 + 8) << 4]]]
    assert unpack((values, scale), "int4").tolist() == [[[7.0, -3.0, 1.0, -7.0]]]


@pytest.mark.parametrize(("dtype", "packed"), [("int8", 128), ("int4", 64)])
def test_each_group_has_a_scale(dtype, packed):
    memory = torch.cat([torch.full((1, 1, 64), 0.5), torch.full((1, 1, 64), 700.0)], -1)
    values, scale = pack(memory, dtype)
    assert values.shape == (1, 1, packed) and scale.shape == (1, 1, 2)
    assert torch.allclose(unpack((values, scale), dtype), memory, rtol=0.005)
    assert pack(torch.ones(1, 1, 96), dtype)[1].shape == (1, 1, 3)


@pytest.mark.parametrize(("dtype", "most"), [("int8", 127), ("int4", 7)])
def test_the_error_is_half_a_step_of_the_group_at_most(dtype, most):
    generator = torch.Generator().manual_seed(0)
    memory = torch.randn(500, 3, 128, generator=generator) * torch.logspace(-20, 20, 500).view(-1, 1, 1)
    error = (unpack(pack(memory, dtype), dtype) - memory).unflatten(-1, (2, 64)).abs().amax(-1)
    step = memory.unflatten(-1, (2, 64)).abs().amax(-1) / most
    rounding = 2**-8  # of the scale, to bfloat16
    assert (error <= step * (0.5 * (1 + rounding) + 1e-5)).all()


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_packing_again_changes_nothing_but_the_last_bit(dtype):
    memory = unpack(pack(torch.randn(20, 3, 64), dtype), dtype)
    torch.testing.assert_close(unpack(pack(memory, dtype), dtype), memory, rtol=0.01, atol=0)


@pytest.mark.parametrize("dtype", FORMATS)
def test_parts_are_what_is_packed(dtype):
    parts = pack(torch.randn(3, 2, 96), dtype)
    assert [tuple(part.shape[1:]) for part in parts] == [part.shape for part in parts_of(dtype, (2, 96))]
    size = sum(part.numel() * part.element_size() for part in parts)
    assert size == 3 * memory_bytes(dtype, (2, 96))
    assert unpack(parts, dtype).dtype == read_dtype(dtype)


def test_bytes_by_hand():
    shape = (16, 576)
    expected = {"float32": 36864, "float16": 18432, "bfloat16": 18432, "int8": 9216 + 288, "int4": 4608 + 288}
    assert {name: memory_bytes(name, shape) for name in FORMATS} == expected


def test_int4_needs_an_even_width():
    with pytest.raises(ValueError, match="width 3 is odd: use int8"):
        memory_bytes("int4", (2, 3))


def test_names():
    assert [format_name(name) for name in FORMATS] == list(FORMATS)
    assert format_name(torch.bfloat16) == "bfloat16"
    for dtype in ("int3", "", torch.float64, torch.int8, None, 8):
        with pytest.raises(ValueError, match="`dtype` must be one of float32, float16, bfloat16, int8, int4"):
            format_name(dtype)


def test_values_too_large_for_float16_are_refused():
    with pytest.raises(ValueError, match=r"`memory\[1\]` holds NaN or an infinity"):
        pack(tensor([[[1.0]], [[1e6]]]), "float16")


def test_check_memory_names_the_first_bad_row():
    memory = torch.zeros(3000, 1, 2)
    memory[2500, 0, 1] = -float("inf")
    memory[2900] = float("nan")
    with pytest.raises(ValueError, match=r"`memory\[2500\]`"):
        check_memory(memory)
