"""Images of any size and number in encoder and decoder, beside other observations; parameter counts of every model size."""

from functools import partial

import chex
import gymnasium
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.agent.convolutions import ImageConv, ImageDecoder, ImageEncoder
from dreamer_jax.agent.layers import MLP, Linear
from dreamer_jax.agent.layout import ACCELERATOR, CPU
from dreamer_jax.agent.networks import apply, build_networks, key_layers
from dreamer_jax.agent.representations.reconstruction import decoder_losses
from dreamer_jax.agent.train_step import count_params
from dreamer_jax.core.algorithm import ModelConfig
from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError, EnvError
from dreamer_jax.core.presets import load_config
from dreamer_jax.core.spaces import ActionSpec, ObsSpec
from dreamer_jax.envs.observations import ObservationConversion

BATCH = (2, 3)
MODEL = ModelConfig(deter=16, stoch=2, classes=3, units=8, depth=2, encoder_layers=1, decoder_layers=1)
SPECS = {  # not sorted: the order of the keys must not matter
    "speed": ObsSpec("vector", (2,)),
    "map": ObsSpec("image", (20, 16, 2)),
    "front": ObsSpec("image", (16, 32, 3)),
    "gear": ObsSpec("discrete", (), classes=4),
    "back": ObsSpec("image", (16, 32, 1)),
    "height": ObsSpec("vector", ()),
}
MIXED = {"camera": ObsSpec("image", (16, 32, 3)), "joint": ObsSpec("vector", (2,)), "goal": ObsSpec("discrete", (), classes=5)}


