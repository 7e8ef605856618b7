"""Training: environment -> replay -> train_step -> policy, for one seed or for several side by side.

Acting, sampling, transfer and the compiled step overlap through JAX's asynchronous dispatch, with a fixed lag (see
`Learner`): which batch, parameters and key each update and each action uses is a function of counters, never of timing.
"""

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.agent.devices import compute_dtype, select_device
from dreamer_jax.agent.networks import Networks, build_networks, key_layers
from dreamer_jax.agent.policy import compile_policy, initial_carry
from dreamer_jax.agent.train_step import compile_init, count_params
from dreamer_jax.agent.types import ActingParams, PolicyCarry
from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ActionError, DivergedError, EnvError
from dreamer_jax.core.memory import MIB, give_back_memory, resident_memory
from dreamer_jax.core.spaces import LatentSpec
from dreamer_jax.envs import EpisodeState, Step, VectorEnv
from dreamer_jax.play.evaluate import Policy
from dreamer_jax.replay.buffer import Replay
from dreamer_jax.replay.train_ratio import TrainRatio
from dreamer_jax.runs.budget import describe_run
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.in_flight import Moment, misfit
from dreamer_jax.runs.metrics import Progress
from dreamer_jax.training.learner import Learner
from dreamer_jax.training.seed_run import SeedRun

SHOWN_LOSSES = ("loss/reward", "loss/continue", "loss/dyn", "loss/policy", "loss/value")


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


