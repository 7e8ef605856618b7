"""Which device computes, and in which precision."""

from typing import Any

import jax
import jax.numpy as jnp

from dreamer_jax.config import Config, ConfigError

INSTALL = {"gpu": 'pip install -e ".[cuda12]" (or cuda13)', "tpu": 'pip install -e ".[tpu]"'}


def select_device(name: str) -> Any:
    """Makes "cpu", "gpu" or "tpu" the default device; "auto" takes the fastest that JAX finds.

    Raises:
      ConfigError: JAX finds no such device; the message carries the install line.
    """
    try:
        device = jax.devices()[0] if name == "auto" else jax.devices(name)[0]
    except RuntimeError:
        found = ", ".join(sorted({device.platform for device in jax.devices()}))
        hint = f" Install it with: {INSTALL[name]}" if name in INSTALL else ""
        raise ConfigError(f"--device {name}: JAX finds no such device here (it finds {found}).{hint}") from None
    jax.config.update("jax_default_device", device)
    return device


def resolve_precision(config: Config) -> Config:
    """Puts a dtype in the place of "auto": float32 on CPU, where bfloat16 is slower, and bfloat16 elsewhere.

    A run keeps the result, so that it goes on in the same precision on another device.

    Raises:
      ConfigError: as `select_device`.
    """
    platform = select_device(config.device).platform
    if config.precision != "auto":
        return config
    return config.model_copy(update={"precision": "float32" if platform == "cpu" else "bfloat16"})


def compute_dtype(config: Config) -> Any:
    """The dtype of a configuration's precision."""
    return jnp.dtype(resolve_precision(config).precision)
