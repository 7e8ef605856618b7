"""One update of everything: the state it needs, the total loss, and the step itself."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from flax.training.train_state import TrainState

from dreamer_jax.agent import behavior, rssm
from dreamer_jax.agent.devices import check_32_bits, compiler_options
from dreamer_jax.agent.layout import Layout
from dreamer_jax.agent.networks import Networks, apply
from dreamer_jax.agent.optimizer import make_optimizer, squared_norm
from dreamer_jax.agent.parts import Example, PartStates, call, call_for_pair, loss_of
from dreamer_jax.agent.seeds import over_seeds
from dreamer_jax.agent.types import ActingParams, AgentState, Batch, LatentState, Metrics, Params, ReturnNorm
from dreamer_jax.agent.world_model import world_model_loss
from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError


def init_params(nets: Networks, key: jax.Array) -> tuple[Params, Params, Params]:
    """Fresh parameters of world model, actor and critic; the last two are empty where a planner acts."""
    keys = dict(
        zip(("encoder", "rssm", "decoder", "reward", "continue", "actor", "critic"), jax.random.split(key, 7), strict=True)
    )
    obs = {name: jnp.zeros((1, *spec.shape), spec.dtype) for name, spec in nets.obs_specs.items()}
    state = rssm.initial_state(nets, (1,))
    action = jnp.zeros((1, nets.action_spec.size), nets.dtype)
    features = rssm.features(state)

    embed, encoder = nets.encoder.init_with_output(keys["encoder"], obs)
    world_model = {
        "encoder": encoder["params"],
        "rssm": nets.rssm.init(keys["rssm"], state.deter, state.stoch, action, embed)["params"],
        "reward": nets.reward.init(keys["reward"], features)["params"],
    }
    if nets.continue_:
        world_model["continue"] = nets.continue_.init(keys["continue"], features)["params"]
    example = Example(obs, action, embed, state, features)
    for i, part in enumerate(nets.parts):
        own = call(part, "init_params", jax.random.fold_in(keys["decoder"], i) if i else keys["decoder"], example)
        if taken := sorted(own.keys() & world_model.keys()):
            raise ConfigError(
                f"{part.name}: the world model has parameters named {taken[0]!r} already; name them after the part"
            )
        world_model |= own
    actor = nets.actor.init(keys["actor"], features)["params"] if nets.actor else {}
    critic = nets.critic.init(keys["critic"], features)["params"] if nets.critic else {}
    return world_model, actor, critic


def init_agent(nets: Networks, config: Config, key: jax.Array) -> AgentState:
    """A fresh agent. Call it through `compile_init` (or `jax.eval_shape`); the optimiser is built here, once."""
    init_key, run_key = jax.random.split(key)
    world_model, actor, critic = init_params(nets, init_key)

    def make(params: Params, own_rate: float | None = None) -> TrainState:
        # The configuration is frozen, so it has a hash.
        optimizer = make_optimizer(config.optimizer, nets.layout, own_rate)  # pyright: ignore[reportArgumentType]
        state = TrainState.create(apply_fn=None, params=params, tx=optimizer)
        # Of a Python number it would have a weak type, which a checkpoint loses: a run that goes on would be compiled again.
        return state.replace(step=jnp.int32(0))

    return AgentState(
        world_model=make(world_model),
        actor=make(actor, config.optimizer.actor_rate),
        critic=make(critic, config.optimizer.critic_rate),
        # A copy: an alias of the critic's arrays could not be donated twice.
        slow_critic=jax.tree.map(jnp.copy, critic),
        return_norm=ReturnNorm(jnp.float32(0), jnp.float32(0)),
        key=run_key,
        step=jnp.int32(0),
        parts={part.name: own for part in nets.parts if jax.tree.leaves(own := call(part, "init_state", world_model))},
    )


def total_loss(
    nets: Networks,
    config: Config,
    params: tuple[Params, Params, Params],
    slow_critic: Params,
    return_norm: ReturnNorm,
    key: jax.Array,
    batch: Batch,
    parts: PartStates,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], LatentState, ReturnNorm, PartStates, Metrics]]:
    """The whole loss, f32[]: every term averaged, then weighted; see `loss_weight`.

    Gradient routing: the world-model terms reach the world model alone; "policy" the actor, also where it comes through the
    dynamics; "value" the critic; "replay_value" the critic and, through the posterior states, the world model.

    Returns:
      total, (loss terms, posterior states [B, T] without gradient, return normaliser, states of the parts, metrics).
    """
    observe_key, imagine_key = jax.random.split(key)
    losses, states, metrics = world_model_loss(nets, config, params[0], observe_key, batch, parts)
    if nets.actor:
        of_behavior, return_norm, parts, more = _behavior_losses(
            nets, config, params, slow_critic, return_norm, imagine_key, batch, states, parts
        )
        losses, metrics = losses | of_behavior, metrics | more
    total = sum((loss_weight(nets, config, name) * loss.mean() for name, loss in losses.items()), jnp.float32(0))
    return total, (losses, jax.lax.stop_gradient(states), return_norm, parts, metrics)


def _behavior_losses(
    nets: Networks,
    config: Config,
    params: tuple[Params, Params, Params],
    slow_critic: Params,
    return_norm: ReturnNorm,
    key: jax.Array,
    batch: Batch,
    states: LatentState,
    parts: PartStates,
) -> tuple[dict[str, jax.Array], ReturnNorm, PartStates, Metrics]:
    """Losses of actor and critic from the posterior states [B, T], on imagined steps and on the replayed ones."""
    world_model, actor, critic = params
    trajectory = behavior.imagine_from_posterior(nets, config.behavior, world_model, actor, key, states)
    starts = batch.is_terminal.reshape(-1)
    predictions = behavior.predict(nets, config.behavior, world_model, critic, slow_critic, trajectory, starts)
    predictions, parts, bonuses = behavior.add_bonuses(nets, world_model, parts, trajectory, predictions)
    targets, return_norm, metrics = behavior.imagined_targets(predictions, return_norm, config.behavior)
    losses, policy_metrics = behavior.actor_critic_losses(nets, config.behavior, actor, critic, trajectory, targets)

    if config.loss.replay_value:

        def of_starts(imagined: jax.Array) -> jax.Array:
            """f32[B, T] of the imagination's first states, which are the posterior states."""
            return imagined[0].reshape(batch.reward.shape)

        losses["replay_value"], _ = behavior.replay_value_loss(
            apply(nets.critic, critic, rssm.features(states)),
            of_starts(predictions.slow_value),
            batch.reward,
            batch.is_last,
            batch.is_terminal,
            bootstrap=of_starts(targets.returns),
            config=config.behavior,
        )
    return losses, return_norm, parts, metrics | bonuses | policy_metrics


