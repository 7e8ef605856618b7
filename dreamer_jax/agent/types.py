"""The shapes and records that travel between modules.

Letters: B batch, T time, H imagination horizon, N = B*T imagination starts, A action, E embedding,
D deter, S x K stoch (groups x classes; S alone where latents are not categorical), F = D + S*K features.
Replay data is batch-major [B, T]; imagination is time-major [H, N].
"""

from typing import Any

import jax
from flax import struct
from flax.training.train_state import TrainState

Params = Any
Metrics = dict[str, jax.Array]


@struct.dataclass
class LatentState:
    """The RSSM's state (h_t, z_t): deter f[.., D] and stoch f[.., S, K], or f[.., S] where latents are not categorical."""

    deter: jax.Array
    stoch: jax.Array


@struct.dataclass
class CategoricalLatent:
    """A categorical posterior or prior: raw head outputs (before unimix), logits f[.., S, K]."""

    logits: jax.Array


@struct.dataclass
class NormalLatent:
    """A diagonal normal posterior or prior: mean, std f32[.., S]."""

    mean: jax.Array
    std: jax.Array


LatentDist = Any  # a CategoricalLatent or a NormalLatent, as latents.py makes them


@struct.dataclass
class StoredLatent:
    """A latent as the replay holds it: deter f[.., D] in the compute dtype; stoch [.., S], class indices u8|u16 or as deter."""

    deter: jax.Array
    stoch: jax.Array


@struct.dataclass
class Batch:
    """Replayed sequences.

    obs {name: [B, T, ...]}; prev_action f32[B, T, A], the action that LED TO the observation beside it;
    reward f32[B, T], received on arriving there; is_first, is_last, is_terminal bool[B, T];
    start LatentState[B], the latent before the first step.
    """

    obs: dict[str, jax.Array]
    prev_action: jax.Array
    reward: jax.Array
    is_first: jax.Array
    is_last: jax.Array
    is_terminal: jax.Array
    start: LatentState


@struct.dataclass
class Trajectory:
    """Imagined steps: features f[H, N, F] of states 0..H-1, action f32[H, N, A] taken in each, and state H, LatentState[N]."""

    features: jax.Array
    action: jax.Array
    last: LatentState


@struct.dataclass
class ReturnNorm:
    """Running percentiles of imagined returns: low, high f32[]."""

    low: jax.Array
    high: jax.Array


@struct.dataclass
class AgentState:
    """Everything that an update reads and writes; one pytree, donated to `train_step`."""

    world_model: TrainState
    actor: TrainState
    critic: TrainState
    slow_critic: Params
    return_norm: ReturnNorm
    key: jax.Array  # the run's typed key; an update uses fold_in(key, step)
    step: jax.Array  # i32[], updates done
    parts: dict[str, Any] = struct.field(default_factory=dict)  # {name of a part: its own state}, of those that have one


@struct.dataclass
class ActingParams:
    """The parameters that acting needs: world model (encoder and RSSM are used) and actor."""

    world_model: Params
    actor: Params


@struct.dataclass
class PolicyCarry:
    """What a policy remembers between steps: latent LatentState[B], prev_action f32[B, A]."""

    latent: LatentState
    prev_action: jax.Array
