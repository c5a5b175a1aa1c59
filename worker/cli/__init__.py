"""The command line, `user-task-worker`: one small file a group of commands."""

from worker.cli.main import main

__all__ = ["main"]
