"""Starting a run from another run's agent: `train.init_from`."""

import contextlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import serialization, traverse_util

from dreamer_jax.agent.networks import Networks
from dreamer_jax.agent.types import AgentState, Params
from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import CheckpointError
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.folder import open_run

logger = logging.getLogger(__name__)
LISTED = 4  # entries that do not fit and are named


@dataclass(frozen=True)
class Source:
    """What is taken from another run's checkpoint.

    where: names the run and the checkpoint. parts: {part: nested mappings of arrays}, with "world_model" and, where all is
    taken, "actor", "critic", "slow_critic" and "parts", the extensions' states.
    """

    where: str
    parts: dict[str, Any]


def read_source(config: Config) -> Source | None:
    """Reads what `train.init_from` names; None where the run starts from scratch.

    Raises:
      RunError, ConfigError: it is not a run.
      CheckpointError: there is no such checkpoint, or it cannot be read.
    """
    name = config.train.init_from
    if name is None:
        return None
    run, which = Path(name), "last"
    if not run.is_dir() and ":" in name:
        before, _, which = name.rpartition(":")
        run = Path(before)
    open_run(run)
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        frames = checkpoints.resolve(which)
        saved = checkpoints.read_agent(frames)
    taken = {part: saved[part].get("params") for part in ("world_model", "actor", "critic")}
    taken |= {part: saved.get(part) for part in ("slow_critic", "parts")}
    if config.train.init_parts == "world_model":
        taken = {"world_model": taken["world_model"]}
    return Source(f"{run}, checkpoint {frames}", {part: tree or {} for part, tree in taken.items()})


def begin_with(source: Source, nets: Networks, agent: AgentState) -> AgentState:
    """A fresh agent with the parameters of another one. Optimisers, counters and the return normaliser stay fresh.

    Raises:
      CheckpointError: entries that only one of them has, or of other shapes; the first few are named.
    """
    own = {"world_model": agent.world_model.params, "actor": agent.actor.params, "critic": agent.critic.params}
    own |= {"slow_critic": agent.slow_critic, "parts": agent.parts}
    own = {part: own[part] for part in source.parts}
    check_fit(own, source)
    new = {part: _like(tree, source.parts[part]) for part, tree in own.items()}
    trained = {part: getattr(agent, part).replace(params=new[part]) for part in new if part not in ("slow_critic", "parts")}
    rest = {part: new[part] for part in ("slow_critic", "parts") if part in new}
    if "parts" not in new:  # of copies that follow the world model's parameters
        states = {part.name: part.init_state(new["world_model"]) for part in nets.parts}
        rest["parts"] = {name: state for name, state in states.items() if name in agent.parts}
    return replace(agent, **trained, **rest)


def check_fit(own: dict[str, Any], source: Source) -> None:
    """Raises CheckpointError where the arrays of `own`, or their shapes, do not fit those of `source`."""
    here, there = _flat(own), _flat(source.parts)
    problems = []
    for name in sorted(here.keys() | there.keys()):
        found, wanted = (_describe(arrays.get(name)) for arrays in (there, here))
        if found != wanted:
            problems.append(f"{name} is {found} there and {wanted} here")
    if problems:
        more = f", and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise CheckpointError(
            f"train.init_from: the agent of {source.where} does not fit: {'; '.join(problems[:LISTED])}{more}. Give the new "
            "run the same model and task, or take less of it with --train.init_parts world_model"
        )


def announce(source: Source) -> None:
    """Says what was taken from where."""
    names = [part.replace("_", " ") for part in source.parts if source.parts[part]]
    logger.info("%s: taken from %s", ", ".join(names), source.where)


def _flat(tree: Any) -> dict[str, Any]:
    """The arrays of nested mappings, and of what else is within them, by their names."""
    return traverse_util.flatten_dict(serialization.to_state_dict(tree), sep="/")


def _describe(array: Any) -> str:
    return "missing" if array is None else f"{array.dtype}{list(array.shape)}"


def _like(own: Params, saved: Any) -> Params:
    """The saved arrays in the place of an agent's own, each one a new array."""
    return jax.tree.map(lambda leaf, found: jnp.array(found, leaf.dtype), own, serialization.from_state_dict(own, saved))
