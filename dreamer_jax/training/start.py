"""Starting and resuming runs, of one seed or of several side by side."""

import contextlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_jax.agent.devices import compute_dtype, on_device, resolve_precision, select_device
from dreamer_jax.agent.layout import layout_of
from dreamer_jax.agent.networks import build_networks
from dreamer_jax.agent.train_step import check_update
from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import CheckpointError, ConfigError, DamagedError, RunError
from dreamer_jax.core.files import check_writable, disk_errors_named, locked
from dreamer_jax.core.paths import absolute
from dreamer_jax.core.presets import parse_config, with_absolute_paths
from dreamer_jax.envs import VectorEnv, env_seeds, make_vector_env
from dreamer_jax.play.policy import read_specs
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.folder import create_run, open_run_with_imports
from dreamer_jax.runs.spaces_file import read_spaces
from dreamer_jax.training.build import announcement, build_training
from dreamer_jax.training.callbacks.group import Callbacks, chosen_callbacks
from dreamer_jax.training.changes import changed
from dreamer_jax.training.ending import end_reason
from dreamer_jax.training.loop import Training
from dreamer_jax.training.resumption import command
from dreamer_jax.training.seed_run import begin_again
from dreamer_jax.training.transfer import Source, read_source

logger = logging.getLogger(__name__)
ENDED = "the run has ended, and what was saved before is whole. Make room, then: {}"


def train(config: Config) -> Path:
    """Trains an agent from scratch and returns its new run folder.

    Raises:
      DreamerError: the run cannot be trained or cannot be written any more; one line for the user.
    """
    return train_seeds(config, 1)[0]


