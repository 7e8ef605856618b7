"""Environments in one form, stepped together. Imports no JAX: each may live in a process of its own."""

from dreamer_jax.envs.canonical import make_env
from dreamer_jax.envs.episodes import EpisodeState
from dreamer_jax.envs.vector import Step, VectorEnv, env_seeds, make_vector_env

__all__ = ["EpisodeState", "Step", "VectorEnv", "env_seeds", "make_env", "make_vector_env"]
