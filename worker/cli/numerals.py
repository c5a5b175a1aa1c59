"""Numbers that somebody else has written, perhaps with more digits than Python turns into one."""

INT64_MAX = 2**63 - 1


def is_numeral(text: str) -> bool:
    """Tell whether it is written like an offset: digits alone, and no more of them than an int64 has."""
    return len(text) <= len(str(INT64_MAX)) and text.isascii() and text.isdecimal()
