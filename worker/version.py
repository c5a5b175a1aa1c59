"""Which release this is."""

from importlib.metadata import PackageNotFoundError, version


def worker_version() -> str:
    """Give the installed version."""
    try:
        return version("user-task-worker")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
