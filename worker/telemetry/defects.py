"""Telling of failures and defects without telling what was being worked on."""

import traceback


def where(error: BaseException) -> list[str]:
    """Give the innermost frames of an error; not its text, which may repeat a command's variables."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def in_words(error: BaseException) -> str:
    """Give kind and text of an expected failure: of the broker, the store or the session, never of a command."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
