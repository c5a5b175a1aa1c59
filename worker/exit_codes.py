"""The exit codes of `user-task-worker`: a module of its own, so that asking for one loads nothing."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process tells whoever started it (contract, Command line)."""

    DONE = 0
    FAILED = 1
    CONFIGURATION = 2
    UNREACHABLE = 3
    NOT_READY = 4
    REJECTED = 5
    TIMED_OUT = 6
    INTERRUPTED = 130
