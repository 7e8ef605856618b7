"""What a run has counted: plain values that a checkpoint holds beside the agent, checked when they are read. Imports no JAX."""

from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from dreamer_jax.core.config import Config
from dreamer_jax.core.section import LARGEST
from dreamer_jax.core.text import brief, shown

# 1 had no configuration; 2 kept what was in flight in files of its own, which are not read any more; since 4 every part of an
# agent may have a state, where before only prototypes had one, as "slow_encoder".
FORMAT = 4
PARTS_FORMAT = 4

_CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)
_Count = Annotated[int, Field(ge=0, le=LARGEST, strict=True)]
_Number = Annotated[float, Field(strict=True)]
_Amount = Annotated[_Number, Field(ge=0)]
_Setting = str | int | float | bool | None | list[str | int | float]
_Section = dict[str, _Setting | dict[str, _Setting]]  # no deeper than a configuration is


@dataclass(config=_CLOSED)
class Counters:
    """What a run has done so far.

    frames: simulator steps taken; decisions: actions taken = frames / action repeat; records: decisions + resets;
    updates: gradient steps; policy_steps: calls of the policy; wall_seconds: time spent, earlier parts of the run included.
    """

    frames: _Count = 0
    decisions: _Count = 0
    records: _Count = 0
    updates: _Count = 0
    policy_steps: _Count = 0
    wall_seconds: _Amount = 0.0


class HostState(BaseModel):
    """What a checkpoint holds beside the agent.

    config: the resolved configuration by sections. train_ratio: where the count of updates stood [records], None before the
    first. replay_end: records of each environment. replay_queue: [environment, first record] of windows not yet trained on.
    replay_rng: state of the sampling. recent_returns: of the last few episodes. rows: those in `metrics.jsonl`; None in
    checkpoints of before they were counted.
    """

    model_config = _CLOSED

    format: Annotated[_Count, Field(ge=1)] = 1
    config: dict[str, _Setting | _Section] = Field(default_factory=dict)
    counters: Counters
    train_ratio: _Amount | None
    replay_end: _Count
    replay_queue: list[Annotated[list[_Count], Field(min_length=2, max_length=2)]]
    replay_rng: dict[str, Any]
    recent_returns: list[_Number]
    rows: _Count | None = None

    @field_validator("replay_rng")
    @classmethod
    def _is_a_generators_state(cls, value: dict[str, Any]) -> dict[str, Any]:
        generator = np.random.default_rng(0).bit_generator
        try:
            generator.state = value
            same = generator.state == value
        except (TypeError, KeyError, OverflowError) as error:
            raise ValueError(f"it is no state of {generator.state['bit_generator']} ({brief(error)})") from None
        if not same:  # numbers that were cut to fit
            raise ValueError(f"it is no state of {generator.state['bit_generator']}")
        return value

    def problem(self, frames: int, config: Config) -> str | None:
        """Why this cannot be the record of a run of this configuration at `frames`; None where it can."""
        counters, env = self.counters, config.env
        if counters.frames != frames:
            return f"counters.frames is {counters.frames}, in the checkpoint of frame {frames}"
        if counters.frames != counters.decisions * env.action_repeat:
            return f"counters.decisions is {counters.decisions}; {counters.frames} frames / {env.action_repeat} was expected"
        if not counters.policy_steps == self.replay_end == counters.records / env.num_envs:
            return (
                f"counters.records is {counters.records}, counters.policy_steps {counters.policy_steps} and replay_end "
                f"{self.replay_end}; the last two and records / {env.num_envs} environments have to be the same"
            )
        last = self.replay_end - config.replay.batch_length - config.replay.context
        for index, first in self.replay_queue:
            if index >= env.num_envs or first > last:
                return f"replay_queue has [{index}, {first}]; at most [{env.num_envs - 1}, {last}] was expected"
        return None


def read_host(values: Any) -> HostState:
    """The record in what a checkpoint's JSON holds.

    Raises:
      ValueError: one line that names the first field that is wrong, its value and what was expected.
    """
    try:
        return HostState.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        raise ValueError(f"{shown(name)} is {shown(problem['input'])}: {brief(ValueError(problem['msg']))}") from None
