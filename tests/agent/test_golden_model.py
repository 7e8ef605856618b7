"""RSSM, encoder and decoder, and the actor-critic losses against arrays of the author's implementation."""

from dataclasses import replace

import golden_data as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_data import assert_all_close, assert_close, assert_gradients_close

from dreamer_jax.agent import distributions, rssm
from dreamer_jax.agent.behavior import (
    Predictions,
    imagined_targets,
    policy_loss,
    replay_value_loss,
    value_loss,
)
from dreamer_jax.agent.heads import policy_distribution
from dreamer_jax.agent.layout import ACCELERATOR, CPU, Layout
from dreamer_jax.agent.networks import build_networks
from dreamer_jax.agent.representations.reconstruction import decoder_losses
from dreamer_jax.agent.types import LatentState, ReturnNorm
from dreamer_jax.core.algorithm import BehaviorConfig, LossConfig, ModelConfig
from dreamer_jax.core.config import Config
from dreamer_jax.core.spaces import ActionSpec, ObsSpec


@pytest.fixture(autouse=True, scope="module")
def _highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


class _RSSM:
    """One prefix of file 05: its networks, weights and inputs, and sampling replaced by the golden samples."""

    def __init__(self, prefix: str, layout: Layout = CPU):
        data = golden.select(golden.load("05_rssm"), f"{prefix}/")
        weights = golden.select(data, "param/")
        self.data = data
        self.config = golden.model_config(weights, classes=data["in/carry_stoch"].shape[-1])
        self.params = golden.to_params(weights)
        self.action_spec = ActionSpec(discrete=prefix == "disc", size=weights["dyn/dynin2/kernel"].shape[0])
        self.nets = build_networks(Config(model=self.config), {}, self.action_spec, jnp.float32, layout)
        self.carry = LatentState(jnp.asarray(data["in/carry_deter"]), jnp.asarray(data["in/carry_stoch"]))

    def action(self, name: str) -> jax.Array:
        action = self.data[name]
        return jax.nn.one_hot(action, self.action_spec.size) if self.action_spec.discrete else jnp.asarray(action)

    def replace_samples(self, monkeypatch, samples: np.ndarray) -> None:
        """Makes the key t, or the noise t, draw samples[:, t]."""
        samples = jnp.asarray(samples).swapaxes(0, 1)
        monkeypatch.setattr(distributions, "uniform", lambda key, shape: key)
        monkeypatch.setattr(distributions, "sample", lambda key, dist: samples[key])


@pytest.mark.parametrize("joint_rows", [64, 0], ids=["gates_at_once", "gates_by_block"])
@pytest.mark.parametrize("prefix", ["cont", "disc"])
def test_rssm_core(prefix, joint_rows, monkeypatch):
    case = _RSSM(prefix, replace(CPU, joint_gates_max_rows=joint_rows))
    action = case.action("in/action")[:, 1]
    assert_close(action, case.data["core/action_vec"])
    case.replace_samples(monkeypatch, case.data["imag/stoch_sample"])
    state, prior = rssm.imagine_step(case.nets, case.params, 0, case.carry, action)
    assert_close(state.deter, case.data["core/deter_new"])
    assert_close(prior.logits, case.data["core/prior_logits"])


@pytest.mark.parametrize("prefix", ["cont", "disc"])
def test_rssm_observe(prefix, monkeypatch):
    case = _RSSM(prefix)
    data = golden.select(case.data, "seq/")
    case.replace_samples(monkeypatch, data["stoch_sample"])
    keys = jnp.arange(data["stoch_sample"].shape[1])
    last, states, posterior, prior = rssm.observe(
        case.nets,
        case.params,
        keys,
        case.carry,
        case.action("in/action"),
        jnp.asarray(case.data["in/tokens"]),
        jnp.asarray(case.data["in/reset"]),
    )

    dyn, rep = rssm.kl_loss(case.nets.latent, posterior, prior)
    entropies = [
        distributions.categorical_entropy(distributions.unimix_logits(dist.logits, case.config.unimix)).sum(-1).mean()
        for dist in (prior, posterior)
    ]
    actual = {
        "deter": states.deter,
        "stoch_sample": states.stoch,
        "post_logits": posterior.logits,
        "prior_logits": prior.logits,
        "dyn_loss": jnp.maximum(dyn, LossConfig().free_nats),
        "rep_loss": jnp.maximum(rep, LossConfig().free_nats),
        "dyn_ent": entropies[0],
        "rep_ent": entropies[1],
    }
    assert_all_close(actual, data)
    assert_close(last.deter, data["deter"][:, -1])


