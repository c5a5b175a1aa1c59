"""Telling of a defect without telling what was being worked on."""

import traceback


def where(error: BaseException) -> list[str]:
    """Give the innermost frames of an error; not its text, which may repeat a command's variables."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
