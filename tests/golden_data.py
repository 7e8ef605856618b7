"""Golden arrays of the author's implementation: loading, names of weights, comparison. See golden/README.md."""

import re
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dreamer_jax.agent.convolutions import IMAGE_MULTS
from dreamer_jax.agent.types import Params
from dreamer_jax.core.algorithm import ModelConfig
from dreamer_jax.core.spaces import ObsSpec

FOLDER = Path(__file__).parent / "golden"

# Golden layer -> path in our trees; the first full match counts. The author's files name layers in two ways:
# "<module>/<layer>" beside "<module>/<layer>norm", and "<module>/mlp/linear<i>" beside "<module>/mlp/norm<i>".
# All their images are 64x64.
_LAYERS = (
    (r"enc/mlp(\d+)", r"encoder/mlp/linear\1"),
    (r"enc/mlp(\d+)norm", r"encoder/mlp/act\1/norm"),
    (r"enc/cnn(\d+)", r"encoder/cnn_64x64/conv\1"),
    (r"enc/cnn(\d+)norm", r"encoder/cnn_64x64/act\1/norm"),
    (r"dyn/dynin0", r"rssm/cell/deter_in/linear0"),
    (r"dyn/dynin0norm", r"rssm/cell/deter_in/act0/norm"),
    (r"dyn/dynin1", r"rssm/cell/stoch_in/linear0"),
    (r"dyn/dynin1norm", r"rssm/cell/stoch_in/act0/norm"),
    (r"dyn/dynin2", r"rssm/cell/action_in/linear0"),
    (r"dyn/dynin2norm", r"rssm/cell/action_in/act0/norm"),
    (r"dyn/dynhid(\d+)", r"rssm/cell/recurrent_\1"),
    (r"dyn/dynhid(\d+)norm", r"rssm/cell/recurrent_act_\1/norm"),
    (r"dyn/dyngru", r"rssm/cell/gates"),
    (r"dyn/obs(\d+)", r"rssm/posterior_mlp/linear\1"),
    (r"dyn/obs(\d+)norm", r"rssm/posterior_mlp/act\1/norm"),
    (r"dyn/obslogit", r"rssm/posterior_out"),
    (r"dyn/prior(\d+)", r"rssm/prior_mlp/linear\1"),
    (r"dyn/prior(\d+)norm", r"rssm/prior_mlp/act\1/norm"),
    (r"dyn/priorlogit", r"rssm/prior_out"),
    (r"(dec|rew|con|pol|val|slowval)/mlp/linear(\d+)", r"\1/mlp/linear\2"),
    (r"(dec|rew|con|pol|val|slowval)/mlp/norm(\d+)", r"\1/mlp/act\2/norm"),
    (r"dec/vec/(\w+)/(?:pred|logits)", r"decoder/\1"),
    (r"dec/sp0", r"decoder/cnn_64x64/deter_map"),
    (r"dec/sp1", r"decoder/cnn_64x64/stoch_mlp/linear0"),
    (r"dec/sp1norm", r"decoder/cnn_64x64/stoch_mlp/act0/norm"),
    (r"dec/sp2", r"decoder/cnn_64x64/stoch_map"),
    (r"dec/spnorm", r"decoder/cnn_64x64/map_act/norm"),
    (r"dec/conv(\d+)", r"decoder/cnn_64x64/conv\1"),
    (r"dec/conv(\d+)norm", r"decoder/cnn_64x64/act\1/norm"),
    (r"dec/imgout", r"decoder/cnn_64x64/image"),
    (r"(rew|val|slowval)/head/logits", r"\1/logits"),
    (r"con/head/logit", r"continue/logit"),
    (r"pol/head/action/logits", r"actor/logits"),
    (r"pol/head/action/mean", r"actor/mean"),
    (r"pol/head/action/stddev", r"actor/std"),
)
_MODULES = {
    "dec": "decoder",
    "rew": "reward",
    "con": "continue",
    "pol": "actor",
    "val": "critic",
    "slowval": "slow_critic",
}


