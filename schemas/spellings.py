"""Header names as senders' frameworks spell them: in other case, with other separators, under other prefixes.

What differs from a known name in case or separators is taken for it. CloudEvents attributes under another name than
`ce_` are only noted: such a record is refused (contract, Sending a command).
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from schemas.cloudevents import (
    BINARY_MODE,
    CONTENT_TYPE,
    COPIED_HEADERS,
    IDEMPOTENCY_KEY,
    EnvelopeError,
    Header,
    Respelt,
    media_type_of,
)
from schemas.replies import REPLY_HEADERS

_MAX_NAME_CHARS: Final = 64
"""No spelling of a known name has more; it bounds what is remembered of strangers' names."""
_SEPARATORS: Final = re.compile(r"[\W_]+")
_PREFIX: Final = "ce_"
_PREFIXES: Final = ("ce", "cloudevent", "cloudevents")

_ATTRIBUTES: Final = (*BINARY_MODE, "ce_correlationid")
_BARE_ATTRIBUTES: Final = {name.removeprefix(_PREFIX): name for name in BINARY_MODE}
_PREFIXED: Final = {name: name for name in _ATTRIBUTES}
_TAKEN: Final = (CONTENT_TYPE, IDEMPOTENCY_KEY, *COPIED_HEADERS, *REPLY_HEADERS)
_EXACT: Final = frozenset({*_ATTRIBUTES, *_TAKEN, "ce_time", "ce_subject"})
"""Where a record has no others, nothing about its headers needs a second look."""


def last_values(headers: Iterable[Header]) -> dict[str, bytes]:
    """Return each header's last value; one whose last value is null is as if absent.

    What is a known name in another spelling stands under the known name as well, unless that is there itself.
    """
    values = {name: value for name, value in dict(headers).items() if value is not None}
    return values if _EXACT.issuperset(values) else _respelt(values)


def _respelt(values: dict[str, bytes]) -> dict[str, bytes]:
    unknown = [name for name in values if name not in _EXACT and len(name) <= _MAX_NAME_CHARS]
    meanings = {name: meaning for name in unknown if (meaning := _meaning(name))}
    if not meanings:
        return values
    respelt = Respelt(values)
    attributes = _attributes(set(meanings.values()))
    for name, meaning in meanings.items():
        if meaning in _TAKEN:
            _take(respelt, meaning, values[name])
        elif (attribute := attributes.get(meaning)) and values.get(attribute) != values[name]:
            respelt.misspelt.add(attribute)
    return respelt


def _attributes(meanings: set[str]) -> Mapping[str, str]:
    """Return by their meanings which headers are attributes, with their `ce_` names.

    Names without a prefix are too common to mean one, unless `specversion` and another are there.
    """
    bare = meanings & _BARE_ATTRIBUTES.keys()
    return _PREFIXED | _BARE_ATTRIBUTES if "specversion" in bare and len(bare) > 1 else _PREFIXED


def _take(respelt: Respelt, name: str, value: bytes) -> None:
    read = _media_type if name == CONTENT_TYPE else bytes
    if name == CONTENT_TYPE and not read(respelt.get(name, b"")):  # an empty one is as if absent
        respelt[name] = value
    known = respelt.setdefault(name, value)
    if read(known) != read(value) and not (name == CONTENT_TYPE and not read(value)):
        respelt.contradictory.add(name)


def _media_type(content_type: bytes) -> bytes:
    try:
        return media_type_of(content_type)
    except EnvelopeError:
        return content_type


@lru_cache(maxsize=1024)
def _meaning(name: str) -> str | None:
    return _MEANINGS.get(_squeezed(name))


def _squeezed(name: str) -> str:
    return _SEPARATORS.sub("", name).lower()


_MEANINGS: Final = (
    {name: name for name in _BARE_ATTRIBUTES}
    | {prefix + name.removeprefix(_PREFIX): name for prefix in _PREFIXES for name in _ATTRIBUTES}
    | {_squeezed(name): name for name in _TAKEN}
)
"""What a name without case and separators means."""
