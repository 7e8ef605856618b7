"""What an agent dreams: sequences of its replay, of which it sees the beginning and imagines the rest.

    record         0     1    ...    4      5      6    ...
    observation   o_0   o_1   ...   o_4     -      -            the context is filtered: states of the posterior
    action               a_0  ...   a_3    a_4    a_5   ...     the actions that were really taken: then states of the prior

Nothing here changes a run: the sequences are chosen by a generator of this module's own, and the replay is only read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.agent import distributions, rssm
from dreamer_jax.agent.devices import compiler_options
from dreamer_jax.agent.heads import outcomes
from dreamer_jax.agent.networks import Networks, apply
from dreamer_jax.agent.types import LatentState, Params, StoredLatent
from dreamer_jax.core.algorithm import ModelConfig
from dreamer_jax.core.config import Config
from dreamer_jax.replay.buffer import Replay

CONTEXT = 5  # records that are seen before a dream begins; a quarter of pieces that are shorter than 20
LENGTH = 50  # the most records of a piece, its context among them
PIECES = 4  # of different episodes, side by side
SAMPLES = 16  # of the latents of a piece


@dataclass(frozen=True)
class Piece:
    """A sequence of T records within one episode: obs {name: [T, ...]}, prev_action f32[T, A], reward f32[T].

    `start` is the stored latent of the record before it; None where the sequence begins from the zero state.
    """

    obs: dict[str, np.ndarray]
    prev_action: np.ndarray
    reward: np.ndarray
    start: tuple[np.ndarray, np.ndarray] | None

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def context(self) -> int:
        """How many of the records are seen."""
        return min(CONTEXT, math.ceil(len(self) / 4))


@dataclass(frozen=True)
class Dream:
    """What was recorded in K pieces and what was imagined, over L records, those of the longest piece.

    Attributes:
      length: i64[K], records of each piece; what stands behind them means nothing.
      context: i64[K], how many of them were seen.
      images: {observation key: (real u8[K, L, H, W, C] in 0..255, imagined f32[K, L, H, W, C] in [0, 1])}; one sample
        of the latents.
      values: {observation key: (real f32[K, L, n], imagined f32[K, S, L, n])} of vectors and indices, in the environment's
        units, with S samples of the latents.
      reward: (real f32[K, L], predicted f32[K, S, L]), through tanh where the model learns them so.
    """

    length: np.ndarray
    context: np.ndarray
    images: dict[str, tuple[np.ndarray, np.ndarray]]
    values: dict[str, tuple[np.ndarray, np.ndarray]]
    reward: tuple[np.ndarray, np.ndarray]


def choose_pieces(replay: Replay, rng: np.random.Generator) -> list[Piece]:
    """Takes a piece from each of up to PIECES episodes, at random; no episode twice.

    Episodes of at least LENGTH records are taken first, then the longest ones. The list is empty while no episode has the two
    records that a context and an imagined record need.
    """
    held = replay.episodes()
    held = rng.permutation(held[held[:, 2] - held[:, 1] > 1])
    by_length = np.argsort(-np.minimum(held[:, 2] - held[:, 1], LENGTH), kind="stable")
    pieces = []
    for env, begin, end in held[by_length[:PIECES]].tolist():
        first = int(rng.integers(begin, max(begin, end - LENGTH) + 1))
        before = max(begin, first - 1)
        records = replay.read(before, min(first + LENGTH, end), env)
        own = {name: values[first - before :] for name, values in records.items()}
        obs = {name.removeprefix("obs/"): values for name, values in own.items() if name.startswith("obs/")}
        start = None
        if before < first and replay.latent:
            start = records["latent/deter"][0], records["latent/stoch"][0]
        pieces.append(Piece(obs, own["prev_action"], own["reward"], start))
    return pieces


def imagine_pieces(
    nets: Networks,
    config: Config,
    params: Params,
    key: jax.Array,
    obs: dict[str, jax.Array],
    prev_action: jax.Array,
    start: LatentState,
    is_first: jax.Array,
    context: jax.Array,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Filters the context of K pieces and imagines the rest, with S samples of the latents.

    Args:
      params: the world model's.
      obs: {name: [K, C, ...]}, the first observations.
      prev_action: f32[K, L, A] of all records.
      start: LatentState[K] before the first record.
      is_first: bool[K], where a piece starts from the zero state instead.
      context: i[K], from 1 to C, how many records of each piece are seen.

    Returns:
      observations of all records as `decode` gives them, {name: [K, S, L, ...]}, of images [K, L, H, W, C] only those of the
      first sample; and predicted rewards f32[K, S, L].
    """
    count, length = prev_action.shape[:2]
    embed = apply(nets.encoder, params["encoder"], obs)  # [K, C, E]
    first = jnp.zeros((count, CONTEXT), bool).at[:, 0].set(is_first)
    start, action, embed, first, context = jax.tree.map(
        lambda x: jnp.repeat(x, SAMPLES, 0), (start, prev_action.astype(nets.dtype), embed, first, context)
    )  # [K*S, ...]
    rows, steps = jnp.arange(count * SAMPLES), jnp.arange(length)
    observe_key, imagine_key = jax.random.split(key)
    _, seen, _, _ = rssm.observe(nets, params, observe_key, start, action[:, :CONTEXT], embed, first)
    begin = jax.tree.map(lambda x: x[rows, context - 1], seen)
    # The actions that lead to the records behind the context; where a piece has no more of them, its last one again.
    ahead = action[rows, jnp.minimum(context + steps[:-1, None], length - 1)]  # [L-1, K*S, A]
    imagined = rssm.imagine_actions(nets, params, imagine_key, begin, ahead)
    place = jnp.where(steps < context[:, None], steps, CONTEXT + steps - context[:, None])  # [K*S, L] in both together
    states: LatentState = jax.tree.map(
        lambda seen, imagined: jnp.concatenate([seen, jnp.swapaxes(imagined, 0, 1)], 1)[rows[:, None], place].reshape(
            (count, SAMPLES, length, *seen.shape[2:])
        ),
        seen,
        imagined,
    )
    decoded = decode(nets, config.model, params, states)
    # The compiler drops what nobody reads: images of one sample are computed, not of all.
    one = decode(nets, config.model, params, jax.tree.map(lambda x: x[:, 0], states))
    decoded |= {name: value for name, value in one.items() if nets.obs_specs[name].kind == "image"}
    return decoded, outcomes(nets, config.behavior, params, rssm.features(states))[0]


