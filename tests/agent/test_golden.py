"""Distributions, layers, returns, normaliser and optimiser against arrays of the author's implementation."""

import distrax
import golden_data as golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_data import assert_all_close, assert_close

from dreamer_jax.agent import convolutions, distributions, layers, rssm
from dreamer_jax.agent.heads import policy_distribution
from dreamer_jax.agent.latents import Categorical
from dreamer_jax.agent.layout import ACCELERATOR, CPU
from dreamer_jax.agent.optimizer import clip_by_tensor_norm, make_optimizer
from dreamer_jax.agent.representations.reconstruction import decoder_losses
from dreamer_jax.agent.returns import lambda_return, update_return_norm
from dreamer_jax.agent.types import CategoricalLatent, ReturnNorm
from dreamer_jax.core.algorithm import BehaviorConfig, ModelConfig, OptimizerConfig
from dreamer_jax.core.spaces import ObsSpec

LAYOUTS, LAYOUT_NAMES = (CPU, ACCELERATOR), ("cpu", "accelerator")


@pytest.fixture(autouse=True, scope="module")
def _highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.mark.parametrize("case", "ABCD")
def test_lambda_return(case):
    data = golden.select(golden.load("01_lambda_return"), f"{case}_")
    # The golden return at t reads reward, boot and flags at t+1.
    returns = lambda_return(
        reward=data["rew"].T[1:],
        value=data["boot"].T,
        discount=(1 - data["term"].astype(np.float32)).T[1:] * data["disc"],
        lam=(1 - data["last"].astype(np.float32)).T[1:] * data["lam"],
    )
    assert_close(returns.T, data["ret"])


def test_symlog():
    data = golden.load("02_symexp_twohot")
    assert_close(distributions.symlog(data["sym_x"]), data["symlog"])
    assert_close(distributions.symexp(data["symexp_x"]), data["symexp"])


@pytest.mark.parametrize("prefix", ["", "even_", "five_"])
def test_two_hot(prefix):
    data = golden.load("02_symexp_twohot")
    targets = data["targets"]
    data = golden.select(data, prefix) if prefix else data
    count = data["bins"].size

    assert_close(distributions.two_hot_bins(count), data["bins"])
    assert_close(distributions.two_hot(targets, count), data["twohot_target"])
    zeros = np.zeros_like(data["rand_logits"])
    for name, logits in [("rand", data["rand_logits"]), ("peak", data["peak_logits"]), ("zero", zeros)]:
        assert_close(distributions.two_hot_mean(logits), data[f"{name}_pred"])
        assert_close(distributions.two_hot_loss(logits, targets), data[f"{name}_loss"])
    onbin = data["onbin_target"]
    assert_close(distributions.two_hot_loss(data["rand_logits"][: onbin.size], onbin), data["onbin_loss"])


def test_uniform_logits_predict_exactly_what_the_author_predicts():
    """A critic that starts at zero logits must predict 0, not a rounding error of 1e8-sized bins."""
    data = golden.load("02_symexp_twohot")
    for prefix in ("", "even_"):
        mean = distributions.two_hot_mean(np.zeros_like(data[f"{prefix}rand_logits"]))
        np.testing.assert_array_equal(mean, data[f"{prefix}zero_pred"])


def test_unimix_categorical():
    data = golden.load("03_categorical_binary_mse")
    p, q = (distributions.unimix_logits(data[name], float(data["unimix"])) for name in ("p_logits", "q_logits"))
    dist = distributions.one_hot_categorical(p)
    classes = p.shape[-1]

    assert_close(p, data["p_mixed_logits"])
    assert_close(dist.probs, data["p_probs"])
    assert_close(dist.mode(), data["mode"])
    log_prob = dist.log_prob(jax.nn.one_hot(data["index"], classes))
    for name, value in [
        ("logp", log_prob),
        ("entropy", distributions.categorical_entropy(p)),
        ("kl", distributions.categorical_kl(p, q)),
    ]:
        assert_close(value, data[name])
        assert_close(value.sum(-1), data[f"{name}_sum"])


def test_kl_losses_and_their_gradients():
    data = golden.load("03_categorical_binary_mse")
    latent = Categorical(ModelConfig(unimix=float(data["unimix"])))

    def loss(p_logits, q_logits):
        terms = rssm.kl_loss(latent, CategoricalLatent(p_logits), CategoricalLatent(q_logits))
        dyn, rep = (jnp.maximum(term, data["free_nats"]) for term in terms)
        return dyn.mean() + 0.1 * rep.mean(), (dyn, rep)

    grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (total, (dyn, rep)), (grad_p, grad_q) = grad(data["p_logits"], data["q_logits"])
    actual = {"dyn": dyn, "rep": rep, "total": total, "grad_p": grad_p, "grad_q": grad_q}
    assert_all_close(actual, {name: data[name] for name in actual})


