"""Training: environment -> replay -> train_step -> policy.

Acting, sampling, transfer and the compiled step overlap through JAX's asynchronous dispatch, with a fixed lag (see
`Learner`): which batch, parameters and key each update and each action uses is a function of counters, never of timing.
"""

import contextlib
import signal
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dreamer_jax import rssm
from dreamer_jax.announce import describe_run
from dreamer_jax.checkpoint import Checkpoints
from dreamer_jax.config import Config
from dreamer_jax.devices import compute_dtype, resolve_precision, select_device
from dreamer_jax.envs import Step, VectorEnv, make_vector_env
from dreamer_jax.evaluation import EVALUATION_SEED, SELECTION_SEED, Policy, evaluate, read_specs, summary, write_episode
from dreamer_jax.learner import Learner
from dreamer_jax.metrics import RETURN_WINDOW, MetricsLog, Progress, read_metrics, truncate
from dreamer_jax.networks import Networks, build_networks, key_layers
from dreamer_jax.plots import draw_curves
from dreamer_jax.policy import compile_policy, initial_carry
from dreamer_jax.replay import Replay, TrainRatio
from dreamer_jax.runs import check_writable, create_run, describe_environment, open_run, write_json
from dreamer_jax.spaces import LatentSpec
from dreamer_jax.train_step import count_params, init_agent

SHOWN_LOSSES = ("loss/reward", "loss/continue", "loss/dyn", "loss/policy", "loss/value")


@dataclass
class Counters:
    """What a run has done so far.

    frames: simulator steps taken; decisions: actions taken = frames / action repeat; records: decisions + resets;
    updates: gradient steps; policy_steps: calls of the policy; wall_seconds: time spent, earlier parts of the run included.
    """

    frames: int = 0
    decisions: int = 0
    records: int = 0
    updates: int = 0
    policy_steps: int = 0
    wall_seconds: float = 0.0


class Episodes:
    """Returns and lengths of the episodes being played, and the returns of the last few that ended."""

    def __init__(self, num_envs: int) -> None:
        self.total = np.zeros(num_envs)
        self.length = np.zeros(num_envs, int)
        self.recent: deque[float] = deque(maxlen=RETURN_WINDOW)

    def track(self, step: Step) -> list[dict[str, float]]:
        """Counts one step of every environment -> {"return", "length", "success"} of each episode that ended with it."""
        self.total = np.where(step.is_first, 0.0, self.total + step.reward)
        self.length = np.where(step.is_first, 0, self.length + 1)
        ended = []
        for i in np.flatnonzero(step.is_last):
            row = {"return": float(self.total[i]), "length": int(self.length[i])}
            if not np.isnan(step.success[i]):
                row["success"] = float(step.success[i])
            self.recent.append(row["return"])
            ended.append(row)
        return ended


class Every:
    """True each time a counter passes another multiple of `distance`; never for distance 0."""

    def __init__(self, distance: int, start: int) -> None:
        self._distance = distance
        self._passed = start // distance if distance else 0

    def __call__(self, count: int) -> bool:
        if not self._distance or count // self._distance == self._passed:
            return False
        self._passed = count // self._distance
        return True


def train(config: Config) -> Path:
    """Trains an agent from scratch and returns its new run folder.

    Raises:
      ConfigError, EnvError, ReplayError: one line for the user.
    """
    config = resolve_precision(config)  # before there is a folder: the device may be missing
    with contextlib.ExitStack() as stack:
        envs = _open_envs(stack, config, config.seed)
        run = create_run(config)
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(run, config.train.keep_checkpoints)))
        return _Run(config, run, envs, checkpoints, None, stack).train()


def resume(run: str | Path) -> Path:
    """Goes on with a run from its last checkpoint, under the run's own configuration.

    Raises:
      ConfigError, EnvError, ReplayError: one line for the user.
    """
    run = Path(run)
    config = open_run(run)
    check_writable(run)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(run, config.train.keep_checkpoints)))
        frames = checkpoints.resolve("last")
        # New episodes on a seed of their own: the run's first ones would otherwise be played again.
        envs = _open_envs(stack, config, int(np.random.SeedSequence([config.seed, frames]).generate_state(1)[0]) >> 1)
        return _Run(config, run, envs, checkpoints, frames, stack).train()


def describe(config: Config) -> str:
    """What `train` would announce, without training: sizes, parameters, budget and replay memory."""
    device, config = select_device(config.device), resolve_precision(config)
    obs_specs, action_spec = read_specs(config.env)
    nets = build_networks(config.model, obs_specs, action_spec, compute_dtype(config))
    return describe_run(
        config, None, str(device), obs_specs, action_spec, key_layers(nets), _stored(nets, config), count_params(nets)
    )


