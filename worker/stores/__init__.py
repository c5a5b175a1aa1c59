"""The store: where user tasks, outcomes and the progress of each input partition are kept."""
