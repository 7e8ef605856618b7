"""Sequence replay in NumPy: the rings of records, how often they are trained on, and their files. Imports no JAX."""