def test_straight_through_gradient():
    data = golden.load("03_categorical_binary_mse")

    def loss(logits):
        log_probs = distributions.unimix_logits(logits, float(data["unimix"]))
        value = distributions.one_hot_categorical(log_probs).mode()
        return (distributions.straight_through(value, jnp.exp(log_probs)) * data["st_cotangent"]).sum()

    assert_close(jax.grad(loss)(data["p_logits"]), data["st_grad"])


def test_discrete_policy():
    data = golden.load("03_categorical_binary_mse")
    logits, config = data["pol_logits"], BehaviorConfig()
    action = jax.nn.one_hot(data["pol_action"], logits.shape[-1])
    plain = policy_distribution({"logits": logits}, config)
    mixed = distributions.one_hot_categorical(distributions.unimix_logits(logits, float(data["unimix"])))
    sure = policy_distribution({"logits": 1e3 * action}, config)
    even = policy_distribution({"logits": jnp.zeros_like(logits)}, config)

    assert_close(plain.log_prob(action), data["pol_logp"])
    assert_close(plain.entropy(), data["pol_entropy"])
    assert_close(mixed.log_prob(action), data["pol_unimix_logp"])
    assert_close(mixed.entropy(), data["pol_unimix_entropy"])
    assert_close(sure.entropy()[0], data["pol_minent"])
    assert_close(even.entropy()[0], data["pol_maxent"])


def test_binary():
    data = golden.select(golden.load("03_categorical_binary_mse"), "bin_")
    logit = data["logit"]
    surprise_one, surprise_zero = distributions.binary_loss(logit, 1.0), distributions.binary_loss(logit, 0.0)

    assert_close(distributions.binary_loss(logit, data["target"]), data["loss"])
    assert_close(jnp.exp(-surprise_one), data["prob1"])
    np.testing.assert_array_equal(surprise_one < surprise_zero, data["pred"])


def test_squared_errors():
    data = golden.load("03_categorical_binary_mse")
    target = data["mse_target"][:, None]  # [B, T=1, size]
    specs, prediction = {"x": ObsSpec("vector", target.shape[2:])}, {"x": jnp.asarray(data["mse_pred"])[:, None]}

    loss = decoder_losses(specs, prediction, {"x": target})["decoder/x"]
    assert_close(loss[:, 0], data["symlog_mse_loss_sum"])
    # The loss lies in symlog space; symexp of the target undoes that.
    loss = decoder_losses(specs, prediction, {"x": distributions.symexp(target)})["decoder/x"]
    assert_close(loss[:, 0], data["mse_loss_sum"])


def test_bounded_normal():
    data = golden.load("04_bounded_normal")
    config = BehaviorConfig(min_std=float(data["minstd"]), max_std=float(data["maxstd"]))

    def policy(mean, std) -> distrax.Distribution:
        return policy_distribution({"mean": jnp.asarray(mean), "std": jnp.asarray(std)}, config)

    dist = policy(data["raw_mean"], data["raw_std"])
    assert_close(dist.mode(), data["mean"])
    assert_close(dist.stddev(), data["std"])
    assert_close(dist.log_prob(data["action"]), data["logp_sum"])
    assert_close(dist.entropy(), data["entropy_sum"])
    # Saturated outputs reach the bounds of the standard deviation; an axis of length 1 leaves the entropy per dimension.
    mean = data["raw_mean"][..., None]
    assert_close(policy(mean, jnp.full_like(mean, -1e3)).entropy(), data["minent_per_dim"])
    assert_close(policy(mean, jnp.full_like(mean, 1e3)).entropy(), data["maxent_per_dim"])


_CASES = {
    "A": OptimizerConfig(learning_rate=4e-5, warmup=1000),
    "B": OptimizerConfig(learning_rate=1e-2, warmup=3),
    "C": OptimizerConfig(learning_rate=1e-2, warmup=0),
}


def _divide(arrays, unit):
    return {name: np.asarray(array) / unit for name, array in arrays.items()}


@pytest.mark.parametrize("layout", LAYOUTS, ids=LAYOUT_NAMES)
@pytest.mark.parametrize("case", _CASES)
def test_optimizer(case, layout):
    data = golden.load("06_optimizer")
    config = _CASES[case]
    optimizer = make_optimizer(config, layout)
    # In units of the rate's first step: some updates are smaller than the tolerance.
    unit = config.learning_rate / max(config.warmup, 1)
    params = golden.select(data, "param0/")
    state = optimizer.init(params)
    for step in range(5):
        updates, state = optimizer.update(golden.select(data, f"grad{step}/"), state, params)
        params = optax.apply_updates(params, updates)
        expected = golden.select(data, f"{case}/update{step}/")
        assert_all_close(_divide(updates, unit), _divide(expected, unit))
        assert_all_close(params, golden.select(data, f"{case}/param{step + 1}/"))


