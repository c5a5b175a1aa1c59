"""JSON read strictly: what RFC 8259 leaves open, or parsers disagree on, is refused (contract, Commands)."""

import json
import math
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
        raise NotStrictJsonError("The value is not a JSON object.")
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
        raise NotStrictJsonError("The value is not UTF-8.") from None
    except json.JSONDecodeError:
        raise NotStrictJsonError("The value is not JSON.") from None
    except RecursionError:
        raise NotStrictJsonError(f"The value is nested deeper than {MAX_DEPTH} levels.") from None


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


# built once: json.loads makes a new one at each call with options
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object_of_different_members, parse_float=_finite, parse_int=_exact, parse_constant=_no_constant
)
