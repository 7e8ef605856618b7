"""One environment in the form that the agent sees."""

import gymnasium

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.envs.advice import check_spaces
from dreamer_jax.envs.tasks import family_of, make_simulator
from dreamer_jax.envs.wrappers.actions import CanonicalAction
from dreamer_jax.envs.wrappers.observations import CanonicalObservation
from dreamer_jax.envs.wrappers.repeat import ActionRepeat


def make_env(config: EnvConfig, render: bool = False) -> gymnasium.Env:
    """Makes one environment with dict observations and a float32 action vector.

    Observations are {name: array} as `dreamer_jax.core.spaces.ObsSpec` describes; the action is f32[A]
    (`dreamer_jax.core.spaces.ActionSpec`). The specs are read with `env.get_wrapper_attr("obs_specs")` and "action_spec".
    With `render`, `env.render()` gives uint8 [height, width, 3], unless `env.render_mode` is None: then the
    environment cannot draw.

    Raises:
      EnvError: the environment cannot be made, or its spaces cannot be used.
      ConfigError: an entry of `config.kinds` is not imported.
    """
    simulator = make_simulator(config, render)
    check_spaces(simulator, config.task)
    env: gymnasium.Env = CanonicalObservation(simulator, config.task, config.kinds)
    if config.action_repeat > 1 and not family_of(config).repeats_actions:
        env = ActionRepeat(env, config.action_repeat)
    # Outermost, so that an action is converted once a decision and not once a simulator step.
    return CanonicalAction(env, config.task)