class Training:
    """What training some seeds together holds, and its loop. The seeds' axis is the first of every array on the device."""

    def __init__(
        self,
        configs: Sequence[Config],
        folders: Sequence[Path],
        resume_from: Sequence[int | None],
        envs: VectorEnv,
        stack: contextlib.ExitStack,
    ) -> None:
        self.config, self.envs = configs[0], envs
        config, device = self.config, select_device(self.config.device)
        self.nets = build_networks(config.model, envs.obs_specs, envs.action_spec, compute_dtype(config))
        latent = stored_latent(self.nets, config)
        self.runs: list[SeedRun] = []
        for own, folder, frames in zip(configs, folders, resume_from, strict=True):
            checkpoints = stack.enter_context(contextlib.closing(Checkpoints(folder, own.train.keep_checkpoints)))
            replay = Replay(
                self.nets.obs_specs,
                envs.action_spec,
                latent,
                own.replay.capacity,
                own.env.num_envs,
                own.replay.batch_length,
                own.replay.online,
                own.seed,
                folder if own.replay.storage == "disk" else None,
            )
            self.runs.append(SeedRun(own, folder, checkpoints, replay, frames))
        self.active = list(range(len(self.runs)))  # runs with frames left
        self.final: dict[int, ActingParams] = {}  # what the others ended with

        keys = [jax.random.split(jax.random.key(own.seed)) for own in configs]
        self.policy_keys = jnp.stack([policy_key for _, policy_key in keys])
        init = compile_init(self.nets, config)
        like = jax.eval_shape(init, keys[0][0])
        states = [
            init(agent_key) if frames is None else run.restore_agent(like)
            for (agent_key, _), run, frames in zip(keys, self.runs, resume_from, strict=True)
        ]
        for run in self.runs:  # nothing has been changed until here
            run.open(str(device.device_kind), stack)
        self.learner = Learner(self.nets, config, states, [run.replay for run in self.runs])
        self.step, self.carry, self.prev_action = self._begin()
        self.ratio = TrainRatio(config.replay.train_ratio, config.replay.batch_size, config.replay.batch_length)
        self.ratio.previous = self._lead.train_ratio
        self.policy = compile_policy(self.nets, config.behavior, "exploring", seeds=len(self.runs))
        # For evaluations: compiled once, given the newest parameters each time.
        self.players = {mode: Policy(self.nets, config, self._newest(0), deterministic=mode) for mode in (True, False)}

        seeds = [own.seed for own in configs]
        layers, params = key_layers(self.nets), count_params(self.nets)
        print(
            describe_run(config, seeds, folders, str(device), envs.obs_specs, envs.action_spec, layers, latent, params),
            flush=True,
        )
        self.progress = stack.enter_context(contextlib.closing(Progress(config.train.frames, self._frames)))
        self.logged = (self._lead.counters.policy_steps, self._lead.counters.updates, time.monotonic())
        self.save_due = time.monotonic() + 60 * config.train.checkpoint_minutes
        self.saving = 0.0  # for which training has waited for checkpoints since the last row [s]
        self.stop_requested = False
        self.in_step = False  # what is saved then has no moment

    def train(self) -> list[Path]:
        """Runs to the end of the frame budget, or until Ctrl-C. Raises OSError if a run folder cannot be written any more."""
        folders = [run.folder for run in self.runs]
        with _stop_on_signal(self):
            self._interact_and_save()
        self.progress.close()
        for i, run in enumerate(self.runs):
            if self.stop_requested:
                run.draw()
            else:
                run.finish(self.players, self.final[i])
        if self.stop_requested:
            print(f"Stopped at frame {self._frames}. Go on with: {go_on(folders)}")
        return folders

    def _interact_and_save(self) -> None:
        """The loop, and a checkpoint at its end: also where an environment or the agent fails."""
        try:
            self._interact()
        except ActionError:  # of an agent that is not worth a checkpoint
            raise
        except (EnvError, DivergedError):
            for i in self.active:
                self._save(i)
            raise
        for i in self.active:
            self._save(i)
        for run in self.runs:
            run.wait()

    def _interact(self) -> None:
        """The loop: act, store, learn, step."""
        config, envs = self.config, self.envs
        log_due = Every(config.train.log_every, self._frames)
        eval_due = Every(config.eval.every, self._frames)
        self._retire()
        while self.active and not self.stop_requested:
            obs, is_first = jax.tree.map(self._by_seed, (self.step.obs, self.step.is_first))
            counter = self._lead.counters.policy_steps
            self.in_step = True
            action, self.carry = self.policy(self.learner.acting, self.policy_keys, counter, self.carry, obs, is_first)
            latent = vars(self.learner.fetch_latent(self.carry.latent)) if self.runs[0].replay.latent else {}
            for i in self.active:
                own = self._of_seed(i)
                self.runs[i].store(self.step[own], self.prev_action[own], {name: value[i] for name, value in latent.items()})
            prefilled = self._lead.counters.decisions >= config.replay.prefill
            if not prefilled:
                action = self._random_action(counter)
                self.carry = self.carry.replace(prev_action=jnp.asarray(action, self.carry.prev_action.dtype))
            elif self._lead.replay.items >= config.replay.min_items:
                due = self.ratio(self._lead.counters.records)
                if not self._lead.counters.updates:
                    due = config.replay.pretrain
                self.learner.update(due)
                for i in self.active:
                    self.runs[i].counters.updates += due

            action = np.asarray(action).reshape(self.prev_action.shape)  # waits for the policy, not for the updates dispatched
            self.step = envs.step(action)
            self.prev_action = np.where(self.step.is_first[:, None], 0, action)
            for i in self.active:
                self.runs[i].advance(self.step[self._of_seed(i)])
            self.in_step = False
            self._keep_refused()
            for i in self.active:
                self.runs[i].check_refused()
            if log_due(self._frames):
                self._log_train()
            self._retire()
            if eval_due(self._frames):
                scores = [self._evaluate(i) for i in self.active]
                for i, score in zip(self.active, scores, strict=True):  # together: a kill in between parts the seeds
                    self._save(i, score)
            if time.monotonic() >= self.save_due:  # when this is makes no difference to anything else
                for i in self.active:
                    self._save(i)

    def _random_action(self, counter: int) -> np.ndarray:
        """f32[N, E, A]: uniform in [-1, 1], or a random choice; its randomness is the seed's and the counter's."""
        spec, actions = self.envs.action_spec, []
        for run in self.runs:
            rng = np.random.default_rng([run.config.seed, counter])
            shape = (self.config.env.num_envs, spec.size)
            if spec.discrete:
                actions.append(np.eye(spec.size)[rng.integers(spec.size, size=shape[0])])
            else:
                actions.append(rng.uniform(-1, 1, shape))
        return np.asarray(actions, np.float32)

    @property
    def _lead(self) -> SeedRun:
        """A run whose records, updates and policy steps are those of all with frames left: resumed ones may have none."""
        return next((run for run in self.runs if run.active), self.runs[self.active[0] if self.active else 0])

    @property
    def _frames(self) -> int:
        """Frames of the run that has the fewest: the schedule of logs and evaluations follows it."""
        return min(run.counters.frames for run in self.runs)

    def _of_seed(self, index: int) -> slice:
        """Where a seed's environments are among all."""
        count = self.config.env.num_envs
        return slice(index * count, (index + 1) * count)

    def _by_seed(self, x: np.ndarray) -> np.ndarray:
        """[N * E, ...] -> [N, E, ...]"""
        return x.reshape(len(self.runs), -1, *x.shape[1:])

    def _newest(self, index: int) -> ActingParams:
        return jax.tree.map(lambda x: x[index], self.learner.newest())

    def _retire(self) -> None:
        """Saves the runs that have used up their frames, and keeps their agents as they are now."""
        done = [i for i in self.active if not self.runs[i].active]
        if done:
            self._log_train()
        for i in done:
            self._save(i)
            self.final[i] = self._newest(i)
        self.active = [i for i in self.active if i not in done]

    def _log_train(self) -> None:
        """Writes metrics rows and moves the progress bar, once for a step."""
        counters = self._lead.counters
        steps, updates, now = counters.policy_steps, counters.updates, time.monotonic()
        if steps == self.logged[0]:
            return
        speed = (updates - self.logged[1]) / (now - self.logged[2])
        self.logged = (steps, updates, now)
        rows = self.learner.fetch_metrics()
        process = {
            "updates_per_second": speed,
            "checkpoint_seconds": self.saving,
            "resident_mib": resident_memory() / MIB,
        }
        if any(rows):
            self.saving = 0.0
        for i in self.active:
            if rows[i]:
                run = self.runs[i]
                run.write("train", {**rows[i], **process, "replay_records": len(run.replay)})
        losses = {
            name.removeprefix("loss/"): float(np.mean([rows[i][name] for i in self.active]))
            for name in SHOWN_LOSSES
            if name in rows[self.active[0]]
        }
        self.progress.update(self._frames, updates, speed, [tuple(run.episodes.recent) for run in self.runs], losses)

    def _keep_refused(self) -> None:
        """Stores the batches of updates that were left out, and says so."""
        while self.learner.refused:
            update = self.learner.refused.pop(0)
            if update.index in self.active:
                self.progress.print(self.runs[update.index].keep_refused(update))

    def _evaluate(self, index: int) -> float:
        """An evaluation on the way -> its mean return."""
        run = self.runs[index]
        score, line = run.evaluate(self.players[True].with_params(self._newest(index)))
        self.progress.print(line if len(self.runs) == 1 else f"seed {run.config.seed}, {line}")
        return score

    def _save(self, index: int, score: float | None = None) -> None:
        """Saves a run, with all that an exact continuation needs unless this is in the midst of a step of the loop."""
        begun = time.monotonic()
        moment = None if self.in_step else self._moment(index)
        self.learner.notice()
        self._keep_refused()
        self.runs[index].save(self.learner.agent(index), self.ratio.previous, moment, score)
        give_back_memory()
        self.saving += time.monotonic() - begun
        self.save_due = time.monotonic() + 60 * self.config.train.checkpoint_minutes

    def _moment(self, index: int) -> dict[str, np.ndarray]:
        """What a run has on the way, by name.

        "carry/<leaf>" [E, ...] of the policy's carry; "prev_action" f32[E, A]; "env/<i>/<field>" of each environment's
        `EpisodeState`; and what `Learner.pending` gives.
        """
        moment = self.learner.pending(index)
        leaves = jax.tree.leaves(jax.device_get(jax.tree.map(lambda x: x[index], self.carry)))
        moment |= {f"carry/{i}": leaf for i, leaf in enumerate(leaves)}
        moment["prev_action"] = self.prev_action[self._of_seed(index)]
        for i, episode in enumerate(self.envs.episodes()[self._of_seed(index)]):
            moment |= {f"env/{i}/{name}": np.asarray(value) for name, value in vars(episode).items()}
        return moment

    def _begin(self) -> tuple[Step, PolicyCarry, np.ndarray]:
        """The first record, carry and previous action: where the runs were stopped if they know it, else at new episodes."""
        envs, count = self.envs, self.config.env.num_envs
        carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(self.runs), *x.shape)), initial_carry(self.nets, count))
        self.carry, self.prev_action = carry, np.zeros((envs.num_envs, envs.action_spec.size), np.float32)
        moments = [run.moment for run in self.runs if run.moment]
        if len(moments) < len(self.runs) or not self._fit(moments):
            return envs.reset(), carry, self.prev_action
        # A run that had ended before the others lacks what came later, and has no more need of it.
        lead = moments[self.runs.index(self._lead)]
        shared = {name: value for name, value in lead.items() if name == "summed" or name.startswith(("metrics/", "latents/"))}
        pending = []
        for run, moment in zip(self.runs, moments, strict=True):
            pending.append(moment if run.active else moment | shared)
            run.episodes.total, run.episodes.length = moment["episodes/total"], moment["episodes/length"]
            run.moment = None
        self.learner.restore_pending(pending)
        leaves = [
            np.stack([moment[f"carry/{i}"].view(leaf.dtype) for moment in moments])
            for i, leaf in enumerate(jax.tree.leaves(carry))
        ]
        episodes = [_episode(moment, i) for moment in moments for i in range(count)]
        step = envs.reset(episodes)
        for i, episode in enumerate(episodes):
            run, own = self.runs[i // count], i % count
            if step.is_first[i]:
                run.episodes.total[own], run.episodes.length[own] = 0, 0
            if step.is_first[i] and len(episode.actions):
                print(f"seed {run.config.seed}: environment {own} does not repeat its episode; a new one begins", flush=True)
        prev_action = np.concatenate([moment["prev_action"] for moment in moments])
        carry = jax.tree.unflatten(jax.tree.structure(carry), leaves)
        return step, jax.tree.map(jnp.asarray, carry), np.where(step.is_first[:, None], 0, prev_action)

    def _fit(self, moments: Sequence[Moment]) -> bool:
        """Whether the runs can go on from these moments; prints why not."""
        like = {**self._moment(0), **self.learner.pending_like()}
        like |= {"episodes/total": self.runs[0].episodes.total, "episodes/length": self.runs[0].episodes.length}
        problems = [misfit(moment, like, run.replay.added) for run, moment in zip(self.runs, moments, strict=True)]
        between = [
            {name: moment[name].tolist() if name == "summed" else None for name in moment if name in like}
            for run, moment in zip(self.runs, moments, strict=True)
            if run.active
        ]
        if not any(problems) and any(names != between[0] for names in between):
            problems[0] = "the runs were saved at different moments"
        for run, problem in zip(self.runs, problems, strict=True):
            if problem:
                print(f"{run.folder}: moment cannot be used: {problem}. The run goes on with new episodes", flush=True)
        return not any(problems)


def _episode(moment: dict[str, np.ndarray], index: int) -> EpisodeState:
    """What an environment was playing at a moment."""
    seed, number, actions, digest = (moment[f"env/{index}/{name}"] for name in ("seed", "number", "actions", "digest"))
    return EpisodeState(int(seed), int(number), actions, int(digest))


@contextlib.contextmanager
def _stop_on_signal(training: Training) -> Iterator[None]:
    """Ctrl-C and SIGTERM let the loop finish its step; a second Ctrl-C interrupts at once."""

    def request(number: int, frame: Any) -> None:
        training.stop_requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        training.progress.print("stopping: finishing this step and saving a checkpoint (Ctrl-C again to give up on that)")

    try:
        previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals belong to the caller
        previous = {}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def go_on(folders: Sequence[Path]) -> str:
    """The command that goes on with runs."""
    return f"python scripts/train.py --resume {' '.join(map(str, folders))}"


def stored_latent(nets: Networks, config: Config) -> LatentSpec | None:
    """What the replay holds of each latent; None without replay context."""
    return nets.latent.spec(nets.dtype) if config.replay.context else None