def train_seeds(config: Config, seeds: int) -> list[Path]:
    """Trains independent agents with the seeds config.seed, config.seed + 1, ... at once -> an ordinary run folder for each.

    One compiled step updates all of them. They act in lockstep; one whose frames are used up (resets take none, so agents with
    longer episodes come there first) waits for the others.

    Raises:
      DreamerError: the run cannot be trained or cannot be written any more; one line for the user.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: at least 1 is needed")
    config = resolve_precision(with_absolute_paths(config))  # before there is a folder: the device may be missing
    values = config.model_dump(by_alias=True)
    configs = [parse_config({**values, "seed": config.seed + i}, f"--seeds {seeds}") for i in range(seeds)]
    callbacks = Callbacks(chosen_callbacks(config))
    with contextlib.ExitStack() as stack:
        stack.enter_context(on_device(config.device))
        envs = _open_envs(stack, configs, [one.seed for one in configs])
        source = read_source(config)
        folders = [create_run(one, envs.spaces.as_json()) for one in configs]
        training = _begin(configs, folders, envs, callbacks, source, stack)
        with disk_errors_named(folders[0], ENDED.format(command(folders))):
            return training.train()


def resume(run: str | Path, overrides: Mapping[str, Any] | None = None) -> Path:
    """Goes on with a run from its last checkpoint as if it had not been stopped, under the run's own configuration.

        resume("runs/gym_CartPole-v1/cartpole-0-20250101T120000")
        resume(run, {"train.frames": 20_000})

    The modules that the run has imported are imported again. Where an environment does not repeat the episode that was being
    played, or the checkpoint was left by an error, new episodes begin.

    Args:
      overrides: changes of the configuration, as for `load_config`: of how long the run lasts, of evaluations, callbacks and
        the like, but of nothing that makes another run of it. They are written to its `config.yaml`. A run that had come to
        its end goes on when that is moved, and is evaluated anew.

    Raises:
      ConfigError: options that cannot be changed, with a list of those that can.
      DreamerError: the run cannot be trained or cannot be written any more; one line for the user.
    """
    return resume_seeds([run], overrides)[0]


def resume_seeds(runs: Sequence[str | Path], overrides: Mapping[str, Any] | None = None) -> list[Path]:
    """Goes on with runs that `train_seeds` started together, from the newest checkpoints that were saved together.

    One that cannot be read is set aside, and the one before it taken; without any the runs begin again.

    Args:
      overrides: as for `resume`; the same for all runs.

    Raises:
      DreamerError: the runs cannot be trained, do not belong together, or cannot be written any more.
    """
    folders = [absolute(run) for run in runs]
    configs = [changed(open_run_with_imports(folder), overrides) for folder in folders]
    for folder, config in zip(folders, configs, strict=True):
        check_writable(folder)
        if config.model_copy(update={"seed": configs[0].seed}) != configs[0]:
            raise RunError(f"{folder} and {folders[0]} differ in more than the seed; resume them one at a time")
    damaged: set[tuple[Path, int]] = set()
    callbacks = Callbacks(chosen_callbacks(configs[0]))
    with contextlib.ExitStack() as locks:
        locks.enter_context(on_device(configs[0].device))
        for folder in folders:
            locks.enter_context(locked(folder / "lock"))
        while True:
            with contextlib.ExitStack() as stack:
                stack.enter_context(disk_errors_named(folders[0], ENDED.format(command(folders))))
                try:
                    checkpoints = _checkpoints_to_resume(configs, folders, damaged)
                    training = _resume_from(checkpoints, configs, folders, callbacks, stack)
                except DamagedError as error:
                    damaged.add((error.run, error.frames))
                    logger.warning("%s. Looking for an older checkpoint", error)
                    continue
                return training.train()


def _begin(
    configs: Sequence[Config],
    folders: Sequence[Path],
    envs: VectorEnv,
    callbacks: Callbacks,
    source: Source | None,
    stack: contextlib.ExitStack,
) -> Training:
    """What trains new runs. If it cannot be had, their folders go again: nothing is in them yet."""
    try:
        for folder in folders:
            stack.enter_context(locked(folder / "lock"))
        with disk_errors_named(folders[0], "make room, or choose another folder with --runs"):
            return build_training(configs, folders, [None] * len(configs), envs, callbacks, stack, source)
    except BaseException:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _resume_from(
    checkpoints: Sequence[int | None],
    configs: Sequence[Config],
    folders: Sequence[Path],
    callbacks: Callbacks,
    stack: contextlib.ExitStack,
) -> Training:
    """What trains the runs from these checkpoints on, or from the beginning where there is none."""
    seeds = []
    for config, folder, frames in zip(configs, folders, checkpoints, strict=True):
        if frames is None:
            begin_again(folder)
            seeds.append(config.seed)
        else:  # for episodes that cannot go on, other seeds than the first ones of the runs
            seeds.append(int(np.random.SeedSequence([config.seed, frames]).generate_state(1)[0]) >> 1)
    source = read_source(configs[0]) if None in checkpoints else None  # they begin again
    envs, kept = _open_envs(stack, configs, seeds), read_spaces(folders[0], configs[0].env)
    if kept and (images := envs.keep_bounds(kept.observation.specs)):
        logger.warning(
            "%s, of an older version, goes on dividing %s by 255; a new run divides by the largest value of the space",
            folders[0],
            ", ".join(images),
        )
    return build_training(configs, folders, checkpoints, envs, callbacks, stack, source)


def describe(config: Config, seeds: int = 1) -> str:
    """What `train_seeds` would announce, without training: sizes, parameters, budget and replay memory."""
    device, config = select_device(config.device), resolve_precision(with_absolute_paths(config))
    obs_specs, action_spec = read_specs(config.env)
    nets = build_networks(config, obs_specs, action_spec, compute_dtype(config), layout_of(device))
    if config.imports:
        check_update(nets, config)
    return announcement(config, range(config.seed, config.seed + seeds), [], device, nets, obs_specs)


def _open_envs(stack: contextlib.ExitStack, configs: Sequence[Config], seeds: Sequence[int]) -> VectorEnv:
    """The environments of all runs, one run's after another's."""
    env = configs[0].env
    every_seed = [one for seed in seeds for one in env_seeds(seed, env.num_envs)]
    return stack.enter_context(contextlib.closing(make_vector_env(env, every_seed)))


def _checkpoints_to_resume(
    configs: Sequence[Config], folders: Sequence[Path], damaged: set[tuple[Path, int]]
) -> list[int] | list[None]:
    """Frames of each run's newest checkpoint, or of its newest that the unfinished runs saved at the same moment.

    Those in `damaged` do not count. None for all when no run has come to its first one.

    Raises:
      CheckpointError: nothing but damaged ones, or the runs have none in common.
      DamagedError: one cannot be read.
    """
    saved: list[dict[int, int]] = []  # for each run {records: frames} of its checkpoints
    ended: list[bool] = []
    for config, folder in zip(configs, folders, strict=True):
        with contextlib.closing(Checkpoints(folder, config.train.keep_checkpoints)) as checkpoints:
            steps = [frames for frames in checkpoints.steps() if (folder, frames) not in damaged]
            if not steps and checkpoints.steps():
                raise CheckpointError(f"{folder}: none of its checkpoints can be read; see above what is wrong with each")
            newest = checkpoints.restore_host(steps[-1]) if steps else None
            ended.append(bool(newest and end_reason(config, newest.counters, newest.recent_returns)))
            if len(folders) == 1 or ended[-1]:
                steps = steps[-1:]
            saved.append({checkpoints.restore_host(frames).counters.records: frames for frames in steps})
    if not any(saved):
        return [None] * len(folders)
    unfinished = [set(frames) for frames, done in zip(saved, ended, strict=True) if not done]
    common = set.intersection(*unfinished) if unfinished else set()
    if unfinished and not common:
        raise CheckpointError("the runs have no checkpoints from the same moment; resume them one at a time")
    return [frames[max(frames) if done else max(common)] for frames, done in zip(saved, ended, strict=True)]
