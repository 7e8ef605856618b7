"""Going on exactly: what is in flight is taken out of a training for a checkpoint, and put back into a resumed one."""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax

from dreamer_jax.envs import Step
from dreamer_jax.runs.in_flight import InFlight, OpenEpisodes
from dreamer_jax.training.acting import Acting
from dreamer_jax.training.collector import Collector
from dreamer_jax.training.learner import Learner
from dreamer_jax.training.seed_envs import SeedEnvs
from dreamer_jax.training.seed_run import Episodes

logger = logging.getLogger(__name__)


def command(folders: Sequence[Path]) -> str:
    """The command that goes on with runs, for a shell in any folder: their paths are absolute."""
    return shlex.join(["dreamer", "train", "--resume", *map(str, folders)])


def in_flight(index: int, envs: SeedEnvs, acting: Acting, learner: Learner, episodes: Episodes) -> InFlight:
    """What the seed at this index has in flight between two steps of the loop. Waits for the device; changes nothing."""
    carry = jax.device_get(jax.tree.map(lambda x: x[index], acting.carry))
    playing = OpenEpisodes.of(envs.episodes(index), episodes.length, episodes.returned)
    return InFlight(carry, acting.prev_action[index], playing, learner.in_flight(index))


def begin(envs: SeedEnvs, acting: Acting, learner: Learner, collector: Collector) -> Step:
    """The first records, [N, E, ...]: where the runs were stopped if their checkpoints know it, else those of new episodes."""
    runs = collector.runs
    if not all(run.resumed for run in runs):
        return envs.reset()
    like = replace(in_flight(0, envs, acting, learner, runs[0].episodes), learner=learner.in_flight_like())
    read = [run.restore_in_flight(like) for run in runs]
    saved = [one for one in read if one is not None]
    if len(saved) < len(runs):
        return envs.reset()
    parts = {_parts(one) for one, run in zip(saved, runs, strict=True) if run.active}
    if len(parts) > 1:
        logger.warning("%s: the runs were saved at different moments. They go on with new episodes", runs[0].folder)
        return envs.reset()
    return _put_back(saved, envs, acting, learner, collector)


def _parts(saved: InFlight) -> tuple[int, bool, bool]:
    """What seeds that were saved between the same two steps have in common."""
    return int(saved.learner.summed), bool(saved.learner.metrics), saved.learner.unwritten is not None


def _put_back(saved: Sequence[InFlight], envs: SeedEnvs, acting: Acting, learner: Learner, collector: Collector) -> Step:
    """Puts back what every seed had in flight -> the records that their environments show again."""
    runs = collector.runs
    # A run that had ended before the others lacks what came later, and has no more need of it.
    lead = saved[list(runs).index(collector.lead)].learner
    shared = {"metrics": lead.metrics, "summed": lead.summed, "unwritten": lead.unwritten}
    learner.put_back(
        [one.learner if run.active else replace(one.learner, **shared) for one, run in zip(saved, runs, strict=True)]
    )
    playing = [state for one in saved for state in one.episodes.states()]
    step = envs.reset(playing)
    for i, (run, one) in enumerate(zip(runs, saved, strict=True)):
        run.episodes.put_back(one.episodes, step[i].is_first)
        for env, is_first in enumerate(step[i].is_first):
            if is_first and one.episodes.recorded[env]:
                logger.warning("seed %d: environment %d does not repeat its episode; a new one begins", run.config.seed, env)
    acting.put_back(saved, step)
    return step