@pytest.mark.parametrize("prefix", ["cont", "disc"])
def test_rssm_imagine(prefix, monkeypatch):
    case = _RSSM(prefix)
    data = golden.select(case.data, "imag/")
    case.replace_samples(monkeypatch, data["stoch_sample"])
    state = LatentState(case.data["seq/deter"][:, -1], case.data["seq/stoch_sample"][:, -1])
    for step in range(data["deter"].shape[1]):
        state, prior = rssm.imagine_step(case.nets, case.params, step, state, case.action("imag/action")[:, step])
        assert_close(state.deter, data["deter"][:, step])
        assert_close(prior.logits, data["prior_logits"][:, step])


@pytest.mark.parametrize("layout", [CPU, ACCELERATOR], ids=["cpu", "accelerator"])
@pytest.mark.parametrize("prefix", ["vector", "image", "mixed"])
def test_encoder_and_decoder(prefix, layout):
    data = golden.load("09_encoder_decoder")
    deter, stoch = data["feat_deter"], data["feat_stoch"]
    data = golden.select(data, f"{prefix}/")
    weights = {f"enc/{name}": array for name, array in golden.select(data, "enc_param/").items()}
    weights |= {f"dec/{name}": array for name, array in golden.select(data, "dec_param/").items()}
    params = golden.to_params(weights)
    obs = golden.select(data, "obs/")
    specs = {name: golden.obs_spec(array) for name, array in obs.items()}
    if "flag" in obs:
        specs["flag"] = ObsSpec("discrete", (), classes=weights["dec/vec/flag/logits/bias"].size)
    obs = jax.tree.map(jnp.asarray, obs)
    nets = build_networks(
        Config(model=ModelConfig(units=8, depth=2)), specs, ActionSpec(discrete=True, size=2), jnp.float32, layout
    )

    assert_close(nets.encoder.apply({"params": params["encoder"]}, obs), data["tokens"])
    predictions = nets.representation.decoder.apply({"params": params["decoder"]}, deter, stoch)
    expected = golden.select(data, "dec_pred/")
    assert predictions.keys() == expected.keys()
    assert_all_close(predictions, expected)
    losses = decoder_losses(specs, predictions, obs)
    assert_all_close(losses, {f"decoder/{name}": loss for name, loss in golden.select(data, "dec_loss/").items()})


class _ActorCritic:
    """File 10 in this project's layout (time first), with one kind of policy."""

    def __init__(self, kind: str):
        self.data = golden.load("10_actor_critic_losses")
        if kind == "disc":
            self.outputs = {"logits": self.time_major("disc_policy_logits")}
            self.action = jax.nn.one_hot(self.time_major("disc_action"), self.outputs["logits"].shape[-1])[:-1]
        else:
            self.outputs = {"mean": self.time_major("cont_raw_mean"), "std": self.time_major("cont_raw_std")}
            self.action = self.time_major("cont_action")[:-1]
        self.continue_ = self.time_major("con")
        self.norm = ReturnNorm(self.data["ret_lo0"], self.data["ret_hi0"])
        self.config = BehaviorConfig()

    def time_major(self, name: str) -> jax.Array:
        return jnp.asarray(self.data[name]).swapaxes(0, 1)

    def losses(self, outputs, value_logits, policy=None):
        """The losses as `total_loss` computes them; `policy` replaces the distribution."""
        if policy is None:
            policy = policy_distribution(jax.tree.map(lambda x: x[:-1], outputs), self.config)
        value, slow = (distributions.two_hot_mean(logits) for logits in (value_logits, self.time_major("slow_logits")))
        predictions = Predictions(self.time_major("rew"), self.continue_, value, slow)
        targets, *rest = imagined_targets(predictions, self.norm, self.config)
        losses = {
            "policy": policy_loss(policy, self.action, targets, self.config)[0],
            "value": value_loss({"logits": value_logits[:-1]}, targets, self.config),
        }
        return losses, targets.returns, *rest

    def run(self) -> dict[str, jax.Array]:
        """Every golden quantity, batch first as in the file."""
        value_logits = self.time_major("value_logits")

        def objective(outputs, value_logits):
            losses, *rest = self.losses(outputs, value_logits)
            return losses["policy"].mean() + losses["value"].mean(), (losses, *rest)

        grad = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
        (_, (losses, returns, norm, metrics)), (grad_outputs, grad_value) = grad(self.outputs, value_logits)
        actual = {
            "policy_loss": losses["policy"].T,
            "value_loss": losses["value"].T,
            "ret": returns.T,
            "ret_lo1": norm.low,
            "ret_hi1": norm.high,
            "adv_mean": metrics["advantage"],
            "adv_std": self.advantage(value_logits).std(),
            "weight_mean": metrics["imagined_weight"],
            "val_mean": metrics["imagined_value"],
            "grad_value_logits": grad_value.swapaxes(0, 1),
        }
        grads = [grad_outputs[name].swapaxes(0, 1) for name in ("logits", "mean", "std") if name in grad_outputs]
        return actual | dict(zip(("grad_policy_a", "grad_policy_b"), grads))

    def advantage(self, value_logits) -> jax.Array:
        """Reads the advantage [H, N] off the policy loss, with policies whose log-probability and entropy are constants."""
        by_log_prob, by_entropy = (
            self.losses(None, value_logits, _ConstantPolicy(*constants, self.action.shape[:-1]))[0]["policy"]
            for constants in ((1.0, 0.0), (0.0, 1.0))
        )
        return self.config.entropy * by_log_prob / by_entropy


