"""Dreamer in JAX: pure functions under one compiled ``train_step``.

    import dreamer_jax
    run = dreamer_jax.train(dreamer_jax.load_config("cartpole"))
    policy = dreamer_jax.load_policy(run)

Names are imported when they are first used, so that environment workers and the replay never load JAX.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "Config": "dreamer_jax.core.config",
    "DreamerError": "dreamer_jax.core.errors",
    "ConfigError": "dreamer_jax.core.errors",
    "load_config": "dreamer_jax.core.presets",
    "train": "dreamer_jax.training.start",
    "resume": "dreamer_jax.training.start",
    "make_env": "dreamer_jax.envs",
    "evaluate": "dreamer_jax.play.evaluate",
    "load_policy": "dreamer_jax.play.policy",
}
__all__ = ["__version__", *_EXPORTS]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'dreamer_jax' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