def decode(nets: Networks, config: ModelConfig, params: Params, states: LatentState) -> dict[str, jax.Array]:
    """The decoder's observations of states [..]: vectors in the environment's units, images in [0, 1], indices as numbers.

    Kinds of observation that somebody else has registered are left out, and without a decoder there is nothing.
    """
    decoded = {}
    for name, value in nets.representation.decode(params, states).items():
        kind, value = nets.obs_specs[name].kind, value.astype(jnp.float32)
        if kind == "discrete":
            decoded[name] = value.argmax(-1)
        elif kind == "vector":
            decoded[name] = distributions.symexp(value) if config.symlog else value
        elif kind == "image":
            decoded[name] = value
    return decoded


class Dreamer:
    """Lets agents of one configuration dream; compiled once for all of them, at the first dream.

    dream = Dreamer(nets, config)
    dream(params, replay, seed, frames)
    """

    def __init__(self, nets: Networks, config: Config) -> None:
        self._nets, self._config = nets, config
        self._from_stored = jax.jit(nets.latent.from_stored)
        self._imagine = jax.jit(
            lambda params, key, *records: imagine_pieces(nets, config, params, key, *records),
            compiler_options=compiler_options(nets.layout),
        )

    def __call__(self, params: Params, replay: Replay, seed: int, frames: int) -> Dream | None:
        """Dreams of what a replay holds; None while its episodes are too short.

        Args:
          params: the world model's.
          seed, frames: decide the pieces and the samples.
        """
        rng = np.random.default_rng([seed, frames])
        pieces = choose_pieces(replay, rng)
        if not pieces:
            return None
        key = jax.random.key(int(rng.integers(2**31)))
        rows = [*pieces, *[pieces[0]] * (PIECES - len(pieces))]  # the program has one shape
        obs = {name: _stacked([piece.obs[name][:CONTEXT] for piece in rows], CONTEXT) for name in self._nets.obs_specs}
        action = _stacked([piece.prev_action for piece in rows], LENGTH)
        is_first = np.array([piece.start is None for piece in rows])
        context = np.array([piece.context for piece in rows])
        imagined = self._imagine(params, key, obs, action, self._start(rows), is_first, context)
        decoded, reward = jax.device_get(imagined)

        count, length = len(pieces), max(map(len, pieces))
        real = {name: _stacked([piece.obs[name] for piece in pieces], length) for name in decoded}
        real_reward = _stacked([piece.reward for piece in pieces], length)
        if self._config.behavior.reward == "tanh":
            real_reward = np.tanh(real_reward)
        images, values = {}, {}
        for name, value in decoded.items():
            if self._nets.obs_specs[name].kind == "image":
                images[name] = self._nets.obs_specs[name].as_pixels(real[name]), value[:count, :length]
            else:
                imagined = value[:count, :, :length]
                values[name] = (
                    real[name].reshape((count, length, -1)).astype(np.float32),
                    imagined.reshape((count, SAMPLES, length, -1)).astype(np.float32),
                )
        lengths = np.array([len(piece) for piece in pieces])
        return Dream(lengths, context[:count], images, values, (real_reward, reward[:count, :, :length]))

    def _start(self, pieces: Sequence[Piece]) -> LatentState:
        """The latents [K] before the first records; any where a piece starts from the zero state."""
        stored = [piece.start for piece in pieces if piece.start is not None]
        if not stored:
            return rssm.initial_state(self._nets, (len(pieces),))
        deter, stoch = (np.stack(parts) for parts in zip(*(piece.start or stored[0] for piece in pieces), strict=True))
        dtype = self._nets.dtype
        classes = self._nets.latent.spec(dtype).classes
        return self._from_stored(
            StoredLatent(jnp.asarray(deter.view(dtype)), jnp.asarray(stoch if classes else stoch.view(dtype)))
        )


def _stacked(pieces: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Pieces [T_k, ...] with zeros behind them -> [K, length, ...]."""
    stacked = np.zeros((len(pieces), length, *pieces[0].shape[1:]), pieces[0].dtype)
    for row, piece in zip(stacked, pieces, strict=True):
        row[: len(piece)] = piece
    return stacked
