"""The plan of a build of three parts; shared by the tests of builds."""

from clara.store.build import BuildPlan, encode_fields
from clara.store.schema import empty_fields, merge_fields
from memory_helpers import make_memory

FIELDS = merge_fields(empty_fields(), make_memory(1).metadata)


def plan(parts=3, **changes):
    fields = {
        "parts": parts,
        "fingerprint": "f",
        "base": {"name": "tiny", "revision": None},
        "dtype": "float32",
    }
    sizes = {
        "hidden_size": 8,
        "width": 8,
        "fields": encode_fields(FIELDS),
        "source": {"files": ["a"], "batch": 4},
    }
    return BuildPlan(**{**fields, **sizes, **changes})


def part(number):
    """Part `number` of three, in two memories of 3 and 2 passages."""
    return [make_memory(3, first=5 * number), make_memory(2, first=5 * number + 3)]
