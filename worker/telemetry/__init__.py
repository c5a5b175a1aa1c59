"""What operators see of the worker: its log, its metrics and its health."""
