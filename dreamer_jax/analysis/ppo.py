"""PPO of Stable-Baselines3, an optional package, on the tasks of this project: what Dreamer is compared with."""

# pyright: reportMissingImports=false

from typing import Any

import gymnasium

from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.envs.tasks import make_simulator

ENVS = 8


def train_ppo(config: Config, seed: int, steps: int) -> dict[str, Any]:
    """PPO of Stable-Baselines3 on the task's own environment -> versions, settings and "episodes" [[steps at the end, return]].

    Settings as usual for CartPole: 8 environments x 128 steps, 4 epochs of minibatches of 256, learning rate 2.5e-4 falling to
    0, discount 0.99, GAE 0.95, clipping 0.2, value loss 0.5, entropy 0.01, gradient norm 0.5, two layers of 64 with tanh.

    Raises:
      ConfigError: it is not installed, the task is not one of flat observations, or no episode ended.
    """
    try:
        import stable_baselines3
        import torch
        from stable_baselines3.common.callbacks import BaseCallback
        from stable_baselines3.common.monitor import Monitor
        from stable_baselines3.common.vec_env import DummyVecEnv
    except ImportError as error:
        raise ConfigError(f'PPO needs {error.name}, which is not installed: pip install "dreamer_jax[ppo]"') from None

    space = make_simulator(config.env).observation_space
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise ConfigError(f"PPO here is for tasks with one vector to see; {config.env.task} shows {space}")
    episodes: list[tuple[int, float]] = []

    class Collect(BaseCallback):
        def _on_step(self) -> bool:
            ended = [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
            episodes.extend((self.num_timesteps, float(value)) for value in ended)
            return True

    settings = {"n_steps": 128, "batch_size": 256, "n_epochs": 4, "gamma": 0.99, "gae_lambda": 0.95, "clip_range": 0.2}
    settings |= {"vf_coef": 0.5, "ent_coef": 0.01, "max_grad_norm": 0.5}
    envs = DummyVecEnv([lambda: Monitor(make_simulator(config.env)) for _ in range(ENVS)])
    policy = {"net_arch": [64, 64], "activation_fn": torch.nn.Tanh}
    agent = stable_baselines3.PPO(
        "MlpPolicy", envs, learning_rate=lambda left: 2.5e-4 * left, policy_kwargs=policy, seed=seed, device="cpu", **settings
    )
    agent.learn(steps, callback=Collect())
    if not episodes:
        raise ConfigError(f"--steps {steps}: no episode of {config.env.task} ended; ask for more")
    versions = {"stable_baselines3": stable_baselines3.__version__, "torch": torch.__version__}
    return {
        "task": config.env.task,
        "seed": seed,
        "steps": steps,
        "envs": ENVS,
        **settings,
        **versions,
        "episodes": episodes,
    }
