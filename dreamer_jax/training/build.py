"""Puts together what trains some runs: networks, agents, replays, and a `Training` of them."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from dreamer_jax.agent.devices import compute_dtype, select_device
from dreamer_jax.agent.layout import layout_of
from dreamer_jax.agent.networks import Networks, build_networks, key_layers
from dreamer_jax.agent.train_step import check_update, compile_init, count_params
from dreamer_jax.agent.types import AgentState
from dreamer_jax.core.config import Config
from dreamer_jax.core.spaces import LatentSpec, ObsSpecs
from dreamer_jax.envs import VectorEnv
from dreamer_jax.play.policy import Policy
from dreamer_jax.replay.buffer import Replay
from dreamer_jax.runs.budget import describe_run
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.training.acting import Acting, agent_and_acting_keys
from dreamer_jax.training.callbacks.group import Callbacks
from dreamer_jax.training.collector import Collector
from dreamer_jax.training.learner import Learner
from dreamer_jax.training.loop import Training
from dreamer_jax.training.reporter import Reporter
from dreamer_jax.training.resumption import begin
from dreamer_jax.training.schedule import Schedule
from dreamer_jax.training.seed_envs import SeedEnvs
from dreamer_jax.training.seed_run import SeedRun
from dreamer_jax.training.transfer import Source, announce, begin_with

logger = logging.getLogger(__name__)


def build_training(
    configs: Sequence[Config],
    folders: Sequence[Path],
    resume_from: Sequence[int | None],
    vector_env: VectorEnv,
    callbacks: Callbacks,
    stack: contextlib.ExitStack,
    source: Source | None = None,
) -> Training:
    """Makes what trains new runs, or goes on with old ones; says what it is about to do, and starts the callbacks.

    Nothing in the folders is changed before everything that is needed of all of them has been read.

    Args:
      configs: one for each seed; they differ in the seed alone.
      folders: the run folders, which exist.
      resume_from: frames of the checkpoint that each run goes on from; None for a new one.
      vector_env: the environments of all seeds, one seed's after another's.
      callbacks: watch the training.
      stack: closes what is opened.
      source: whose parameters new runs start from; None for fresh ones.

    Raises:
      CheckpointError, DamagedError: a checkpoint cannot be used.
      ConfigError, EnvError, ReplayError: the runs cannot be trained.
      OSError: a run folder cannot be written.
    """
    config, device = configs[0], select_device(configs[0].device)
    nets = build_networks(config, vector_env.obs_specs, vector_env.action_spec, compute_dtype(config), layout_of(device))
    if config.imports:
        check_update(nets, config)
    runs = [_open_run(nets, *each, callbacks, stack) for each in zip(configs, folders, resume_from, strict=True)]
    agents = _make_agents(nets, runs, source)
    for run in runs:  # nothing has been changed until here
        run.open(str(device.device_kind), stack)

    envs, acting, collector = SeedEnvs(vector_env, len(runs)), Acting(nets, configs), Collector(runs)
    learner = Learner(nets, config, agents, [run.replay for run in runs])
    step = begin(envs, acting, learner, collector)
    first = jax.tree.map(lambda x: x[0], learner.newest())
    players = {mode: Policy(nets, config, first, mode, vector_env.spaces, device) for mode in (True, False)}

    logger.info("%s", announcement(config, [own.seed for own in configs], folders, device, nets, vector_env.obs_specs))
    if source:
        announce(source)
    callbacks.start([run.view for run in runs])
    reporter, schedule = Reporter(collector, learner, callbacks), Schedule(config, collector.frames)
    return Training(envs, acting, learner, collector, step, players, schedule, reporter, callbacks)


def announcement(
    config: Config, seeds: Sequence[int], folders: Sequence[Path], device: Any, nets: Networks, obs_specs: ObsSpecs
) -> str:
    """What a training says before it starts, see `budget.describe_run`; `folders` is empty for a dry run."""
    layers, latent, params = key_layers(nets), stored_latent(nets, config), count_params(nets)
    return describe_run(config, seeds, folders, str(device), obs_specs, nets.action_spec, layers, latent, params)


def stored_latent(nets: Networks, config: Config) -> LatentSpec | None:
    """What the replay holds of each latent; None without replay context."""
    return nets.latent.spec(nets.dtype) if config.replay.context else None


def _open_run(
    nets: Networks, config: Config, folder: Path, frames: int | None, callbacks: Callbacks, stack: contextlib.ExitStack
) -> SeedRun:
    """A seed's run with its checkpoints and its replay, filled from the checkpoint at `frames`."""
    checkpoints = stack.enter_context(contextlib.closing(Checkpoints(folder, config.train.keep_checkpoints)))
    replay = Replay(
        nets.obs_specs,
        nets.action_spec,
        stored_latent(nets, config),
        config.replay.capacity,
        config.env.num_envs,
        config.replay.batch_length,
        config.replay.online,
        config.seed,
        folder if config.replay.storage == "disk" else None,
    )
    return SeedRun(config, folder, checkpoints, replay, frames, callbacks)


def _make_agents(nets: Networks, runs: Sequence[SeedRun], source: Source | None) -> list[AgentState]:
    """An agent for each run: that of its checkpoint, or a fresh one, with the parameters of another run where there is one."""
    init = compile_init(nets, runs[0].config)
    keys = [agent_and_acting_keys(run.config.seed)[0] for run in runs]
    like = jax.eval_shape(init, keys[0])
    agents = [run.restore_agent(like) if run.resumed else init(key) for run, key in zip(runs, keys, strict=True)]
    return [begin_with(source, nets, agent) for agent in agents] if source else agents
