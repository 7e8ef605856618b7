"""Dreams: pieces lie within episodes, states are those of a loop over single steps, and pictures show what they say."""

import dataclasses
import itertools
from functools import cache, partial

import hypothesis
import hypothesis.strategies as st
import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CONFIG, MODEL, OBS_SPECS, quick_jit, random_params
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from dreamer_jax.agent import distributions, rssm
from dreamer_jax.agent.heads import outcomes
from dreamer_jax.agent.layout import CPU
from dreamer_jax.agent.networks import Networks, apply, build_networks
from dreamer_jax.agent.types import LatentState, Params
from dreamer_jax.core.config import Config
from dreamer_jax.core.figures import BLUE, RED
from dreamer_jax.core.spaces import ActionSpec, LatentSpec, ObsSpec
from dreamer_jax.play import dream_pictures
from dreamer_jax.play.dreams import LENGTH, PIECES, SAMPLES, Dream, Dreamer, Piece, choose_pieces
from dreamer_jax.replay.buffer import Replay

SPECS = {**OBS_SPECS, "camera": ObsSpec("image", (16, 16, 1))}
ACTION = ActionSpec(discrete=False, size=2)
LATENT = LatentSpec(deter=MODEL.deter, stoch=MODEL.stoch, classes=MODEL.classes, bfloat16=False)


def _config(**model: object) -> Config:
    return CONFIG.model_copy(update={"model": MODEL.model_copy(update={"depth": 2, **model})})


@cache
def _nets(**model: object) -> Networks:
    return build_networks(_config(**model), SPECS, ACTION, jnp.float32, CPU)


@cache
def _params(**model: object) -> Params:
    return random_params(_nets(**model))[0]


def _replay(lengths: list[int], latent: LatentSpec | None = LATENT, capacity: int = 200, num_envs: int = 1) -> Replay:
    """Episodes of given lengths, one after another; a record's reward is its number, its first coordinate its episode's."""
    replay = Replay(SPECS, ACTION, latent, capacity * num_envs, num_envs, 4, False, 0)
    rng = np.random.default_rng(0)
    for episode, length in enumerate(lengths):
        for t in range(length):
            obs = {
                "position": rng.normal(0, 2, (num_envs, 3)).astype(np.float32),
                "mode": rng.integers(4, size=num_envs).astype(np.int32),
                "camera": rng.integers(256, size=(num_envs, 16, 16, 1)).astype(np.uint8),
            }
            obs["position"][:, 0] = episode
            action = rng.uniform(-1, 1, (num_envs, 2)).astype(np.float32) * (t > 0)
            flags = [np.full(num_envs, flag) for flag in (t == 0, t == length - 1, False)]
            stored = ()
            if latent:
                deter = np.full((num_envs, latent.deter), replay.added / 100, np.float32)
                stored = deter, rng.integers(latent.classes, size=(num_envs, latent.stoch)).astype(np.uint8)
            replay.add(obs, action, np.full(num_envs, replay.added, np.float32), *flags, *stored)
    return replay


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    lengths=st.lists(st.integers(1, 130), min_size=1, max_size=8),
    latents=st.booleans(),
    num_envs=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_pieces_lie_within_episodes(lengths, latents, num_envs, seed):
    """Contiguous held records of one episode, of different ones; as many and as long as there are; nothing is changed."""
    replay = _replay(lengths, LATENT if latents else None, num_envs=num_envs)
    before = dict(replay.rng.bit_generator.state), {name: values.copy() for name, values in replay.storage.items()}
    pieces = choose_pieces(replay, np.random.default_rng(seed))
    assert replay.rng.bit_generator.state == before[0]
    for name, values in before[1].items():
        np.testing.assert_array_equal(replay.storage[name], values)

    starts = np.cumsum([0, *lengths])
    oldest = max(0, replay.added - replay.length)
    held = [int(end - max(start, oldest)) for start, end in itertools.pairwise(starts)]
    longest = sorted((min(length, LENGTH) for length in held * num_envs if length > 1), reverse=True)[:PIECES]
    assert sorted(map(len, pieces), reverse=True) == longest
    found = []
    for piece in pieces:
        np.testing.assert_array_equal(np.diff(piece.reward), 1)
        assert piece.reward[0] >= oldest
        (episode,) = set(piece.obs["position"][:, 0].astype(int))
        first = int(piece.reward[0])
        assert starts[episode] <= first
        assert piece.reward[-1] < starts[episode + 1]
        env = next(
            env
            for env in range(num_envs)
            if np.array_equal(replay.storage["obs/position"][env, first % replay.length], piece.obs["position"][0])
        )
        found.append((env, episode))
        if latents and first > max(starts[episode], oldest):
            assert piece.start is not None
            np.testing.assert_array_equal(piece.start[0], np.float32((first - 1) / 100))
        else:
            assert piece.start is None
    assert len(set(found)) == len(found)


