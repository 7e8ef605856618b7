"""Callbacks: what watches a training. The terminal, TensorBoard and W&B are built in; others come through the same door."""