def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of `golden/<name>.npz`."""
    with np.load(FOLDER / f"{name}.npz") as data:
        return dict(data)


def select(data: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays below a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in data.items() if name.startswith(prefix)}


def our_path(name: str) -> str:
    """Golden weight "dyn/dynin0/kernel" -> ours, "rssm/deter_in/linear0/kernel"."""
    layer, leaf = name.rsplit("/", 1)
    for pattern, replacement in _LAYERS:
        match = re.fullmatch(pattern, layer)
        if match:
            module, rest = match.expand(replacement).split("/", 1)
            return f"{_MODULES.get(module, module)}/{rest}/{leaf}"
    raise KeyError(f"golden weight {name!r} has no counterpart; add its layer to _LAYERS")


def to_params(weights: dict[str, np.ndarray]) -> Params:
    """Golden weights -> trees by module: encoder, rssm, decoder, reward, continue, actor, critic, slow_critic."""
    return unflatten_dict({our_path(name): array for name, array in weights.items()}, sep="/")


def flatten(tree: Params) -> dict[str, np.ndarray]:
    """A tree as {"a/b/kernel": array}."""
    return flatten_dict(tree, sep="/")


def obs_spec(array: np.ndarray) -> ObsSpec:
    """The kind of observations [B, T, ...]: images are the ones in bytes; indices need their number of classes besides."""
    return ObsSpec("image" if array.dtype == np.uint8 else "vector", array.shape[2:])


def model_config(weights: dict[str, np.ndarray], classes: int) -> ModelConfig:
    """The model sizes that golden weights imply; heads that are absent keep their defaults."""

    def layers(pattern: str) -> int:
        return sum(re.fullmatch(f"{pattern}/kernel", name) is not None for name in weights)

    deter, hidden = weights["dyn/dynin0/kernel"].shape
    sizes = {
        "deter": deter,
        "hidden": hidden,
        "classes": classes,
        "stoch": weights["dyn/priorlogit/bias"].size // classes,
        "blocks": weights["dyn/dyngru/kernel"].shape[0],
        "recurrent_layers": layers(r"dyn/dynhid\d+"),
        "prior_layers": layers(r"dyn/prior\d+"),
        "posterior_layers": layers(r"dyn/obs\d+"),
        "encoder_layers": layers(r"enc/mlp\d+"),
        "decoder_layers": layers(r"dec/mlp/linear\d+"),
        "reward_layers": layers(r"rew/mlp/linear\d+"),
        "continue_layers": layers(r"con/mlp/linear\d+"),
        "actor_layers": layers(r"pol/mlp/linear\d+"),
        "critic_layers": layers(r"val/mlp/linear\d+"),
    }
    if "rew/head/logits/bias" in weights:
        sizes["units"], sizes["bins"] = weights["rew/head/logits/kernel"].shape
    if "enc/cnn0/kernel" in weights:
        sizes["depth"] = weights["enc/cnn0/kernel"].shape[-1] // IMAGE_MULTS[0]
    return ModelConfig(**{name: size for name, size in sizes.items() if size})


def assert_close(actual, expected, tol: float = 1e-5) -> None:
    """|actual - expected| <= tol (1 + |expected|) everywhere, and equal shapes. NaN fails."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    error = np.abs(actual - expected) / (1 + np.abs(expected))
    assert error.max() <= tol, f"worst deviation {error.max():.2e} > {tol}, at {np.unravel_index(error.argmax(), error.shape)}"


def assert_all_close(actual: dict, expected: dict, tol: float = 1e-5) -> None:
    """`assert_close` for every name in `expected`, with the name in the error."""
    assert expected, "nothing to compare"
    for name, array in expected.items():
        try:
            assert_close(actual[name], array, tol)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def assert_gradients_close(actual: dict, expected: dict, tol: float) -> None:
    """`assert_all_close`, also with each gradient in units of its largest entry: many are far smaller than 1."""
    assert_all_close(actual, expected, tol)
    units = {name: np.abs(array).max() or 1.0 for name, array in expected.items()}
    assert_all_close(
        {name: np.asarray(actual[name]) / unit for name, unit in units.items()},
        {name: expected[name] / unit for name, unit in units.items()},
        tol,
    )