class _ConstantPolicy:
    def __init__(self, log_prob: float, entropy: float, shape: tuple[int, ...]):
        self._log_prob, self._entropy = jnp.full(shape, log_prob), jnp.full(shape, entropy)

    def log_prob(self, action) -> jax.Array:
        return self._log_prob

    def entropy(self) -> jax.Array:
        return self._entropy


def _assert_matches(actual: dict, expected: dict) -> None:
    assert_all_close(actual, expected)
    gradients = {name: array for name, array in expected.items() if name.startswith("grad_")}
    assert_gradients_close(actual, gradients, tol=1e-5)


@pytest.mark.parametrize("kind", ["disc", "cont"])
def test_actor_critic_losses(kind):
    case = _ActorCritic(kind)
    _assert_matches(case.run(), golden.select(case.data, f"{kind}/"))


def test_advantage_is_divided_by_a_wide_return_range():
    case = _ActorCritic("disc")
    expected = golden.select(case.data, "disc_wide/")
    case.norm = ReturnNorm(expected.pop("ret_lo0"), expected.pop("ret_hi0"))
    assert_all_close(case.run(), expected)


def test_bootstrap_from_the_slow_critic(monkeypatch):
    """The author's option `slowtar`: every predicted value is the slow critic's, the trained logits stay the critic's."""
    case = _ActorCritic("disc")
    slow_value = distributions.two_hot_mean(case.time_major("slow_logits"))
    monkeypatch.setattr(distributions, "two_hot_mean", lambda logits: slow_value[: len(logits)])
    expected = golden.select(case.data, "disc_slowtar/")
    del expected["val_mean"]  # the mean of the other critic
    _assert_matches(case.run(), expected)


def test_discount_apart_from_the_continue_head():
    """The author's option without `contdisc`: the discount is a factor beside the continue probability, except at the start."""
    case = _ActorCritic("disc")
    discount = case.config.discount
    case.continue_ = (case.continue_ * discount).at[0].divide(discount)
    _assert_matches(case.run(), golden.select(case.data, "disc_nocontdisc/"))


@pytest.mark.parametrize("prefix", ["repl", "repl_slowtar"])
def test_replay_value_loss(prefix):
    data = golden.load("10_actor_critic_losses")
    inputs = [jnp.asarray(data[f"repl_{name}"]) for name in ("rew", "last", "term", "boot")]
    slow_value = distributions.two_hot_mean(jnp.asarray(data["slow_logits"]))

    def objective(value_logits):
        loss, returns = replay_value_loss({"logits": value_logits}, slow_value, *inputs, BehaviorConfig())
        return loss.mean(), (loss, returns)

    (_, (loss, returns)), grad = jax.value_and_grad(objective, has_aux=True)(jnp.asarray(data["value_logits"]))
    _assert_matches({"loss": loss, "ret": returns, "grad_value_logits": grad}, golden.select(data, f"{prefix}/"))
