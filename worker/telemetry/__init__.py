"""What operators see of the worker: its log, its metrics, its health and its spans."""