def test_every_place_of_a_long_episode_is_chosen():
    """From the first record to the last at which LENGTH records are left."""
    replay = _replay([LENGTH + 3])
    firsts = {int(choose_pieces(replay, np.random.default_rng(seed))[0].reward[0]) for seed in range(60)}
    assert firsts == {0, 1, 2, 3}


@pytest.mark.parametrize(("length", "context"), [(2, 1), (4, 1), (5, 2), (8, 2), (16, 4), (17, 5), (20, 5), (50, 5)])
def test_short_pieces_have_a_short_context(length, context):
    """A quarter, rounded up, and CONTEXT at most."""
    piece = Piece({}, np.zeros((length, 1)), np.zeros(length), None)
    assert piece.context == context
    assert 1 <= context < length


def _loop(nets: Networks, config: Config, params: Params, piece: Piece) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Observations and rewards of one piece, from one record to the next without a scan, with the likeliest latents."""
    none = jnp.zeros((1, nets.rssm.config.stoch))
    state = rssm.initial_state(nets, (1,))
    if piece.start is not None:
        deter, stoch = piece.start
        state = LatentState(jnp.asarray(deter)[None], jnp.asarray(np.eye(MODEL.classes, dtype=np.float32)[stoch])[None])
    encode, observe, imagine, see = _steps(nets, config)
    rows = []
    for t in range(len(piece)):
        action = jnp.asarray(piece.prev_action[t : t + 1])
        if t < piece.context:
            embed = encode(params["encoder"], {name: value[t : t + 1] for name, value in piece.obs.items()})
            is_first = jnp.array([t == 0 and piece.start is None])
            state, _ = observe(params, none, state, action, embed, is_first)
        else:
            state, _ = imagine(params, none, state, action)
        rows.append(see(params, state))
    decoded, reward = jax.tree.map(lambda *rows: np.concatenate(rows).astype(float), *rows)
    decoded["position"] = np.sign(decoded["position"]) * (np.exp(np.abs(decoded["position"])) - 1)  # symlog's inverse
    decoded["mode"] = np.argmax(decoded["mode"], -1)
    return decoded, reward


def _steps(nets: Networks, config: Config) -> tuple:
    """Single steps, compiled: encode, observe, imagine, and what can be seen of a state."""

    def see(params, state):
        reward, _ = outcomes(nets, config.behavior, params, rssm.features(state))
        return nets.representation.decode(params, state), reward

    steps = partial(apply, nets.encoder), partial(rssm.observe_step, nets), partial(rssm.imagine_step, nets), see
    return tuple(map(quick_jit, steps))


def test_a_dream_is_that_of_a_loop(monkeypatch):
    """Posterior decodings in the context and the prior's after it, of all pieces, from stored latents and the zero state."""
    monkeypatch.setattr(distributions, "sample", lambda seed, dist: dist.mode())
    nets, config, params = _nets(), _config(), _params()
    replay = _replay([70, 60, 9, 3, 2])
    pieces = choose_pieces(replay, np.random.default_rng([0, 8]))
    dream = Dreamer(nets, config)(params, replay, 0, 8)
    assert dream is not None
    assert {piece.start is None for piece in pieces} == {True, False}
    assert dream.length.tolist() == [len(piece) for piece in pieces] == [50, 50, 9, 3]
    assert dream.context.tolist() == [5, 5, 3, 1]
    for k, piece in enumerate(pieces):
        end = len(piece)
        decoded, reward = _loop(nets, config, params, piece)
        np.testing.assert_array_equal(dream.reward[0][k, :end], piece.reward)
        np.testing.assert_array_equal(dream.images["camera"][0][k, :end], piece.obs["camera"])
        np.testing.assert_allclose(dream.images["camera"][1][k, :end], decoded["camera"], atol=1e-4)
        np.testing.assert_array_equal(dream.values["position"][0][k, :end], piece.obs["position"])
        np.testing.assert_array_equal(dream.values["mode"][0][k, :end, 0], piece.obs["mode"])
        for sample in (0, SAMPLES - 1):
            np.testing.assert_allclose(dream.reward[1][k, sample, :end], reward, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(dream.values["position"][1][k, sample, :end], decoded["position"], rtol=1e-3, atol=1e-3)
            np.testing.assert_array_equal(dream.values["mode"][1][k, sample, :end, 0], decoded["mode"])


def test_samples_differ_and_seeds_decide_them():
    """One program for any number of pieces; the same numbers decide on the same dream."""
    dreamer, params, replay = Dreamer(_nets(), _config()), _params(), _replay([70, 60, 20])
    one, same, other, seed = (dreamer(params, replay, *numbers) for numbers in ((1, 2), (1, 2), (1, 3), (2, 2)))
    few = dreamer(params, _replay([30]), 1, 2)
    assert few is not None
    assert len(few.length) == 1
    assert few.reward[1].shape == (1, SAMPLES, 30)
    imagined = one.values["position"][1]
    assert imagined.shape == (3, SAMPLES, 50, 3)
    assert np.ptp(imagined, axis=1).min() > 0
    for a, b in zip(jax.tree.leaves(vars(one)), jax.tree.leaves(vars(same)), strict=True):
        np.testing.assert_array_equal(a, b)
    for different in (other, seed):
        assert not np.array_equal(imagined, different.values["position"][1])
    assert dreamer._imagine._cache_size() == 1


def test_recorded_images_are_shown_by_their_own_bounds():
    """Values from 0 to 5 become 0, 51, ... 255, so that recorded and imagined images look alike."""
    replay, nets = _replay([10]), _nets()
    replay.storage["obs/camera"] %= 6
    bounded = dataclasses.replace(nets, obs_specs={**nets.obs_specs, "camera": ObsSpec("image", (16, 16, 1), high=5)})
    plain, stretched = (Dreamer(each, _config())(_params(), replay, 1, 2) for each in (nets, bounded))
    assert plain is not None
    assert stretched is not None
    np.testing.assert_array_equal(stretched.images["camera"][0], 51 * plain.images["camera"][0])
    assert plain.images["camera"][0].max() == 5
    np.testing.assert_array_equal(stretched.values["position"][0], plain.values["position"][0])


def test_each_channel_is_shown_by_its_own_bounds():
    spec = ObsSpec("image", (16, 16, 3), high=(1, 3, 255))
    np.testing.assert_array_equal(spec.as_pixels(np.uint8([[1, 2, 7], [0, 3, 255]])), [[255, 170, 7], [0, 255, 255]])


def test_there_is_no_dream_of_episodes_of_one_record():
    dreamer = Dreamer(_nets(), _config())
    assert dreamer(_params(), _replay([]), 0, 0) is None
    assert dreamer(_params(), _replay([1, 1]), 0, 0) is None


def test_without_a_decoder_there_are_rewards_alone():
    """Real ones through tanh where they are learned so."""
    nets = _nets(representation="reward_only")
    config = _config(representation="reward_only")
    config = config.model_copy(update={"behavior": config.behavior.model_copy(update={"reward": "tanh"})})
    dream = Dreamer(nets, config)(_params(representation="reward_only"), _replay([3]), 0, 0)
    assert dream is not None
    assert (dream.images, dream.values) == ({}, {})
    np.testing.assert_allclose(dream.reward[0], np.tanh([[0, 1, 2]]))
    assert dream_pictures.draw_video(dream) is None
    assert dream_pictures.draw_figure(dream, "rewards").dtype == np.uint8


def _dream(channels: int = 3, size: tuple[int, int] = (8, 16)) -> Dream:
    """Two pieces of 6 and 4 records, of which 2 and 1 were seen; dark images that are imagined bright."""
    rng = np.random.default_rng(0)
    shape = (2, 6, *size, channels)
    real = rng.integers(100, size=shape).astype(np.uint8)
    values = rng.normal(0, (5, 1), (2, 6, 2)).astype(np.float32)
    imagined = values[:, None] + rng.normal(size=(2, SAMPLES, 6, 2)).astype(np.float32)
    reward = rng.normal(size=(2, 6)).astype(np.float32)
    return Dream(
        length=np.array([6, 4]),
        context=np.array([2, 1]),
        images={"camera": (real, real / 255 + 100 / 255)},
        values={"position": (values, imagined)},
        reward=(reward, np.repeat(reward[:, None], SAMPLES, 1)),
    )


def test_a_video_shows_recorded_imagined_and_difference():
    """Every cell by hand: images of 8 x 16 are enlarged four times; the frame says what was seen, and an end is empty."""
    dream = _dream()
    video = dream_pictures.draw_video(dream)
    assert video is not None
    height, width = 4 * 8 + 2 * dream_pictures.BORDER, 4 * 16 + 2 * dream_pictures.BORDER
    assert (video.dtype, video.shape) == (np.uint8, (6, 3 * height, 2 * width, 3))
    inside = slice(dream_pictures.BORDER, -dream_pictures.BORDER)
    real = dream.images["camera"][0]
    for k in range(2):
        for t in range(6):
            cells = [video[t, r * height : (r + 1) * height, k * width : (k + 1) * width] for r in range(3)]
            if t >= dream.length[k]:
                assert all((cell == dream_pictures.BACKGROUND).all() for cell in cells)
                continue
            color = np.rint(255 * np.array(to_rgb(BLUE if t < dream.context[k] else RED)))
            for cell, expected in zip(cells, (real[k, t], real[k, t] + 100, np.full((8, 16, 3), 177)), strict=True):
                np.testing.assert_array_equal(cell[0], np.tile(color, (width, 1)))
                np.testing.assert_array_equal(cell[:, -1], np.tile(color, (height, 1)))
                np.testing.assert_array_equal(cell[inside, inside][::4, ::4], expected)
                np.testing.assert_array_equal(cell[inside, inside][3::4, 3::4], expected)


def test_images_of_several_sizes_lie_below_each_other():
    dream, other = _dream(), _dream(channels=1, size=(96, 48))
    both = Dream(dream.length, dream.context, {**dream.images, "map": other.images["camera"]}, {}, dream.reward)
    video, above, below = map(dream_pictures.draw_video, (both, dream, other))
    np.testing.assert_array_equal(video[:, : above.shape[1]], above)
    np.testing.assert_array_equal(video[:, above.shape[1] :, : below.shape[2]], below)
    assert (video[:, above.shape[1] :, below.shape[2] :] == dream_pictures.BACKGROUND).all()


@pytest.mark.parametrize(
    ("channels", "shown"), [(1, [0, 0, 0]), (2, [1, 1, 1]), (3, [0, 1, 2]), (4, [3, 3, 3]), (9, [6, 7, 8])]
)
def test_any_number_of_channels_can_be_seen(channels, shown):
    images = np.random.default_rng(0).integers(256, size=(2, 4, 5, channels)).astype(np.uint8)
    np.testing.assert_array_equal(dream_pictures.as_rgb(images), images[..., shown])


def test_the_numbers_that_vary_most_are_shown():
    """In the order of the observation; what stands behind the end of a piece does not count."""
    real = np.zeros((2, 6, 6), np.float32)
    real[:, ::2] = [1, 6, 2, 5, 3, 4]
    real[1, 4:, 0] = 1000  # behind the end
    dream = Dream(np.array([6, 4]), np.array([2, 1]), {}, {"x": (real, np.zeros((2, SAMPLES, 6, 6)))}, _dream().reward)
    assert [name for name, *_ in dream_pictures._numbers(dream)] == ["x[1]", "x[3]", "x[4]", "x[5]"]
    (_, shown, _), *_ = dream_pictures._numbers(dream)
    np.testing.assert_array_equal(shown, real[..., 1])


def test_a_panel_shows_recorded_mean_band_and_context():
    rng = np.random.default_rng(0)
    real, imagined = rng.normal(size=10), rng.normal(size=(SAMPLES, 10))
    axes = Figure().subplots()
    dream_pictures._draw_number(axes, real, imagined, 3)
    lines = {str(line.get_label()): line.get_ydata() for line in axes.lines}
    np.testing.assert_array_equal(lines["recorded"], real)
    np.testing.assert_allclose(lines["imagined, mean"], imagined.sum(0) / SAMPLES)
    band = axes.collections[0].get_paths()[0].vertices
    ordered = np.sort(imagined, 0)  # 5% of the way from the first to the last of 16 is 0.75 steps
    assert band[:, 1].min() == pytest.approx((0.25 * ordered[0] + 0.75 * ordered[1]).min())
    assert band[:, 1].max() == pytest.approx((0.25 * ordered[-1] + 0.75 * ordered[-2]).max())
    assert axes.patches[0].get_extents().transformed(axes.transData.inverted()).x1 == pytest.approx(2.5)


def test_a_figure_is_a_picture_that_can_be_read_back(tmp_path):
    picture = dream_pictures.draw_figure(_dream(), "a dream")
    dream_pictures.write_picture(picture, tmp_path / "x.png")
    np.testing.assert_array_equal(iio.imread(tmp_path / "x.png"), picture)
    assert picture.ndim == 3
    assert picture.shape[-1] == 3
    assert np.ptp(picture) > 200
    assert not np.array_equal(picture, dream_pictures.draw_figure(_dream(), "another"))
