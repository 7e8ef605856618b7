"""How fast this project is on this machine: the compiled step and its parts, acting, the replay, and the whole loop."""

import contextlib
import io
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.agent import behavior, rssm
from dreamer_jax.agent.devices import compute_dtype, resolve_precision, select_device
from dreamer_jax.agent.networks import Networks, apply, build_networks
from dreamer_jax.agent.policy import compile_policy, initial_carry
from dreamer_jax.agent.representation import representation_losses
from dreamer_jax.agent.seeds import over_seeds
from dreamer_jax.agent.train_step import compile_init, compile_train_step, train_step
from dreamer_jax.agent.types import AgentState, Batch
from dreamer_jax.core.config import Config
from dreamer_jax.core.spaces import ObsSpec
from dreamer_jax.play.evaluate import read_specs
from dreamer_jax.profiling.flops import count_flops
from dreamer_jax.replay.buffer import Replay, Sequences, predict_bytes
from dreamer_jax.runs.folder import describe_environment
from dreamer_jax.runs.metrics import FILE_NAME, read_metrics
from dreamer_jax.training.learner import Learner

POLICY_BATCHES = (1, 16)
REPLAY_SIZES = (10_000, 100_000, 1_000_000)  # records held
REPLAY_CALLS = 300  # at the least; the first hundred after filling gigabytes are slower
MATMUL_SIZE = 2048
Timing = dict[str, float]


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
        "command": " ".join(["python", *command]),
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
      {"step", "parts", "policy", "replay": ...} with times in seconds, rates in 1/s, memory in bytes; see `table`.

    Raises:
      ConfigError, EnvError: as `train`.
    """
    config = resolve_precision(config)
    device = select_device(config.device)
    nets = build_networks(config.model, *read_specs(config.env), compute_dtype(config))
    replay = _empty_replay(nets, config, _least_records(config))
    fill(replay, nets, replay.length)
    state = compile_init(nets, config)(jax.random.key(config.seed))
    learner = Learner(nets, config, [state], [replay])
    acting, batch = jax.tree.map(lambda x: x[0], (learner.acting, learner.sample()[1]))
    step = measure_step(nets, config, learner, calls)
    step["peak_bytes"] = _peak_bytes(device)
    parts = _measure_parts(nets, config, state, batch, calls)
    policy = {str(count): _measure_policy(nets, config, acting, count, calls) for count in POLICY_BATCHES}
    step |= compare_with_matmul(step, matmul_rate(jnp.dtype(nets.dtype), calls))
    return {"step": step, "parts": parts, "policy": policy, "replay": _measure_replay(nets, config, calls)}


def timed(call: Callable[[], Any], calls: int) -> Timing:
    """Seconds of `calls` calls, each waited for, after two that do not count."""
    return timed_in_turn((call,), calls)[0]


def timed_in_turn(functions: Sequence[Callable[[], Any]], calls: int) -> list[Timing]:
    """As `timed`, for functions that are compared: called in turn, so that what else the machine does meets all of them."""
    seconds: list[list[float]] = [[] for _ in functions]
    for i in range(calls + 2):
        for function, own in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(function())
            if i >= 2:
                own.append(time.perf_counter() - start)
    return [{"median": float(np.median(own)), "min": min(own), "max": max(own), "calls": calls} for own in seconds]


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

    work = {"compile_seconds": compile_seconds, "flops": flops, "temp_bytes": _temp_bytes(step)}
    return {**timed(update, calls), **work}


def _temp_bytes(compiled: Any) -> int:
    """Memory that a compiled program takes beside its arguments and results."""
    return compiled.memory_analysis().temp_size_in_bytes


def compare_with_matmul(step: dict[str, Any], rate: float) -> dict[str, float]:
    """A step's operations beside those that large matrix products do in the same time."""
    return {"matmul_flops_per_second": rate, "fraction_of_matmul_rate": step["flops"] / step["median"] / rate}


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
        return (dyn + rep).mean() + rssm.features(states).astype(jnp.float32).mean(), states

    def heads(model, embed, slow_encoder, key, batch, states):
        features = rssm.features(states)
        losses = representation_losses(nets, config.model, model, slow_encoder, key, batch, embed, states)
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

    embed = jax.jit(partial(apply, nets.encoder))(model["encoder"], batch.obs)
    _, states = jax.jit(observe)(model, key, batch)
    programs: dict[str, tuple[Callable, tuple]] = {
        "observe scan": (jax.value_and_grad(observe, has_aux=True), (model, key, batch)),
        "representation and heads": (
            jax.value_and_grad(heads, argnums=(0, 5)),
            (model, embed, state.slow_encoder, key, batch, states),
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
    obs = {name: _random(rng, spec, (count,)) for name, spec in nets.obs_specs.items()}

    def act() -> np.ndarray:
        nonlocal carry
        action, carry = policy(acting, key, 0, carry, obs, first)
        return np.asarray(action)

    return timed(act, max(calls, 200))


def fill(replay: Replay, nets: Networks, steps: int) -> None:
    """Adds `steps` equal records of random observations to every ring."""
    rng, envs = np.random.default_rng(0), replay.num_envs
    none = np.zeros(envs, bool)
    obs = {name: _random(rng, spec, (envs,)) for name, spec in nets.obs_specs.items()}
    action = rng.uniform(-1, 1, (envs, nets.action_spec.size)).astype(np.float32)
    latent, stored = replay.latent, {}
    if latent:
        stored = {
            "deter": np.zeros((envs, latent.deter), latent.deter_dtype),
            "stoch": np.zeros((envs, latent.stoch), latent.stoch_dtype),
        }
    for _ in range(steps):
        replay.add(obs, action, np.zeros(envs), none, none, none, **stored)


def _least_records(config: Config) -> int:
    """Records that batches can be drawn from, and as many as a batch has copied."""
    replay, envs = config.replay, config.env.num_envs
    return max(envs * 4 * (replay.batch_length + 2), 2 * replay.batch_size * replay.batch_length + envs)


def _empty_replay(nets: Networks, config: Config, capacity: int) -> Replay:
    settings = config.replay
    latent = nets.latent.spec(nets.dtype) if settings.context else None
    return Replay(
        nets.obs_specs, nets.action_spec, latent, capacity, config.env.num_envs, settings.batch_length, False, config.seed
    )


def _measure_replay(nets: Networks, config: Config, calls: int) -> list[dict[str, float]]:
    """Fills a replay with random records, and measures it at each of `REPLAY_SIZES` that capacity and free memory allow.

    Returns:
      for each size the rates of adding and sampling. Beside sampling stands a plain copy of as many records that lie
      together, at random places of the replay: what the machine's memory allows.
    """
    settings, envs = config.replay, config.env.num_envs
    latent = nets.latent.spec(nets.dtype) if settings.context else None
    record = predict_bytes(nets.obs_specs, nets.action_spec, latent, 1)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4 * 3 if hasattr(os, "sysconf") else 2**30
    least = _least_records(config)
    sizes = [size for size in REPLAY_SIZES if least <= size <= settings.capacity and size * record <= free] or [least]
    replay = _empty_replay(nets, config, sizes[-1])
    rng = np.random.default_rng(0)
    rows = []
    for size in sizes:
        steps = size // envs - replay.added
        start = time.perf_counter()
        fill(replay, nets, steps)
        seconds = time.perf_counter() - start
        total = sum(array.nbytes for array in _arrays(replay.sample(settings.batch_size)))
        places = [values for name, values in replay.storage.items() if not name.startswith("latent/")]
        together = settings.batch_size * settings.batch_length // envs  # steps of all environments with as many records

        def copy(places=places, steps=replay.added - together, together=together) -> list[np.ndarray]:
            first = rng.integers(steps)
            return [values[:, first : first + together].copy() for values in places]

        sampled, copied = timed_in_turn((lambda: replay.sample(settings.batch_size), copy), max(calls, REPLAY_CALLS))
        rows.append(
            {
                "records": size,
                "add_records_per_second": steps * envs / seconds,
                "sample_sequences_per_second": settings.batch_size / sampled["median"],
                "sample_bytes_per_second": total / sampled["median"],
                "sample_time_over_copy_time": sampled["median"] / copied["median"],
                "batch_bytes": total,
            }
        )
    return rows


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
        rows = [row for row in read_metrics(run / FILE_NAME) if row["kind"] == "train"]
    first, last = rows[len(rows) // 2], rows[-1]
    seconds = last["wall_seconds"] - first["wall_seconds"]
    rate = (last["updates"] - first["updates"]) / seconds
    return {
        "decisions_per_second": (last["decisions"] - first["decisions"]) / seconds,
        "updates_per_second": rate,
        "share_without_update": max(0.0, 1 - rate * step_seconds),
    }


def table(result: dict[str, Any]) -> str:
    """The measurements as lines for a terminal."""
    step, loop = result["step"], result.get("loop")
    lines = [
        f"{'compiled step':24}{_milliseconds(step)}",
        *(f"{'  ' + name:24}{_milliseconds(timing)}" for name, timing in result["parts"].items()),
        f"{'compilation':24}{step['compile_seconds']:10.1f} s",
        f"{'peak memory':24}{step['peak_bytes'] / 2**20:10,.0f} MiB",
        f"{'work of a step':24}{step['flops'] / 1e9:10.2f} GFLOP, {step['fraction_of_matmul_rate']:.0%} of the "
        f"{step['matmul_flops_per_second'] / 1e9:,.0f} GFLOP/s of large matrix products",
        *(f"{f'policy, {count} env':24}{_milliseconds(timing)}" for count, timing in result["policy"].items()),
        *(line for row in result["replay"] for line in _replay_lines(row)),
    ]
    if loop:
        rate = f"{loop['decisions_per_second']:10.1f} decisions/s, {loop['updates_per_second']:.2f} updates/s"
        lines.append(f"{'whole loop':24}{rate}, no update in {loop['share_without_update']:.0%} of the time")
    return "\n".join(lines)


def _replay_lines(row: dict[str, float]) -> list[str]:
    return [
        f"{'replay of ' + format(row['records'], ',.0f'):24}{row['add_records_per_second']:10,.0f} records/s added",
        f"{'  sample':24}{row['sample_sequences_per_second']:10,.0f} sequences/s = "
        f"{row['sample_bytes_per_second'] / 1e9:.2f} GB/s, {row['sample_time_over_copy_time']:.2f} times a copy",
    ]


def _milliseconds(timing: Timing) -> str:
    low, high = timing["min"] * 1e3, timing["max"] * 1e3
    return f"{timing['median'] * 1e3:10.2f} ms  ({low:.2f} to {high:.2f} in {timing['calls']} calls)"


def matmul_rate(dtype: Any, calls: int) -> float:
    """Operations per second of a large matrix product in this dtype: what the machine can do at best."""
    x = jnp.ones((MATMUL_SIZE, MATMUL_SIZE), dtype)
    product = jax.jit(jnp.matmul)
    return 2 * MATMUL_SIZE**3 / timed(lambda: product(x, x), calls)["min"]


def _peak_bytes(device: Any) -> int:
    """The most memory held so far: on the accelerator, or by this process on a CPU."""
    statistics = device.memory_stats() or {}
    return statistics.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _random(rng: np.random.Generator, spec: ObsSpec, batch: tuple[int, ...]) -> np.ndarray:
    if spec.kind == "vector":
        return rng.normal(size=(*batch, *spec.shape)).astype(np.float32)
    return rng.integers(spec.classes or 256, size=(*batch, *spec.shape)).astype(spec.dtype)


def _arrays(sequences: Sequences) -> list[np.ndarray]:
    """What a batch hands to the device."""
    values = [*sequences.obs.values(), *(value for name, value in vars(sequences).items() if name != "obs")]
    return [value for value in values if value is not None]
