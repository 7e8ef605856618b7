"""Parts of an agent that can be exchanged or added: a representation, loss terms and exploration bonuses.

A part may have parameters, which are trained with the world model; loss terms; and a state of its own in the agent, which
no gradient reaches (a slow copy, a running mean). What is built in and what a module from outside registers are written alike.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from pydantic import Field

from dreamer_jax.agent.layers import Style, flatten_stoch
from dreamer_jax.agent.types import Batch, LatentDist, LatentState, Params
from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import RAISED_OUTSIDE, ConfigError, DreamerError
from dreamer_jax.core.extensions import Extension, ObservationNetwork
from dreamer_jax.core.section import Section
from dreamer_jax.core.spaces import ActionSpec, ObsSpec, ObsSpecs
from dreamer_jax.core.text import one_line

if TYPE_CHECKING:
    from dreamer_jax.agent.networks import Networks

Specs = tuple[tuple[str, ObsSpec], ...]  # (observation key, what it holds), sorted
PAIRS = {"before_update": "(params, state)", "reward": "(bonus, state)"}
PartStates = dict[str, Any]  # {name of a part: its own state}, without those that have none


@dataclass(frozen=True)
class Plan:
    """What an agent is built for: its configuration, what its environment shows and takes, and the style of its layers.

    `kinds` are the networks of imported kinds of observation, by kind.
    """

    config: Config
    obs_specs: ObsSpecs
    action_spec: ActionSpec
    style: Style
    image_style: Style
    kinds: dict[str, ObservationNetwork]


@struct.dataclass
class Example:
    """One record of zeros, from which modules learn the shapes of what they will see.

    obs {name: [1, ...]}, action [1, A], embed [1, E], state LatentState[1], features [1, F].
    """

    obs: dict[str, jax.Array]
    action: jax.Array
    embed: jax.Array
    state: LatentState
    features: jax.Array


@struct.dataclass
class Seen:
    """What the world model saw in a batch of sequences.

    batch: the records. embed f[B, T, E]: the encoder's output. states LatentState[B, T]: drawn from the posterior, with their
    gradient. posterior, prior [B, T]: the distributions.
    """

    batch: Batch
    embed: jax.Array
    states: LatentState
    posterior: LatentDist
    prior: LatentDist

    @property
    def features(self) -> jax.Array:
        """What heads see of the states: f[B, T, F]."""
        return jnp.concatenate([self.states.deter, flatten_stoch(self.states.deter, self.states.stoch)], -1)


class PartOptions(Section):
    """A weight. Derive from it to add options."""

    weight: float = Field(default=1.0, ge=0, description="factor of this part in the total")


class Part(Extension):
    """The base of representations, loss terms and exploration bonuses. Every method may be left as it is.

    Args:
      options: an object of the class's `Options`, by default a `PartOptions`.
      plan: what the agent is built for. Modules are made here, once; parameters are not.
      weight: in the place of that of the options.

    Attributes:
      weight: factor of the part's losses; of an exploration bonus, factor of its reward.
      term: what the names of its losses begin with: "term" alone or "term/more". Its own name, unless a class says otherwise.
      specs: observations that it needs from the replay beside the encoder's.
    """

    Options: ClassVar[type[Section]] = PartOptions
    specs: Specs = ()

    def __init__(self, options: Any, plan: Plan, weight: float | None = None) -> None:
        super().__init__(options)
        self.plan = plan
        self.weight: float = options.weight if weight is None else weight
        self.term = self.name

    def init_params(self, key: jax.Array, example: Example) -> dict[str, Params]:
        """Fresh parameters: new entries of the world model's, {entry: parameters}. Name them after the part."""
        return {}

    def init_state(self, params: dict[str, Params]) -> Any:
        """The state that the part keeps in the agent, from the world model's fresh parameters; {} for none.

        Copy arrays that come from the parameters: an alias could not be donated twice.
        """
        return {}

    def losses(
        self, nets: "Networks", params: dict[str, Params], state: Any, key: jax.Array, seen: Seen
    ) -> dict[str, jax.Array]:
        """Loss terms of a batch before weighting: {"term" or "term/more": f32[B, T], or f32[] of a mean}.

        Args:
          params: the world model's; {entry: parameters}.
          state: the part's own.
          key: of this part and update alone.
        """
        return {}

    def before_update(self, params: dict[str, Params], state: Any, step: jax.Array) -> tuple[dict[str, Params], Any]:
        """The world model's parameters and the part's state as update `step` i32[] begins with them."""
        return params, state

    def gradients(self, gradients: dict[str, Params], step: jax.Array) -> dict[str, Params]:
        """The world model's gradients as the optimiser gets them."""
        return gradients


