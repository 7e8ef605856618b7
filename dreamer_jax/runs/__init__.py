"""One run on disk: its folder, checkpoints, counters, rows and curves. What reads a run imports no JAX, but for checkpoints."""
