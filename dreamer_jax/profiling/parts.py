"""How fast this project is on this machine: the compiled step and its parts, acting, the replay, and the whole loop."""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.agent import behavior, rssm
from dreamer_jax.agent.devices import compute_dtype, on_device, resolve_precision, select_device
from dreamer_jax.agent.layout import layout_of
from dreamer_jax.agent.networks import Networks, apply, build_networks
from dreamer_jax.agent.parts import Seen, part_losses
from dreamer_jax.agent.policy import compile_policy, initial_carry
from dreamer_jax.agent.seeds import over_seeds
from dreamer_jax.agent.train_step import compile_init, compile_train_step, train_step
from dreamer_jax.agent.types import AgentState, Batch
from dreamer_jax.core.config import Config
from dreamer_jax.core.memory import peak_memory
from dreamer_jax.play.policy import read_specs
from dreamer_jax.profiling.flops import count_flops
from dreamer_jax.profiling.replay import fill, least_records, make_replay, measure_replay, random_obs
from dreamer_jax.profiling.timing import Timing, compare_with_matmul, matmul_rate, timed
from dreamer_jax.runs.folder import describe_environment
from dreamer_jax.runs.metrics import FILE_NAME, of_kind, read_metrics
from dreamer_jax.training.learner import Learner

POLICY_BATCHES = (1, 16)


def report(config: Config, calls: int, updates: int, command: Sequence[str]) -> Iterator[dict[str, Any]]:
    """All measurements of a configuration, with what has to stand beside them: command, settings, versions and device.

    Args:
      calls: timed calls of each part.
      updates: updates of the whole loop; 0 leaves it out.
      command: the words that repeat it.

    Yields:
      the measurements so far: all but the whole loop, then all.
    """
    result = {
        "command": " ".join(command),
        **describe_environment(str(select_device(config.device).device_kind)),
        "config": resolve_precision(config).model_dump(by_alias=True),
        **measure(config, calls),
    }
    yield result
    if updates:
        yield {**result, "loop": measure_loop(config, updates, result["step"]["median"])}


def measure(config: Config, calls: int) -> dict[str, Any]:
    """Times everything but the whole loop, each over `calls` calls after a warm-up, with a wait for the device after each.

    Returns:
      {"step", "parts", "policy", "replay": ...} with times in seconds, rates in 1/s, memory in bytes; see `parts_report.table`.

    Raises:
      ConfigError, EnvError: as `train`.
    """
    with on_device(config.device):
        return _measure(resolve_precision(config), calls)


def _measure(config: Config, calls: int) -> dict[str, Any]:
    device = select_device(config.device)
    nets = build_networks(config, *read_specs(config.env), compute_dtype(config), layout_of(device))
    replay = make_replay(nets, config, least_records(config), config.env.num_envs)
    fill(replay, nets, replay.length)
    state = compile_init(nets, config)(jax.random.key(config.seed))
    learner = Learner(nets, config, [state], [replay])
    acting, batch = jax.tree.map(lambda x: x[0], (learner.acting, learner.sample()[1]))
    step = measure_step(nets, config, learner, calls)
    step["peak_bytes"] = _peak_bytes(device)
    parts = _measure_parts(nets, config, state, batch, calls)
    policy = {str(count): _measure_policy(nets, config, acting, count, calls) for count in POLICY_BATCHES}
    step |= compare_with_matmul(step, matmul_rate(jnp.dtype(nets.dtype), calls))
    return {"step": step, "parts": parts, "policy": policy, "replay": measure_replay(nets, config, calls)}


def measure_step(nets: Networks, config: Config, learner: Learner, calls: int) -> dict[str, Any]:
    """The update of all the learner's seeds as training runs it: compiled once, the state donated.

    Returns:
      seconds as from `timed`, compile_seconds, the operations of one update, and temp_bytes that it takes beside its arguments.
    """
    state, batch = jax.tree.map(jnp.copy, learner.state), learner.sample()[1]
    seeds = state.step.shape[0]
    flops = count_flops(over_seeds(partial(train_step, nets, config), seeds), state, batch)
    start = time.perf_counter()
    step = compile_train_step(nets, config, seeds).lower(state, batch).compile()
    compile_seconds = time.perf_counter() - start

    def update() -> Any:
        nonlocal state
        state, metrics, latents = step(state, batch)
        return state, metrics, latents

    memory = step.memory_analysis()
    assert memory is not None  # known of every program that was compiled ahead
    return {**timed(update, calls), "compile_seconds": compile_seconds, "flops": flops, "temp_bytes": memory.temp_size_in_bytes}