class Representation(Part):
    """What shapes the latent beside reward and dynamics; chosen by `model.representation`.

    Attributes:
      decoded: the observations that `decode` predicts.
    """

    door = "representation"
    decoded: Specs = ()

    def decode(self, params: dict[str, Params], state: LatentState) -> dict[str, jax.Array]:
        """{observation key: prediction [.., ...]} of states [..] as the losses take them; {} where nothing is decoded."""
        return {}


class LossTerm(Part):
    """A loss beside those of the algorithm, with parameters of its own where it has some; chosen by `loss.terms`."""

    door = "loss"


class ExplorationBonus(Part):
    """A reward that is added to the predicted one in imagination; chosen by `behavior.bonuses`."""

    door = "bonus"

    def reward(
        self, nets: "Networks", params: dict[str, Params], state: Any, features: jax.Array, action: jax.Array
    ) -> tuple[jax.Array, Any]:
        """The bonus for arriving in each imagined state.

            index      0     1     2    ...    H
            state     s_0   s_1   s_2   ...   s_H
            action    a_0   a_1   a_2   ...
            bonus      -    r_1   r_2   ...   r_H      r_{k+1} may use s_k, a_k and s_{k+1}

        Args:
          params: the world model's, which get no gradient here.
          state: the part's own.
          features: f[H+1, N, F] of all imagined states.
          action: f32[H, N, A].

        Returns:
          f32[H+1, N], of which index 0 counts only where a value begins with the state's own reward (V1, V2); the new state.
        """
        raise NotImplementedError


def call(part: Part, method: str, *arguments: Any) -> Any:
    """Calls a method of a part; what somebody else's code raises there becomes one line.

    Raises:
      ConfigError: the method raised an error; with its place in the part's module.
    """
    try:
        return getattr(part, method)(*arguments)
    except DreamerError:
        raise
    except RAISED_OUTSIDE as error:
        place = getattr(sys.modules.get(type(part).__module__), "__file__", None)
        raise ConfigError(f"{part.name}.{method} raised {one_line(error, place)}") from error


def call_for_pair(part: Part, method: str, *arguments: Any) -> tuple[Any, Any]:
    """As `call`, of a method that returns two things."""
    result = call(part, method, *arguments)
    if not isinstance(result, tuple) or len(result) != 2:
        raise ConfigError(f"{part.name}.{method} returned {type(result).__name__}; the tuple {PAIRS[method]} was expected")
    return result


def loss_of(parts: Sequence[Part], name: str) -> Part | None:
    """The part that a loss term belongs to; None for those of the algorithm."""
    return next((part for part in parts if name.split("/")[0] == part.term), None)


def part_losses(
    parts: Sequence[Part], nets: "Networks", params: dict[str, Params], states: PartStates, key: jax.Array, seen: Seen
) -> dict[str, jax.Array]:
    """The loss terms of all parts, before weighting.

    Raises:
      ConfigError: a part names or shapes a loss in a way that cannot be used.
    """
    losses = {}
    for i, part in enumerate(parts):
        own = call(part, "losses", nets, params, states.get(part.name, {}), jax.random.fold_in(key, 1 + i), seen)
        if not isinstance(own, dict):
            raise ConfigError(f"{part.name}.losses returned {type(own).__name__}; a dict of losses was expected")
        for name, loss in own.items():
            if loss_of([part], name) is None:
                raise ConfigError(
                    f"{part.name}.losses returned a loss named {name!r}; {part.term!r} or '{part.term}/...' was expected"
                )
            if loss.shape not in ((), seen.batch.reward.shape):
                raise ConfigError(
                    f"loss {name!r} has shape {list(loss.shape)}; {list(seen.batch.reward.shape)}, one for each timestep, or a "
                    "mean was expected. Take the mean of a loss over pairs of timesteps"
                )
        losses |= own
    return losses
