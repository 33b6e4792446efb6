"""The grammar of filters by hand, what it refuses, and the same filter for Milvus."""

import pytest
from clara.filters_clara import check_where, passes, to_expression, with_columns

BRIDGE = {"year": 1890, "language": "en", "open": True, "length": 2.5, "note": None}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"year": 1890}, True),
        ({"year": 1890.0}, True),
        ({"year": 1891}, False),
        ({"year": "1890"}, False),
        ({"open": True}, True),
        ({"open": 1}, False),
        ({"language": ["de", "en"]}, True),
        ({"language": ("de", "fr")}, False),
        ({"language": {"!=": "de"}}, True),
        ({"language": {"!=": "en"}}, False),
        ({"missing": {"!=": "en"}}, False),
        ({"note": {"!=": "en"}}, False),
        ({"year": {">=": 1890, "<": 1900}}, True),
        ({"year": {">": 1890}}, False),
        ({"year": {"<=": 1890}}, True),
        ({"year": {"<": "2000"}}, False),
        ({"language": {">": "de", "<": "fr"}}, True),
        ({"year": 1890, "language": "de"}, False),
        ({"year": 1890, "language": "en", "length": {"<": 3}}, True),
        (lambda fields: fields["length"] > 2, True),
        (lambda fields: fields["length"] > 3, False),
    ],
)
def test_grammar(where, expected):
    check_where(where)
    assert passes(where, BRIDGE) is expected


def test_columns_are_fields_above_metadata():
    fields = with_columns('{"parent": "from metadata", "year": 7}', "bridge#1", "bridge")
    assert passes({"parent": "bridge", "document_id": ["bridge#1"], "year": 7}, fields)
    assert not passes({"parent": "from metadata"}, fields)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({}, "`where` must map"),
        ([("year", 1)], "`where` must map"),
        ({1: 2}, "names of fields as keys, got 1"),
        ({"": 2}, "names of fields as keys"),
        ({"year": {"$gt": 1}}, r"`where\['year'\]` must compare with >, >=, <, <=, !=, got '\$gt'"),
        ({"year": {}}, "must compare with"),
        ({"year": []}, "empty list"),
        ({"year": None}, "must hold strings, numbers, True or False, got None"),
        ({"year": float("nan")}, "got nan"),
        ({"year": [1, [2]]}, r"got \[2\]"),
        ({"year": {"<": [1]}}, r"got \[1\]"),
    ],
)
def test_refuses_what_is_no_filter(where, message):
    with pytest.raises(ValueError, match=message):
        check_where(where)


def test_expression_for_milvus():
    where = {"parent": "a", "year": {">=": 1890, "<": 1900}, 'odd "name"': ["x", 'y"z'], "open": True}
    assert to_expression(where) == (
        'parent == "a" and metadata["year"] >= 1890 and metadata["year"] < 1900 and '
        '(metadata["odd \\"name\\""] == "x" or metadata["odd \\"name\\""] == "y\\"z") '
        'and metadata["open"] == true'
    )
    with pytest.raises(TypeError, match="a callable cannot run inside Milvus"):
        to_expression(lambda fields: True)