def _measure_parts(nets: Networks, config: Config, state: AgentState, batch: Batch, calls: int) -> dict[str, Timing]:
    """The parts of an update, each compiled by itself with the gradients that training takes of it.

    The compiled step shares work and memory between them, so they need not add up to it. All arrays are arguments: XLA would
    work out beforehand what follows from captured ones.
    """
    params = (state.world_model.params, state.actor.params, state.critic.params)
    model, actor, critic = params
    key = jax.random.key(0)

    def observe(model, key, batch):
        embed = apply(nets.encoder, model["encoder"], batch.obs)
        prev_action = batch.prev_action.astype(nets.dtype)
        _, states, posterior, prior = rssm.observe(nets, model, key, batch.start, prev_action, embed, batch.is_first)
        dyn, rep = rssm.kl_loss(nets.latent, posterior, prior)
        seen = Seen(batch, embed, states, posterior, prior)
        return (dyn + rep).mean() + seen.features.astype(jnp.float32).mean(), seen

    def heads(model, states, parts, key, seen):
        seen = seen.replace(states=states)
        features = seen.features
        losses = part_losses(nets.parts, nets, model, parts, key, seen)
        heads = [(nets.reward, "reward"), (nets.continue_, "continue")]
        outputs = [apply(module, model[name], features) for module, name in heads if module]
        return sum(jnp.float32(loss.mean()) for loss in (*losses.values(), *jax.tree.leaves(outputs)))

    def imagine(model, actor, key, states):
        return behavior.imagine_from_posterior(nets, config.behavior, model, actor, key, states)

    def actor_critic(actor, critic, model, slow_critic, return_norm, trajectory, is_terminal):
        predictions = behavior.predict(nets, config.behavior, model, critic, slow_critic, trajectory, is_terminal)
        targets, *_ = behavior.imagined_targets(predictions, return_norm, config.behavior)
        losses, _ = behavior.actor_critic_losses(nets, config.behavior, actor, critic, trajectory, targets)
        return sum(losses.values())

    def optimise(state, grads):
        return [part.apply_gradients(grads=grad) for part, grad in zip((state.world_model, state.actor, state.critic), grads)]

    _, seen = jax.jit(observe)(model, key, batch)
    states = seen.states
    programs: dict[str, tuple[Callable, tuple]] = {
        "observe scan": (jax.value_and_grad(observe, has_aux=True), (model, key, batch)),
        "representation and heads": (
            jax.value_and_grad(heads, argnums=(0, 1)),
            (model, states, state.parts, key, seen),
        ),
        "optimiser": (optimise, (state, params)),
    }
    if nets.actor:
        trajectory = jax.jit(imagine)(model, actor, key, states)
        inputs = (actor, critic, model, state.slow_critic, state.return_norm, trajectory, batch.is_terminal.reshape(-1))
        programs["imagine scan"] = (imagine, (model, actor, key, states))
        programs["actor-critic losses"] = (jax.value_and_grad(actor_critic, argnums=(0, 1)), inputs)
    return {name: timed(partial(jax.jit(program), *inputs), calls) for name, (program, inputs) in programs.items()}


def _measure_policy(nets: Networks, config: Config, acting: Any, count: int, calls: int) -> Timing:
    """One decision for `count` environments, from NumPy observations to NumPy actions."""
    policy, carry = compile_policy(nets, config.behavior, "exploring"), initial_carry(nets, count)
    rng, key, first = np.random.default_rng(0), jax.random.key(0), np.zeros(count, bool)
    obs = random_obs(rng, nets, count)

    def act() -> np.ndarray:
        nonlocal carry
        action, carry = policy(acting, key, carry, obs, first)
        return np.asarray(action)

    return timed(act, max(calls, 200))


def measure_loop(config: Config, updates: int, step_seconds: float) -> dict[str, float]:
    """Trains for about `updates` updates in a temporary folder: environment, policy, replay and learner together.

    Returns:
      decisions and updates per second after compilation, and the share of the time in which no update runs, from the time
      that one takes alone (`step_seconds`).
    """
    from dreamer_jax.training import start  # reads plots and logs, which the rest here does without

    replay = config.replay
    warmup = max(replay.prefill, replay.min_items + config.env.num_envs * (replay.batch_length + 1))
    training = updates * replay.batch_size * replay.batch_length / replay.train_ratio
    training = max(int(training), 20 * config.env.num_envs)  # decisions; several rows of the log at the least
    frames = (warmup + training) * config.env.action_repeat
    log_every = training // 20 * config.env.action_repeat
    quiet = {"frames": frames, "log_every": log_every, "tensorboard": False, "wandb": False}
    changes = {
        "train": config.train.model_copy(update=quiet),
        "eval": config.eval.model_copy(update={"every": 0, "final_episodes": 1, "video": False}),
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        run = start.train(config.model_copy(update={"runs": folder, **changes}))
        rows = of_kind(read_metrics(run / FILE_NAME), "train")
    first, last = rows[len(rows) // 2], rows[-1]
    seconds = last["wall_seconds"] - first["wall_seconds"]
    rate = (last["updates"] - first["updates"]) / seconds
    return {
        "decisions_per_second": (last["decisions"] - first["decisions"]) / seconds,
        "updates_per_second": rate,
        "share_without_update": max(0.0, 1 - rate * step_seconds),
    }


def _peak_bytes(device: Any) -> int:
    """The most memory held so far: on the accelerator, or by this process on a CPU."""
    statistics = device.memory_stats() or {}
    return statistics.get("peak_bytes_in_use") or peak_memory()
