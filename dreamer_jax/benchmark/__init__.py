"""Suites of tasks over seeds, run one after another, and gathered in one JSON. Imports no JAX."""
