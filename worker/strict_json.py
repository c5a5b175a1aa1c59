"""JSON read strictly: what RFC 8259 leaves open, or parsers disagree on, is refused (contract, Commands)."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic_core import to_json

MAX_DEPTH: Final = 64
MAX_INTEGER_DIGITS: Final = 4000


class NotStrictJsonError(ValueError):
    """The bytes are not a strict JSON object. The text says why and never repeats a value."""


def read_object(raw: bytes, *, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Read one JSON object whose nesting is at most `max_depth`, the object itself being level 1.

    Integers are kept exactly up to 4,000 digits, other numbers are IEEE 754 doubles. Raise NotStrictJsonError for
    anything else: not UTF-8, a BOM, NaN, a number beyond that, a member twice, U+0000 or half a surrogate pair.
    """
    value = _parse(raw)
    if not isinstance(value, dict):
        is_text = isinstance(value, str)
        raise NotStrictJsonError(f"The value is not a JSON object{_TEXT_HINT if is_text else ''}.")
    if raw.count(b"{") + raw.count(b"[") > max_depth and _depth(value) > max_depth:
        raise NotStrictJsonError(f"The value is nested deeper than {MAX_DEPTH} levels.")
    # U+0000 and surrogates can only come in as escapes: raw ones break JSON's and UTF-8's own rules
    if rb"\u" in raw:
        _refuse_bad_characters(value)
    return value


def write(value: object) -> bytes:
    """Write compact JSON in UTF-8, of what `read_object` gives, which has neither infinities nor NaN."""
    return to_json(value)


def _parse(raw: bytes) -> Any:
    try:
        text = raw.decode("utf-8")
        if text.startswith("{"):  # as a rule there is no space around the object, and looking for it takes a while
            value, end = _DECODER.raw_decode(text)
            if end == len(text):
                return value
        return _DECODER.decode(text)
    except UnicodeDecodeError:
        raise NotStrictJsonError(_likeness(raw) or "The value is not UTF-8.") from None
    except json.JSONDecodeError:
        raise NotStrictJsonError(_likeness(raw) or "The value is not JSON.") from None
    except RecursionError:
        raise NotStrictJsonError(f"The value is nested deeper than {MAX_DEPTH} levels.") from None


def _likeness(raw: bytes) -> str | None:
    """Say what bytes that are not JSON begin like, where that helps whoever sent them."""
    match = _BEGINNINGS.match(raw)
    return f"The value {_LIKENESSES[match.lastgroup]}." if match and match.lastgroup else None


def _object_of_different_members(members: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(members)
    if len(value) != len(members):
        raise NotStrictJsonError("An object has a member twice.")
    return value


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise NotStrictJsonError("A number is too large for a double.")
    return number


def _exact(digits: str) -> int:
    if len(digits) - (digits[0] == "-") > MAX_INTEGER_DIGITS:
        raise NotStrictJsonError(f"An integer has more than {MAX_INTEGER_DIGITS} digits.")
    return int(digits)


def _no_constant(_: str) -> float:
    raise NotStrictJsonError("NaN and Infinity are not JSON.")


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level:
        level = [child for parent in level for child in _children(parent) if isinstance(child, dict | list)]
        depth += 1
    return depth


def _children(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _refuse_bad_characters(value: object) -> None:
    level = [value]
    while level:
        for item in level:
            for text in item if isinstance(item, dict) else (item,):
                if isinstance(text, str):
                    _refuse_bad_text(text)
        level = [child for parent in level for child in _children(parent)]


def _refuse_bad_text(text: str) -> None:
    if "\x00" in text:
        raise NotStrictJsonError("A string has the character U+0000.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise NotStrictJsonError("A string has half a surrogate pair.") from None


_TEXT_HINT: Final = ", but a string: it may have been written as JSON twice"
_LIKENESSES: Final = {
    "utf8": "starts with a byte order mark; JSON has none",
    "utf32": "looks like UTF-32; JSON is UTF-8",
    "utf16": "looks like UTF-16; JSON is UTF-8",
    "registry": "starts with a schema registry's frame, a zero byte and a schema id; only JSON by itself is read",
    "glue": "starts with the frame of the AWS Glue schema registry; only JSON by itself is read",
    "gzip": "looks like gzip; only the Kafka client's own compression is read",
    "zstd": "looks like zstd; only the Kafka client's own compression is read",
    "java": "looks like a serialised Java object; only JSON is read",
}
# the order matters: UTF-32 also begins like UTF-16, and both, if big-endian, like a registry's frame
_BEGINNINGS: Final = re.compile(
    rb"""(?P<utf8>\xef\xbb\xbf)
    |(?P<utf32>\xff\xfe\0\0|\0\0\xfe\xff|[{[]\0\0\0|\0\0\0[{[]\0\0\0)
    |(?P<utf16>\xff\xfe|\xfe\xff|[{[]\0|\0[{[]\0)
    |(?P<registry>\0.{4})
    |(?P<glue>\x03[\0\x05].{16})
    |(?P<gzip>\x1f\x8b)
    |(?P<zstd>\x28\xb5\x2f\xfd)
    |(?P<java>\xac\xed\0\x05)""",
    re.DOTALL | re.VERBOSE,
)

# built once: json.loads makes a new one at each call with options
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object_of_different_members, parse_float=_finite, parse_int=_exact, parse_constant=_no_constant
)
