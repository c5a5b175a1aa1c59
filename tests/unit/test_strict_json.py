"""JSON read strictly."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.strict_json import MAX_DEPTH, NotStrictJsonError, read_object, write

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(text, children, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(text, json_values, max_size=5), st.booleans())
def test_what_is_written_is_read_back_exactly(value, ascii_only):
    assert read_object(write(value)) == value
    assert read_object(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary(max_size=200))
def test_any_bytes_give_an_object_or_the_one_error(raw):
    with contextlib.suppress(NotStrictJsonError):
        assert isinstance(read_object(raw), dict)


@pytest.mark.parametrize("levels", [1, MAX_DEPTH - 1])
def test_nesting_is_read_down_to_the_limit(levels):
    assert read_object(b'{"a":' + b"[" * levels + b"]" * levels + b"}")
    assert read_object(b'{"a":' * levels + b"{}" + b"}" * levels)


@pytest.mark.parametrize("levels", [MAX_DEPTH, 500, 100_000])
def test_nesting_below_the_limit_is_refused(levels):
    with pytest.raises(NotStrictJsonError, match="nested deeper"):
        read_object(b'{"a":' + b"[" * levels + b"]" * levels + b"}")


def test_brackets_in_strings_and_side_by_side_are_no_nesting():
    assert read_object(b'{"a":"' + b"[{" * 200 + b'"}')
    assert read_object(b'{"a":[' + b"[]," * 200 + b"[]]}")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":1}',
        b'{"x":[{"a":1,"a":2}]}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":"\\u0000"}',
        b'{"a\\u0000":1}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\udc00\\ud800"}',
        b'{"a":["x",{"\\ud800":1}]}',
        b'{"a":"\x00"}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":-1e999}',
        b'{"a":' + b"9" * 4001 + b"}",
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":"\xff"}',
        '{"a":1}'.encode("utf-16"),
        b"[]",
        b"1",
        b"null",
        b"",
        b'{"a":1} x',
        b"{'a':1}",
        b'{"a":01}',
        b'{"a":1,}',
    ],
)
def test_what_is_not_strict_json_is_refused(raw):
    with pytest.raises(NotStrictJsonError):
        read_object(raw)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"a":"\\ud83d\\ude00"}', "\U0001f600"),
        (b'{"a":' + b"9" * 4000 + b"}", int("9" * 4000)),
        (b'{"a":-' + b"9" * 4000 + b"}", -int("9" * 4000)),
        (b'{"a":1.0}', 1.0),
        (b'{"a":1e-999}', 0.0),
        (b' {"a":null}\n', None),
    ],
)
def test_what_is_strict_is_kept_exactly(raw, value):
    assert read_object(raw) == {"a": value}
    assert read_object(write({"a": value})) == {"a": value}