def loss_weight(nets: Networks, config: Config, name: str) -> float:
    """The weight of a loss term: that of its part, which "decoder/<key>" terms share, or its name in `config.loss`."""
    part = loss_of(nets.parts, name)
    return part.weight if part else getattr(config.loss, "continue_" if name == "continue" else name)


def train_step(nets: Networks, config: Config, state: AgentState, batch: Batch) -> tuple[AgentState, Metrics, LatentState]:
    """One update of world model, actor, critic, slow critic and return normaliser.

    It is refused where the loss or a gradient is not finite: then everything but the count of steps stays, the next update's
    key is another, and the posterior states are not for the replay.

    Returns:
      the new state, metrics {name: f32[]}, among them "refused" (1 or 0), and the posterior states [B, T] for the replay.
    """
    world_model, parts = _before_update(nets, state)
    params = (world_model.params, state.actor.params, state.critic.params)
    key = jax.random.fold_in(state.key, state.step)

    def objective(params):
        return total_loss(nets, config, params, state.slow_critic, state.return_norm, key, batch, parts)

    (total, (losses, states, return_norm, parts, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(params)
    for part in nets.parts:
        grads = (call(part, "gradients", grads[0], state.step), *grads[1:])

    world_model = world_model.apply_gradients(grads=grads[0])
    actor = state.actor.apply_gradients(grads=grads[1])
    critic = state.critic.apply_gradients(grads=grads[2])
    rate = jnp.where(state.step % config.behavior.slow_every == 0, config.behavior.slow_rate, 0.0)
    slow_critic = jax.tree.map(lambda slow, new: (1 - rate) * slow + rate * new, state.slow_critic, critic.params)

    metrics |= {f"loss/{name}": loss.mean() for name, loss in losses.items()}
    metrics["loss/total"] = total
    norms = {
        f"grad_norm/{name}": _norm(grad, nets.layout)
        for name, grad in zip(("world_model", "actor", "critic"), grads, strict=True)
    }
    finite = jnp.isfinite(jnp.stack([total, *norms.values()])).all()  # a norm is finite only if all of its squares are
    metrics |= norms | {"refused": 1 - finite.astype(jnp.float32)}
    old = replace(state, step=state.step + 1)
    new = AgentState(world_model, actor, critic, slow_critic, return_norm, old.key, old.step, parts)
    return jax.tree.map(partial(jnp.where, finite), new, old), metrics, states


def _before_update(nets: Networks, state: AgentState) -> tuple[TrainState, PartStates]:
    """World model and states of the parts as an update begins with them."""
    params, parts = dict(state.world_model.params), dict(state.parts)
    for part in nets.parts:
        params, own = call_for_pair(part, "before_update", params, parts.get(part.name, {}), state.step)
        if part.name in parts:
            parts[part.name] = own
    return state.world_model.replace(params=params), parts


def check_update(nets: Networks, config: Config) -> None:
    """Traces an update without computing or compiling it: what is wrong with an imported part is found before training.

    Raises:
      ConfigError: a part cannot be used.
    """
    shape = (config.replay.batch_size, config.replay.batch_length)

    def update(key: jax.Array) -> Metrics:
        flags = jnp.zeros(shape, bool)
        batch = Batch(
            obs={name: jnp.zeros((*shape, *spec.shape), spec.dtype) for name, spec in nets.obs_specs.items()},
            prev_action=jnp.zeros((*shape, nets.action_spec.size)),
            reward=jnp.zeros(shape),
            is_first=flags,
            is_last=flags,
            is_terminal=flags,
            start=rssm.initial_state(nets, shape[:1]),
        )
        return train_step(nets, config, init_agent(nets, config, key), batch)[1]

    jax.eval_shape(update, jax.random.key(0))


def compile_init(nets: Networks, config: Config):
    """The jitted `init_agent(key)`."""
    return jax.jit(partial(init_agent, nets, config), compiler_options=compiler_options(nets.layout, once=True))


def compile_train_step(nets: Networks, config: Config, seeds: int | None = None):
    """The jitted `train_step(state, batch)`; the state is donated. Build it once. For `seeds` see `over_seeds`.

    Raises:
      ConfigError: JAX computes in 64 bits.
    """
    check_32_bits()
    step = over_seeds(partial(train_step, nets, config), seeds)
    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options(nets.layout))


def acting_params(state: AgentState) -> ActingParams:
    """The parameters that the policy uses."""
    return ActingParams(state.world_model.params, state.actor.params)


def count_params(nets: Networks) -> dict[str, int]:
    """Trainable parameters by module, counted without allocating any."""
    world_model, actor, critic = jax.eval_shape(lambda: init_params(nets, jax.random.key(0)))
    trees = {**world_model, "actor": actor, "critic": critic}
    return {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in trees.items() if jax.tree.leaves(tree)}


def _norm(tree: Params, layout: Layout) -> jax.Array:
    return jnp.sqrt(sum((squared_norm(leaf, layout) for leaf in jax.tree.leaves(tree)), jnp.float32(0)))