# A rate of 1 leaves the direction, up to its sign; a decay of 0 switches momentum off.
_STAGES = {
    "agc": clip_by_tensor_norm(OptimizerConfig().agc, OptimizerConfig().agc_min, CPU),
    "rms": optax.chain(make_optimizer(OptimizerConfig(learning_rate=1.0, warmup=0, beta1=0.0), CPU), optax.scale(-1.0)),
    "mom": optax.chain(make_optimizer(OptimizerConfig(learning_rate=1.0, warmup=0), CPU), optax.scale(-1.0)),
}


@pytest.mark.parametrize("stage", _STAGES)
def test_optimizer_stages(stage):
    data = golden.load("06_optimizer")
    params = golden.select(data, "param0/")
    state = _STAGES[stage].init(params)
    for step in range(5):
        updates, state = _STAGES[stage].update(golden.select(data, f"grad{step}/"), state, params)
        assert_all_close(updates, golden.select(data, f"stage/{stage}{step}/"))


def test_return_norm():
    data = golden.load("07_normalizer")
    norm = ReturnNorm(jnp.float32(0), jnp.float32(0))
    for step, returns in enumerate(data["x"]):
        norm, scale = update_return_norm(norm, returns, BehaviorConfig())
        actual = {"offset": norm.low, "scale": scale, "state_lo": norm.low, "state_hi": norm.high}
        assert_all_close(actual, {name: array[step] for name, array in golden.select(data, "perc/").items()})


@pytest.mark.parametrize("row", ["linear", "linear_multi", "blocklinear"])
def test_linear_layers(row):
    data = golden.select(golden.load("08_layers"), f"{row}/")
    params = golden.select(data, "param/")
    features, kernel = params["bias"].size, params["kernel"]
    if kernel.ndim == 3:
        y = layers.BlockLinear(features, kernel.shape[0]).apply({"params": params}, data["x"])
    else:
        y = layers.Linear(features).apply({"params": params}, data["x"])
    assert_close(y.reshape(data["y"].shape), data["y"])


@pytest.mark.parametrize("layout", LAYOUTS, ids=LAYOUT_NAMES)
def test_convolution(layout):
    data = golden.select(golden.load("08_layers"), "conv_k5_s1/")
    params = golden.select(data, "param/")
    conv = convolutions.ImageConv(params["bias"].size, layout=layout)
    assert_close(conv.apply({"params": params}, data["x"]), data["y"])


@pytest.mark.parametrize("row", ["rms", "rms_small", "rms_conv"])
def test_norm(row):
    data = golden.select(golden.load("08_layers"), f"{row}/")
    params = {"norm": golden.select(data, "param/")}
    activated, state = layers.NormAct().apply({"params": params}, data["x"], capture_intermediates=True)
    assert_close(state["intermediates"]["norm"]["__call__"][0], data["y"])
    assert_close(activated, data["y"] / (1 + np.exp(-data["y"])))


def test_mlp():
    data = golden.select(golden.load("08_layers"), "mlp3/")
    weights = {f"dec/mlp/{name}": array for name, array in golden.select(data, "param/").items()}
    params = golden.to_params(weights)["decoder"]["mlp"]
    mlp = layers.MLP(layers=3, units=data["y"].shape[-1])
    assert_close(mlp.apply({"params": params}, data["x"]), data["y"])


@pytest.mark.parametrize("row", ["linear", "block", "conv"])
def test_initial_weights_have_the_same_moments(row):
    """Draws differ, so this compares spreads: within five standard errors, at most 0.7 / sqrt(size) of the spread each."""
    data = golden.select(golden.load("08_layers"), f"init/{row}_")
    shape = tuple(int(size) for size in data["shape"])
    layer, inputs = {
        "linear": (layers.Linear(shape[-1]), shape[:1]),
        "block": (layers.BlockLinear(shape[0] * shape[-1], shape[0]), (shape[0] * shape[1],)),
        "conv": (convolutions.ImageConv(shape[-1]), shape[:3]),
    }[row]
    kernel = np.asarray(layer.init(jax.random.key(0), jnp.zeros((1, *inputs)))["params"]["kernel"])

    assert kernel.shape == shape
    assert abs(kernel.std() / data["std"] - 1) < 5 * np.sqrt(2) * 0.7 / np.sqrt(kernel.size)
    # Both are cut off at two deviations, which draws of this size approach closely.
    assert abs(np.abs(kernel).max() / data["absmax"] - 1) < 1e-2
