"""Dreamer in JAX: pure functions under one compiled ``train_step``.

    import dreamer_jax
    run = dreamer_jax.train(dreamer_jax.load_config("cartpole"))
    policy = dreamer_jax.load_policy(run)

Names are imported when they are first used, so that environment workers and the replay never load JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamer_jax.agent.networks import apply as apply
    from dreamer_jax.agent.parts import ExplorationBonus as ExplorationBonus
    from dreamer_jax.agent.parts import LossTerm as LossTerm
    from dreamer_jax.agent.parts import PartOptions as PartOptions
    from dreamer_jax.agent.parts import Representation as Representation
    from dreamer_jax.core.config import Config as Config
    from dreamer_jax.core.errors import ConfigError as ConfigError
    from dreamer_jax.core.errors import DreamerError as DreamerError
    from dreamer_jax.core.extensions import ObservationNetwork as ObservationNetwork
    from dreamer_jax.core.extensions import register as register
    from dreamer_jax.core.presets import load_config as load_config
    from dreamer_jax.core.section import Section as Section
    from dreamer_jax.core.spaces import ObsSpec as ObsSpec
    from dreamer_jax.envs.canonical import make_env as make_env
    from dreamer_jax.envs.families.base import Family as Family
    from dreamer_jax.play.evaluate import evaluate as evaluate
    from dreamer_jax.play.policy import load_policy as load_policy
    from dreamer_jax.runs.metrics import read_metrics as read_metrics
    from dreamer_jax.training.callbacks.base import Callback as Callback
    from dreamer_jax.training.start import resume as resume
    from dreamer_jax.training.start import train as train

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
    "read_metrics": "dreamer_jax.runs.metrics",
    # Doors, see docs/extending.md.
    "register": "dreamer_jax.core.extensions",
    "Section": "dreamer_jax.core.section",
    "PartOptions": "dreamer_jax.agent.parts",
    "Representation": "dreamer_jax.agent.parts",
    "LossTerm": "dreamer_jax.agent.parts",
    "ExplorationBonus": "dreamer_jax.agent.parts",
    "ObservationNetwork": "dreamer_jax.core.extensions",
    "ObsSpec": "dreamer_jax.core.spaces",
    "Family": "dreamer_jax.envs.families.base",
    "Callback": "dreamer_jax.training.callbacks.base",
    "apply": "dreamer_jax.agent.networks",
}
__all__ = ["__version__", *_EXPORTS]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'dreamer_jax' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