def _stored(nets: Networks, config: Config) -> LatentSpec | None:
    """What the replay holds of each latent; None without replay context."""
    return rssm.latent_spec(nets) if config.replay.context else None


def _open_envs(stack: contextlib.ExitStack, config: Config, seed: int) -> VectorEnv:
    return stack.enter_context(contextlib.closing(make_vector_env(config.env, config.env.num_envs, seed)))


class _Run:
    """What one training run holds, and its loop."""

    def __init__(
        self,
        config: Config,
        run: Path,
        envs: VectorEnv,
        checkpoints: Checkpoints,
        resume_from: int | None,
        stack: contextlib.ExitStack,
    ) -> None:
        self.config, self.run, self.envs, self.checkpoints = config, run, envs, checkpoints
        device = select_device(config.device)
        self.nets = build_networks(config.model, envs.obs_specs, envs.action_spec, compute_dtype(config))
        settings = config.replay
        latent = _stored(self.nets, config)
        self.replay = Replay(
            self.nets.obs_specs,
            envs.action_spec,
            latent,
            settings.capacity,
            envs.num_envs,
            settings.batch_length,
            settings.online,
            config.seed,
        )
        self.ratio = TrainRatio(settings.train_ratio, settings.batch_size, settings.batch_length)
        self.counters = Counters()
        self.episodes = Episodes(envs.num_envs)
        agent_key, self.policy_key = jax.random.split(jax.random.key(config.seed))
        init = jax.jit(partial(init_agent, self.nets, config))
        state = init(agent_key) if resume_from is None else self._restore(resume_from, jax.eval_shape(init, agent_key))
        self.learner = Learner(self.nets, config, state, self.replay)
        self.policy = compile_policy(self.nets, config.behavior, deterministic=False)
        # For evaluations: compiled once, given the newest parameters each time.
        self.players = {mode: Policy(self.nets, config, self.learner.acting, deterministic=mode) for mode in (True, False)}

        write_json(run / "environment.json", describe_environment(str(device.device_kind)))
        self.log = stack.enter_context(contextlib.closing(MetricsLog(run, config, resume=resume_from is not None)))
        print(
            describe_run(
                config,
                run,
                str(device),
                envs.obs_specs,
                envs.action_spec,
                key_layers(self.nets),
                latent,
                count_params(self.nets),
            ),
            flush=True,
        )
        self.progress = stack.enter_context(contextlib.closing(Progress(config.train.frames, self.counters.frames)))
        self.started = time.monotonic() - self.counters.wall_seconds
        self.logged = (self.counters.frames, self.counters.updates, self.counters.wall_seconds)
        self.stop_requested = False

    def train(self) -> Path:
        """Runs to the end of the frame budget, or until Ctrl-C."""
        with _stop_on_signal(self):
            self._interact()
        self._log_train()
        self._save(score=None)
        self.progress.close()
        draw_curves(read_metrics(self.run / "metrics.jsonl"), self.run / "curves.png", self.config.env.task)
        if self.stop_requested:
            print(f"Stopped at frame {self.counters.frames}. Go on with: python scripts/train.py --resume {self.run}")
        else:
            self._finish()
        return self.run

    def _interact(self) -> None:
        """The loop: act, store, learn, step."""
        config, counters, envs = self.config, self.counters, self.envs
        log_due = Every(config.train.log_every, counters.frames)
        eval_due = Every(config.train.eval_every, counters.frames)
        carry = initial_carry(self.nets, envs.num_envs)
        step = envs.reset()
        prev_action = np.zeros((envs.num_envs, envs.action_spec.size), np.float32)
        while counters.frames < config.train.frames and not self.stop_requested:
            action, carry = self.policy(
                self.learner.acting, self.policy_key, counters.policy_steps, carry, step.obs, step.is_first
            )
            counters.policy_steps += 1
            latent = vars(self.learner.fetch_latent(carry.latent)) if self.replay.latent else {}
            self.replay.add(step.obs, prev_action, step.reward, step.is_first, step.is_last, step.is_terminal, **latent)
            counters.records += envs.num_envs
            if self.replay.items >= config.replay.min_items:
                due = self.ratio(counters.records)
                self.learner.update(due)
                counters.updates += due

            action = np.asarray(action)  # waits for the policy, not for the updates just dispatched
            step = envs.step(action)
            prev_action = np.where(step.is_first[:, None], 0, action)
            decisions = int(envs.num_envs - step.is_first.sum())  # a reset takes no decision
            counters.decisions += decisions
            counters.frames += decisions * config.env.action_repeat
            for row in self.episodes.track(step):
                self._write("episode", row)
            if log_due(counters.frames):
                self._log_train()
            if eval_due(counters.frames) and counters.frames < config.train.frames:
                self._save(score=self._evaluate_on_the_way())

    def _log_train(self) -> None:
        """Writes a metrics row and moves the progress bar, once for a frame."""
        frames, updates, seconds = self.counters.frames, self.counters.updates, time.monotonic() - self.started
        if frames == self.logged[0]:
            return
        speed = (updates - self.logged[1]) / (seconds - self.logged[2])
        self.logged = (frames, updates, seconds)
        metrics = self.learner.fetch_metrics()
        if metrics:
            self._write("train", {**metrics, "updates_per_second": speed, "replay_records": len(self.replay)})
        losses = {name.removeprefix("loss/"): metrics[name] for name in SHOWN_LOSSES if name in metrics}
        self.progress.update(frames, updates, speed, tuple(self.episodes.recent), losses)

    def _evaluate(self, episodes: int, deterministic: bool, first_seed: int) -> dict[str, Any]:
        policy = self.players[deterministic].with_params(self.learner.newest())
        return evaluate(policy, self.config.env, episodes, self.config.seed, first_seed)

    def _evaluate_on_the_way(self) -> float:
        """A short evaluation -> its mean return, by which the best checkpoint is known."""
        result = self._evaluate(self.config.train.eval_episodes, True, SELECTION_SEED)
        self._write("eval", {key: result[key] for key in ("return_mean", "return_std", "length_mean", "episodes")})
        self.progress.print(f"frame {self.counters.frames}: evaluation {summary(result)}")
        return result["return_mean"]

    def _finish(self) -> None:
        """The evaluation of the agent at the end, on seeds that training never saw, with JSON, video and curves."""
        config = self.config
        print(f"Evaluating the last agent over {config.train.final_episodes} fresh episodes ...", flush=True)
        results = {
            "deterministic": self._evaluate(config.train.final_episodes, True, EVALUATION_SEED),
            "sampled": self._evaluate(config.train.final_episodes, False, EVALUATION_SEED),
        }
        counters = asdict(self.counters)
        write_json(self.run / "evaluation.json", {"task": config.env.task, "checkpoint": "last", **counters, **results})
        row = {key: results["deterministic"][key] for key in ("return_mean", "return_std", "length_mean", "episodes")}
        rows = read_metrics(self.run / "metrics.jsonl")
        if not any(old["kind"] == "eval" and old["frames"] == self.counters.frames for old in rows):  # resumed when finished
            self._write("eval", row)
        draw_curves(read_metrics(self.run / "metrics.jsonl"), self.run / "curves.png", config.env.task)
        for name, result in results.items():
            print(f"  {name + ' policy:':22} {summary(result)}", flush=True)
        if config.train.video:
            policy = self.players[True].with_params(self.learner.newest())
            write_episode(policy, config.env, config.seed, self.run / "videos" / f"{self.counters.frames}.mp4")
        print(f"Run folder: {self.run}", flush=True)

    def _save(self, score: float | None) -> None:
        self.counters.wall_seconds = time.monotonic() - self.started
        self.learner.write_back()
        host = {
            "counters": asdict(self.counters),
            "train_ratio": self.ratio.previous,
            "replay_end": self.replay.added,
            "replay_queue": list(self.replay.queue),
            "replay_rng": self.replay.rng.bit_generator.state,
            "recent_returns": list(self.episodes.recent),
        }
        self.checkpoints.save(self.counters.frames, self.learner.state, host, self.replay, score)

    def _restore(self, frames: int, like: Any) -> Any:
        """Puts back a checkpoint: agent, counters, train ratio and replay. Environments start new episodes."""
        host = self.checkpoints.restore_host(frames)
        self.counters = Counters(**host["counters"])
        self.ratio.previous = host["train_ratio"]
        self.checkpoints.restore_replay(self.replay, host["replay_end"])
        self.replay.queue.extend((env, first) for env, first in host["replay_queue"])
        self.replay.rng.bit_generator.state = host["replay_rng"]
        self.episodes.recent.extend(host["recent_returns"])
        truncate(self.run, frames)
        return self.checkpoints.restore_agent(frames, like)

    def _write(self, kind: str, row: dict[str, Any]) -> None:
        self.counters.wall_seconds = time.monotonic() - self.started
        counts = {key: value for key, value in asdict(self.counters).items() if key not in ("records", "policy_steps")}
        self.log.write({"kind": kind, **counts, **row})


@contextlib.contextmanager
def _stop_on_signal(run: _Run) -> Iterator[None]:
    """Ctrl-C and SIGTERM let the loop finish its step; a second Ctrl-C interrupts at once."""

    def request(number: int, frame: Any) -> None:
        run.stop_requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run.progress.print("stopping: finishing this step and saving a checkpoint (Ctrl-C again to give up on that)")

    try:
        previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals belong to the caller
        previous = {}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