def _init(module, *inputs):
    """Random parameters: the zeros and ones of fresh biases and scales would hide where they belong."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))["params"]
    return helpers.perturb(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes), seed=0)


def _apply(module, params, *inputs):
    return jax.jit(partial(apply, module))(params, *inputs)


def _pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def _latent() -> tuple[jax.Array, jax.Array]:
    state = helpers.random_state(build_networks(Config(model=MODEL), MIXED, ActionSpec(True, 2), jnp.float32, CPU), 0, BATCH)
    return state.deter, state.stoch


@pytest.mark.parametrize(("height", "width", "rows", "columns"), [(20, 32, 12, 0), (31, 2, 1, 14)])
def test_encoder_repeats_the_last_row_and_column(height, width, rows, columns):
    """Sizes that are no multiple of 16 are padded at the end, up to the next one."""
    encoder, images = ImageEncoder(depth=2), _pixels(*BATCH, height, width, 3)
    padded = np.concatenate([images] + rows * [images[..., -1:, :, :]], -3)
    padded = np.concatenate([padded] + columns * [padded[..., -1:, :]], -2)
    assert padded.shape[-3] % 16 == padded.shape[-2] % 16 == 0
    params = _init(encoder, images)
    tokens = _apply(encoder, params, images)
    # Four halvings leave one position of 4 * depth channels for each 16 x 16 pixels.
    chex.assert_shape(tokens, (*BATCH, padded.shape[-3] * padded.shape[-2] // 256 * 8))
    chex.assert_trees_all_close(tokens, _apply(encoder, params, padded), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(20, 32), (17, 31)])
def test_decoder_drops_what_the_encoder_adds(height, width):
    """Predictions have the size of the images: the top left of those of the next multiple of 16, in [0, 1]."""
    cropped, whole = (ImageDecoder((*size, 3), depth=2, units=8) for size in ((height, width), (32, 32)))
    latent = _latent()
    params = _init(whole, *latent)
    images = _apply(cropped, params, *latent)
    chex.assert_shape(images, (*BATCH, height, width, 3))
    chex.assert_trees_all_close(images, _apply(whole, params, *latent)[:, :, :height, :width], atol=1e-5)
    assert images.min() >= 0
    assert images.max() <= 1


def test_encoder_joins_vectors_indices_and_images():
    """One MLP for all vectors and indices, then a CNN for each image size, which sees the images of that size stacked."""
    rng = np.random.default_rng(1)
    obs = {name: _pixels(*BATCH, *spec.shape) for name, spec in SPECS.items() if spec.kind == "image"}
    obs |= {name: np.float32(rng.normal(0, 3, (*BATCH, *SPECS[name].shape))) for name in ("height", "speed")}
    obs["gear"] = rng.integers(4, size=BATCH, dtype=np.int32)
    encoder = build_networks(Config(model=MODEL), SPECS, ActionSpec(True, 2), jnp.float32, CPU).encoder
    params = _init(encoder, obs)
    assert set(params) == {"mlp", "cnn_16x32", "cnn_20x16"}

    height, speed = (np.sign(obs[name]) * np.log1p(np.abs(obs[name])) for name in ("height", "speed"))
    vectors = np.concatenate([np.eye(4)[obs["gear"]], height[..., None], speed], -1)
    expected = [
        _apply(MLP(1, MODEL.units), params["mlp"], vectors),
        _apply(ImageEncoder(MODEL.depth), params["cnn_16x32"], np.concatenate([obs["back"], obs["front"]], -1)),
        _apply(ImageEncoder(MODEL.depth), params["cnn_20x16"], obs["map"]),
    ]
    chex.assert_trees_all_close(_apply(encoder, params, obs), jnp.concatenate(expected, -1), atol=1e-5)


def test_decoder_predicts_every_key():
    """Images of one size are channels of one prediction, in sorted order; every key has its own shape."""
    decoder, latent = (
        build_networks(Config(model=MODEL), SPECS, ActionSpec(True, 2), jnp.float32, CPU).representation.decoder,
        _latent(),
    )
    params = _init(decoder, *latent)
    predictions = _apply(decoder, params, *latent)
    chex.assert_trees_all_equal(
        {name: prediction.shape for name, prediction in predictions.items()},
        {name: (*BATCH, *(spec.shape if name != "gear" else (4,))) for name, spec in SPECS.items()},
    )

    stacked = _apply(ImageDecoder((16, 32, 4), MODEL.depth, MODEL.units), params["cnn_16x32"], *latent)
    deter, stoch = latent
    hidden = _apply(MLP(1, MODEL.units), params["mlp"], jnp.concatenate([stoch.reshape((*BATCH, -1)), deter], -1))
    expected = {
        "back": stacked[..., :1],
        "front": stacked[..., 1:],
        "map": _apply(ImageDecoder((20, 16, 2), MODEL.depth, MODEL.units), params["cnn_20x16"], *latent),
        "gear": _apply(Linear(4), params["gear"], hidden),
        "height": _apply(Linear(1), params["height"], hidden)[..., 0],
        "speed": _apply(Linear(2), params["speed"], hidden),
    }
    chex.assert_trees_all_close(predictions, expected, atol=1e-5)


# The author's sizes: deter, hidden, classes, depth, units; trainable parameters with 64x64x3 images and 6 continuous actions.
SIZES = {
    "1m": ((512, 64, 4, 4, 64), 686846),
    "12m": ((2048, 256, 16, 16, 256), 10494158),
    "25m": ((3072, 384, 24, 24, 384), 23489326),
    "50m": ((4096, 512, 32, 32, 512), 41650062),
    "100m": ((6144, 768, 48, 48, 768), 93468238),
    "200m": ((8192, 1024, 64, 64, 1024), 165948686),
    "400m": ((12288, 1536, 96, 96, 1536), 372896398),
}
IMAGE, ACTION = (64, 64, 3), ActionSpec(discrete=False, size=6)
MODULES = ("rssm", "encoder", "decoder", "reward", "continue", "actor", "critic")


def _counts(size: str, image: tuple[int, int, int] = IMAGE, action: ActionSpec = ACTION) -> dict[str, int]:
    widths = dict(zip(("deter", "hidden", "classes", "depth", "units"), SIZES[size][0], strict=True))
    nets = build_networks(Config(model=ModelConfig(**widths)), {"image": ObsSpec("image", image)}, action, jnp.bfloat16, CPU)
    return count_params(nets)


@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts(size):
    """Nothing is allocated: the largest agent has 1.5 GB of weights."""
    assert sum(_counts(size).values()) == SIZES[size][1]


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ("12m", (5979648, 220416, 1272003, 721407, 656129, 791052, 853503)),
        ("200m", (95483904, 3492864, 20282115, 10749183, 10488833, 12601356, 12850431)),
    ],
)
def test_parameter_counts_of_modules(size, counts):
    assert _counts(size) == dict(zip(MODULES, counts, strict=True))


@pytest.mark.parametrize(("image", "actions", "total"), [((96, 96, 1), 18, 186936082), ((64, 64, 3), 17, 165965075)])
def test_parameter_counts_of_other_environments(image, actions, total):
    """Atari and Crafter as the author runs them, with 200m."""
    assert sum(_counts("200m", image, ActionSpec(True, actions)).values()) == total


def test_keys_go_where_the_patterns_say():
    """A pattern has to match the whole key; what no part uses is not in `obs_specs`."""
    nets = build_networks(
        Config(model=ModelConfig(encoder_keys="cam.*|goal", decoder_keys="goal")), MIXED, ACTION, jnp.float32, CPU
    )
    assert [name for name, _ in nets.encoder.specs] == ["camera", "goal"]
    assert [name for name, _ in nets.representation.decoder.specs] == ["goal"]
    assert list(nets.obs_specs) == ["camera", "goal"]
    assert key_layers(nets) == {"camera": ("cnn 16x32", "-"), "goal": ("mlp", "mlp")}


@pytest.mark.parametrize("layout", [CPU, ACCELERATOR], ids=["cpu", "accelerator"])
def test_the_layout_reaches_every_module(layout):
    nets = build_networks(Config(model=MODEL), MIXED, ACTION, jnp.float32, layout)
    assert nets.layout is layout
    for module in (nets.encoder, nets.rssm, nets.representation.decoder, nets.reward, nets.continue_, nets.actor, nets.critic):
        assert module.style.layout is layout
    assert nets.encoder.image_style.layout is nets.representation.decoder.image_style.layout is layout


def test_decoding_images_needs_eight_blocks():
    config = ModelConfig(deter=100, blocks=4)
    with pytest.raises(ConfigError, match=r"model\.deter=100 is not a multiple of 8"):
        build_networks(Config(model=config), MIXED, ACTION, jnp.float32, CPU)
    build_networks(Config(model=config), {"joint": MIXED["joint"]}, ACTION, jnp.float32, CPU)


@pytest.mark.parametrize("cnn", ["pooled", "strided"])
def test_images_are_seen_by_their_own_bounds(cnn):
    """Numbers from 0 to 5 and a mask, beside an ordinary image: they are what 51 times and 255 times as much is to 0..255."""
    rng, shape = np.random.default_rng(0), (*BATCH, 64, 64)
    planes, camera = (
        rng.integers((6, 2), size=(*shape, 2)).astype(np.uint8),
        rng.integers(256, size=(*shape, 1)).astype(np.uint8),
    )
    own, stretched = {"a": planes, "camera": camera}, {"a": planes * np.uint8([51, 255]), "camera": camera}
    specs = {"a": ObsSpec("image", (64, 64, 2), high=(5, 1)), "camera": ObsSpec("image", (64, 64, 1))}
    usual = specs | {"a": ObsSpec("image", (64, 64, 2))}
    config = Config(model=MODEL.model_copy(update={"cnn": cnn}))
    nets, plain = (build_networks(config, each, ACTION, jnp.float32, CPU) for each in (specs, usual))
    params = _init(nets.encoder, own)
    expected = _apply(plain.encoder, params, stretched)
    np.testing.assert_allclose(_apply(nets.encoder, params, own), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected - _apply(plain.encoder, params, own)).max() > 0.1  # it matters

    losses = decoder_losses(specs, {"a": jnp.asarray(planes / np.float32([5, 1]))}, own)
    np.testing.assert_allclose(losses["decoder/a"], 0, atol=1e-6)
    losses = decoder_losses(specs, {"a": jnp.zeros(planes.shape)}, own)
    np.testing.assert_allclose(losses["decoder/a"], ((planes / [5, 1]) ** 2).sum((2, 3, 4)), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "shape", "high"),
    [("image", (16, 16, 2), 0), ("image", (16, 16, 2), 256), ("image", (16, 16, 2), (1,)), ("vector", (2,), 1)],
)
def test_bounds_that_no_image_has_are_refused(kind, shape, high):
    with pytest.raises(EnvError, match=r"from 1 to 255 or one for each channel"):
        ObsSpec(kind, shape, high=high)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_pattern_that_takes_no_key_is_refused(part):
    with pytest.raises(ConfigError, match=rf"model\.{part}_keys='join' takes none of the observation keys camera, goal, joint"):
        build_networks(Config(model=ModelConfig(**{f"{part}_keys": "join"})), MIXED, ACTION, jnp.float32, CPU)


@pytest.mark.parametrize("shape", [(15, 64, 3), (64, 8, 1)])
def test_an_image_too_small_for_the_layers_is_refused(shape):
    """Four halvings need 16 pixels; left out by the patterns, it does not matter."""
    specs = MIXED | {"tiny": ObsSpec("image", shape)}
    with pytest.raises(ConfigError, match=rf"'tiny' is an image of {shape[0]}x{shape[1]} pixels; at least 16x16 are needed"):
        build_networks(Config(model=ModelConfig()), specs, ACTION, jnp.float32, CPU)
    without = ModelConfig(encoder_keys="joint", decoder_keys="joint|goal")
    assert set(build_networks(Config(model=without), specs, ACTION, jnp.float32, CPU).obs_specs) == {"joint", "goal"}


@pytest.mark.parametrize("high", [255, 1, (1, 9)])
@pytest.mark.parametrize("name", ["observation", "body/eye"])
def test_a_small_image_can_be_enlarged_by_the_advised_line(name, high):
    """Pasted here, as a user would: each pixel becomes a square of them, within the same bounds."""
    spec = ObsSpec("image", (8, 12, 2), high=high)
    with pytest.raises(ConfigError, match=r"Enlarge it: env = .*; or leave it out") as error:
        build_networks(Config(model=MODEL), {name: spec}, ACTION, jnp.float32, CPU)
    box = gymnasium.spaces.Box(np.zeros((8, 12, 2), np.uint8), np.full((8, 12, 2), high, np.uint8), dtype=np.uint8)
    inner = gymnasium.Env()
    inner.observation_space = box if name == "observation" else gymnasium.spaces.Dict(body=gymnasium.spaces.Dict(eye=box))
    names = {"env": inner, "gymnasium": gymnasium, "numpy": np}
    exec(str(error.value).partition("Enlarge it: ")[2].partition("; or")[0], names)
    conversion = ObservationConversion(names["env"].observation_space, "task")
    assert conversion.specs == {name: ObsSpec("image", (16, 24, 2), high=high)}
    shown = inner.observation_space.sample()
    pixels = shown if name == "observation" else shown["body"]["eye"]
    larger = conversion(names["env"].observation(shown))[name]
    np.testing.assert_array_equal(larger, np.kron(pixels, np.ones((2, 2, 1), np.uint8)))


@pytest.mark.parametrize("layout", [CPU, ACCELERATOR], ids=["cpu", "accelerator"])
@pytest.mark.parametrize("doubled", [False, True])
def test_a_convolution_of_many_images_is_that_of_each(doubled, layout):
    """More images than the CPU's layout takes at once, of odd size.

    The expected images are NumPy's sum over the 25 shifted, doubled and zero-padded ones.
    """
    rng = np.random.default_rng(0)
    images, kernel, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((70, 3, 4, 2), (5, 5, 2, 3), (3,)))
    got = apply(ImageConv(3, doubled, layout=layout), {"kernel": kernel, "bias": bias}, images)
    if doubled:
        images = images.repeat(2, 1).repeat(2, 2)
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    expected = bias + sum(padded[:, y : y + height, x : x + width] @ kernel[y, x] for y in range(5) for x in range(5))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_older_image_layers_have_the_papers_sizes():
    """V1's parameters, counted by hand: 64 -> 31 -> 14 -> 6 -> 2 pixels give 1,024 features; other image sizes are refused."""
    config = load_config("dreamer_v1")
    nets = build_networks(config, {"image": ObsSpec("image", (64, 64, 3))}, ActionSpec(False, 6), jnp.float32, CPU)
    counts = count_params(nets)
    convolutions = [(16 * 3 + 1) * 32, (16 * 32 + 1) * 64, (16 * 64 + 1) * 128, (16 * 128 + 1) * 256]
    transposed = [25 * 1024 * 128 + 128, 25 * 128 * 64 + 64, 36 * 64 * 32 + 32, 36 * 32 * 3 + 3]
    gru = 3 * (200 * 200 + 200) + 3 * 200 * 200 + 200
    hidden, out = 200 * 200 + 200, 200 * 60 + 60
    assert counts == {
        "encoder": sum(convolutions),
        "decoder": (230 * 1024 + 1024) + sum(transposed),
        "rssm": (36 * 200 + 200) + gru + hidden + out + ((1024 + 200) * 200 + 200) + out,
        "reward": (230 * 400 + 400) + (400 * 400 + 400) + 401,
        "critic": (230 * 400 + 400) + 2 * (400 * 400 + 400) + 401,
        "actor": (230 * 400 + 400) + 3 * (400 * 400 + 400) + 2 * (400 * 6 + 6),
    }
    with pytest.raises(ConfigError, match="64x64"):
        build_networks(config, {"image": ObsSpec("image", (96, 96, 3))}, ActionSpec(False, 6), jnp.float32, CPU)
