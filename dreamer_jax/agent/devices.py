"""Which device computes, and in which precision."""

import contextlib
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.agent.layout import Layout
from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.text import brief

Device = Any  # a jax.Device, which type checkers take for a variable
INSTALL = {"gpu": 'pip install "dreamer_jax[cuda12]" (or cuda13)', "tpu": 'pip install "dreamer_jax[tpu]"'}


def select_device(name: str) -> Device:
    """The first "cpu", "gpu" or "tpu"; "auto" takes the fastest that JAX finds. Changes nothing: see `on_device`.

    Raises:
      ConfigError: JAX finds no such device; the message carries the install line. Or JAX finds none at all.
    """
    try:
        everything = jax.devices()
    except (RuntimeError, AssertionError) as error:  # the second where a plugin is there, and no device for it
        asked = os.environ.get("JAX_PLATFORMS", "")
        only = f"JAX_PLATFORMS={asked} allows nothing else; unset it, or try" if asked else "Try"
        raise ConfigError(f"JAX finds no device here ({brief(error)}). {only} JAX_PLATFORMS=cpu") from None
    try:
        return everything[0] if name == "auto" else jax.devices(name)[0]
    except RuntimeError:
        found = ", ".join(sorted({device.platform for device in everything}))
        hint = f" Install it with: {INSTALL[name]}" if name in INSTALL else ""
        raise ConfigError(f"--device {name}: JAX finds no such device here (it finds {found}).{hint}") from None


def on_device(name: str) -> contextlib.AbstractContextManager[None]:
    """Makes a device the default one of this thread, as long as the block lasts.

        with on_device(config.device):
            ...

    Raises:
      ConfigError: as `select_device`.
    """
    return jax.default_device(select_device(name))


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


def check_32_bits() -> None:
    """Raises ConfigError where JAX computes in 64 bits, in which an update cannot be compiled."""
    if jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise ConfigError("JAX computes in 64 bits, and training needs 32: unset JAX_ENABLE_X64, or leave jax_enable_x64 off")


def compute_dtype(config: Config) -> Any:
    """The dtype of a configuration's precision."""
    return jnp.dtype(resolve_precision(config).precision)


def compiler_options(layout: Layout, once: bool = False) -> dict[str, Any]:
    """Options for `jax.jit` with which large programs are compiled: the layout's optimisation level, where it has one.

    A level that the user names in XLA_FLAGS is kept.

    Args:
      once: the program runs a single time, so its speed does not count and it is compiled at level 0.
    """
    level = "xla_backend_optimization_level"
    if layout.optimization_level is None or level in os.environ.get("XLA_FLAGS", ""):
        return {}
    return {level: 0 if once else layout.optimization_level}


def seed_sharding(seeds: int) -> Any:
    """Splits a leading axis of `seeds` over as many devices of the chosen kind as divide it; the chosen one if none do."""
    chosen = _chosen_device()
    devices = jax.devices(chosen.platform)
    count = next(count for count in range(min(seeds, len(devices)), 0, -1) if seeds % count == 0)
    if count == 1:
        return jax.sharding.SingleDeviceSharding(chosen)
    mesh = jax.sharding.Mesh(np.array(devices[:count]), ("seed",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("seed"))


def _chosen_device() -> Any:
    with jax.ensure_compile_time_eval():
        (device,) = jnp.zeros(()).devices()
    return device
