"""What has changed between two JSON Schemas: does the newer one accept less, or more? Pure.

It knows the keywords that the generated schemas use. Of any other it knows that a schema with it accepts less than one
without it, and that two values of it cannot be compared.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

Schema = Mapping[str, Any]

_NOTES: Final = frozenset({"$schema", "$id", "$comment", "title", "description", "examples"})
"""Keywords that refuse nothing."""
_UPPER: Final = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})
_LOWER: Final = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_SUBSCHEMAS: Final = frozenset({"items", "propertyNames", "additionalProperties"})
_ANY: Final = "any"


class Effect(StrEnum):
    """What a change does to the set of values that are accepted."""

    LESS = "less"
    MORE = "more"
    UNCLEAR = "unclear"


class Change(NamedTuple):
    """One change: where (a JSON pointer into the values), what, and what it does."""

    pointer: str
    text: str
    effect: Effect


def changes(older: Schema, newer: Schema, pointer: str = "#") -> Iterator[Change]:
    """Give all changes from one schema to another."""
    before, after = _by_type(older), _by_type(newer)
    if before is None or after is None:
        yield from _keywords(older, newer, pointer)
        return
    yield from _types(set(before), set(after), pointer)
    for name in before.keys() & after.keys():
        yield from _keywords(before[name], after[name], pointer)


def _by_type(schema: Schema) -> dict[str, Schema] | None:
    """Split a schema by the type of the values, or give None if its alternatives are not told apart by type."""
    if "anyOf" not in schema:
        kind = schema.get("type", _ANY)
        return dict.fromkeys([kind] if isinstance(kind, str) else kind, schema)
    kinds = [one.get("type") for one in schema["anyOf"]]
    rest = {name for name in schema if name not in _NOTES}
    if rest != {"anyOf"} or len(set(kinds)) < len(kinds) or not all(isinstance(kind, str) for kind in kinds):
        return None
    return dict(zip(kinds, schema["anyOf"], strict=True))


def _types(before: set[str], after: set[str], pointer: str) -> Iterator[Change]:
    if before == after:
        return
    text = f"was {_listed(before)}, is {_listed(after)}"
    if _ANY not in after and (before - after or _ANY in before):
        yield Change(pointer, text, Effect.LESS)
    if _ANY not in before and (after - before or _ANY in after):
        yield Change(pointer, text, Effect.MORE)


def _listed(names: set[str]) -> str:
    return " or ".join(sorted(names))


def _keywords(older: Schema, newer: Schema, pointer: str) -> Iterator[Change]:
    for keyword in sorted((older.keys() | newer.keys()) - _NOTES - {"type"}):
        before, after = older.get(keyword), newer.get(keyword)
        if before == after:
            continue
        if keyword == "properties":
            yield from _members(older, newer, pointer)
        elif keyword in _SUBSCHEMAS:
            yield from _within(keyword, before, after, pointer)
        elif keyword in {"required", "enum"}:
            yield from _lists(keyword, before, after, pointer)
        else:
            yield Change(pointer, _told(keyword, before, after), _effect(keyword, before, after))


def _members(older: Schema, newer: Schema, pointer: str) -> Iterator[Change]:
    before, after = older.get("properties", {}), newer.get("properties", {})
    for name in [*before, *(name for name in after if name not in before)]:
        below = f"{pointer}/{name}"
        if name in before and name in after:
            yield from changes(before[name], after[name], below)
        elif name in before:
            # where others are allowed it may still come, as anything
            is_closed = newer.get("additionalProperties") is False
            yield Change(below, "member gone", Effect.LESS if is_closed else Effect.MORE)
        else:
            is_closed = older.get("additionalProperties") is False
            yield Change(below, "member added", Effect.MORE if is_closed else Effect.LESS)


def _within(keyword: str, before: Any, after: Any, pointer: str) -> Iterator[Change]:
    """Compare what holds for all items, or for all members that are not named. Absent means true."""
    before, after = ({} if one is None or one is True else one for one in (before, after))
    if before is not False and after is not False:
        yield from changes(before, after, f"{pointer}/*")
    elif before is not after:
        effect = Effect.LESS if after is False else Effect.MORE
        yield Change(pointer, f"{keyword} {'forbidden' if after is False else 'allowed'}", effect)


def _lists(keyword: str, before: Any, after: Any, pointer: str) -> Iterator[Change]:
    """Compare what has to be there, or what alone may be there. Absent means that nothing, or anything, is so."""
    more_is_less = keyword == "required"
    if before is None or after is None:
        if not more_is_less:
            yield Change(pointer, _told(keyword, before, after), _effect(keyword, before, after))
            return
        before, after = before or [], after or []
    for value in [one for one in before if one not in after]:
        yield Change(pointer, f"{keyword}: no longer {value}", Effect.MORE if more_is_less else Effect.LESS)
    for value in [one for one in after if one not in before]:
        yield Change(pointer, f"{keyword}: now {value}", Effect.LESS if more_is_less else Effect.MORE)


def _told(keyword: str, before: Any, after: Any) -> str:
    if before is None:
        return f"{keyword} {after}, was without"
    return f"without {keyword}, was {before}" if after is None else f"{keyword} {after}, was {before}"


def _effect(keyword: str, before: Any, after: Any) -> Effect:
    if before is None or after is None:
        return Effect.LESS if before is None else Effect.MORE
    if keyword in _UPPER | _LOWER:
        return Effect.LESS if (after < before) == (keyword in _UPPER) else Effect.MORE
    return Effect.UNCLEAR
