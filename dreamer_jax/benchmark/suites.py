"""What a benchmark consists of: tasks, seeds and settings, and how far its runs are. Imports no JAX.

OUTPUT/runs/<task>/<run>/   run folders as `dreamer train` leaves them; how far a benchmark is, is read from them alone
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError, RunError
from dreamer_jax.core.paths import absolute
from dreamer_jax.core.presets import load_config
from dreamer_jax.core.text import did_you_mean
from dreamer_jax.envs import make_env
from dreamer_jax.runs.budget import predicted_updates
from dreamer_jax.runs.folder import open_run, read_evaluation

# Tasks by their names in dm_control. The author's score files write them dmc_<name>.
_PROPRIO = (
    *("acrobot_swingup", "ball_in_cup_catch", "cartpole_balance", "cartpole_balance_sparse", "cartpole_swingup"),
    *("cartpole_swingup_sparse", "cheetah_run", "finger_spin", "finger_turn_easy", "finger_turn_hard", "hopper_hop"),
    *("hopper_stand", "pendulum_swingup", "reacher_easy", "reacher_hard", "walker_run", "walker_stand", "walker_walk"),
)
SUITES = {
    # DreamerV3 (Hafner et al. 2023), DMC from state and from pixels.
    "dmc_proprio": _PROPRIO,
    "dmc_vision": tuple(sorted((*_PROPRIO, "quadruped_run", "quadruped_walk"))),
    # PlaNet (Hafner et al. 2019), also in Dreamer's table. Its "cup catch" is ball_in_cup_catch.
    "dreamer6": ("cartpole_swingup", "reacher_easy", "cheetah_run", "finger_spin", "ball_in_cup_catch", "walker_walk"),
}
SUITE_OBS = {"dmc_proprio": "state", "dmc_vision": "pixels"}
# What differs between the runs of one benchmark, and the option that decides it.
OWNED = {"env.task": "--suite", "seed": "--seeds", "runs": "--output"}

State = Literal["finished", "to resume", "to start"]


@dataclass(frozen=True)
class Plan:
    """The runs of a benchmark.

    configs: one for each run, in the order of running: every task with seed 0, then every task with seed 1.
    preset: a preset's name, or a file's path.
    overrides: dotted changes of the preset.
    together: train a task's seeds side by side in one process, task after task.
    """

    suite: str
    tasks: tuple[str, ...]
    seeds: int
    output: Path
    preset: str
    overrides: Mapping[str, str]
    configs: tuple[Config, ...]
    together: bool

    def command(self) -> str:
        """The command line that makes this plan."""
        overrides = [f"--{name}={value}" for name, value in self.overrides.items()]
        own = ["--suite", self.suite, "--seeds", str(self.seeds), "--preset", self.preset, "--output", str(self.output)]
        return shlex.join(["dreamer", "benchmark", *own, *["--together"] * self.together, *overrides])


@dataclass(frozen=True)
class Run:
    """One run of a benchmark, as its folder shows it.

    folder: None before the run starts; evaluation: content of `evaluation.json` of a finished run, else None.
    """

    config: Config
    folder: Path | None = None
    evaluation: dict[str, Any] | None = None

    @property
    def state(self) -> State:
        """A run with a checkpoint can go on, unless `dreamer train` finds the checkpoint damaged."""
        if self.evaluation is not None:
            return "finished"
        return "to start" if self._checkpoint is None else "to resume"

    @property
    def frames(self) -> int:
        """Simulator steps that need not be taken again: to the end, or to the newest checkpoint."""
        return self.config.train.frames if self.evaluation is not None else self._checkpoint or 0

    @property
    def _checkpoint(self) -> int | None:
        paths = (self.folder / "checkpoints").glob("*") if self.folder else ()
        return max((int(path.name) for path in paths if path.name.isdecimal()), default=None)

    @property
    def key(self) -> tuple[str, int]:
        return self.config.env.task, self.config.seed

    @property
    def name(self) -> str:
        return f"{self.config.env.task} seed {self.config.seed}"


def suite_tasks(suite: str) -> tuple[str, ...]:
    """The tasks of a suite by its name, or of a comma-separated list such as "dmc:walker_walk,gym:CartPole-v1".

    Raises:
      ConfigError: neither of them.
    """
    if suite in SUITES:
        return tuple(f"dmc:{name}" for name in SUITES[suite])
    tasks = tuple(dict.fromkeys(task.strip() for task in suite.split(",")))
    if not all(":" in task for task in tasks):
        hint = did_you_mean(suite, SUITES) or "."
        raise ConfigError(f"--suite {suite}: no such suite{hint} Suites: {', '.join(SUITES)}; or a list dmc:walker_walk,...")
    return tasks


def make_plan(suite: str, seeds: int, preset: str, overrides: Mapping[str, Any], output: Path, together: bool = False) -> Plan:
    """Validates everything that can be known before the first run; each task's environment is made once.

    Args:
      suite: a name in `SUITES` or a comma-separated list of tasks.
      seeds: runs of each task, with seeds 0 to seeds - 1 [count].
      preset: name of the settings of all runs.
      overrides: dotted changes of the preset, such as {"train.frames": "100_000"}.
      output: the benchmark's folder; what it already holds counts.
      together: train a task's seeds side by side in one process.

    Raises:
      ConfigError, EnvError: one line for the user.
    """
    tasks = suite_tasks(suite)
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: at least 1 is needed")
    for name in OWNED.keys() & overrides.keys():
        raise ConfigError(f"--{name} differs between the runs of a benchmark; choose with {OWNED[name]}")
    output, overrides = absolute(output), dict(overrides)
    if preset.endswith((".yaml", ".yml")):
        preset = str(absolute(preset))
    if isinstance(overrides.get("train.init_from"), str) and overrides["train.init_from"] != "none":
        overrides["train.init_from"] = str(absolute(overrides["train.init_from"]))
    own = {"runs": str(output / "runs")}
    of_task = [load_config(preset, {**overrides, **own, "env.task": task}) for task in tasks]
    wanted, shown = SUITE_OBS.get(suite), of_task[0].env.obs
    if wanted not in (None, shown):
        raise ConfigError(
            f"suite {suite} is played with env.obs={wanted!r}, and preset {preset} shows {shown!r}. "
            f"Choose another preset, or --env.obs {wanted}"
        )
    for config in of_task:
        make_env(config.env).close()
    configs = tuple(config.model_copy(update={"seed": seed}) for seed in range(seeds) for config in of_task)
    changes = {name: str(value) for name, value in overrides.items()}
    return Plan(suite, tasks, seeds, output, preset, changes, configs, together)


def read_runs(plan: Plan) -> list[Run]:
    """The plan's runs in their order, then runs of other tasks or seeds that the output folder holds.

    Raises:
      RunError: the folder holds a run with other settings than the plan's.
      ConfigError: a run's config.yaml cannot be read.
    """
    found: dict[tuple[str, int], Run] = {}
    for path in sorted((plan.output / "runs").glob("*/*/config.yaml")):
        config = open_run(path.parent)
        different = list(_differences(config, plan.configs[0]))
        if different:
            raise RunError(
                f"{plan.output} holds runs with other settings: {'; '.join(different)}. "
                "Choose another --output, or the settings of these runs"
            )
        run = Run(config, path.parent, final_evaluation(path.parent, config.train.frames))
        # Of several the one that got furthest counts. Names end with the time of the start: of equal ones, the newest.
        if run.key not in found or run.frames >= found[run.key].frames:
            found[run.key] = run
    planned = [found.pop((config.env.task, config.seed), Run(config)) for config in plan.configs]
    return planned + list(found.values())


def final_evaluation(folder: Path, frames: int) -> dict[str, Any] | None:
    """The final evaluation of a run that went to the end of its budget of `frames`; None for any other, or a damaged one."""
    try:
        evaluation = read_evaluation(folder)
    except RunError:
        return None
    return evaluation if evaluation and evaluation["frames"] >= frames else None


def settings(config: Config) -> dict[str, Any]:
    """What all runs of a benchmark share: the resolved configuration without task, seed and folder."""
    values = config.model_dump(by_alias=True)
    for name in OWNED:
        section = values
        *parents, leaf = name.split(".")
        for parent in parents:
            section = section[parent]
        del section[leaf]
    return values


def budget(config: Config) -> tuple[int, int, int]:
    """Frames, decisions and predicted updates of one run."""
    frames = config.train.frames
    return frames, frames // config.env.action_repeat, predicted_updates(config)


def overview(plan: Plan, runs: Sequence[Run]) -> str:
    """How many runs there are and how far they are, and the budget of one, of all and of what is left."""
    runs = runs[: len(plan.configs)]
    states = [run.state for run in runs]
    lines = [
        f"suite {plan.suite}, preset {plan.configs[0].preset}: tasks {len(plan.tasks)} x seeds {plan.seeds} in {plan.output}",
        f"runs: {', '.join(f'{states.count(state)} {state}' for state in get_args(State))}",
    ]
    frames, decisions, updates = budget(plan.configs[0])
    left = len(runs) - sum(run.frames for run in runs) / frames
    for label, share in (("one run", 1), ("in all", len(runs)), ("left", left)):
        parts = [round(share * part) for part in (frames, decisions, updates)]
        lines.append(f"{label:<7}  {parts[0]:,} frames = {parts[1]:,} decisions, about {parts[2]:,} updates")
    return "\n".join(lines)


def listing(runs: Sequence[Run]) -> str:
    """A line for each run: its state, task, seed, the frame that it goes on from, and its folder."""
    lines = []
    for run in runs:
        place = f" from frame {run.frames:,}" if run.state == "to resume" else ""
        lines.append(f"{run.state:<9}  {run.name}{place}{f'  {run.folder}' if run.folder else ''}")
    return "\n".join(lines)


def _differences(there: Config, here: Config) -> Iterator[str]:
    """ "replay.train_ratio is 128.0 there and 64.0 here" for every shared setting that differs."""
    old, new = (dict(_flat(settings(config))) for config in (there, here))
    for name, value in old.items():
        resolved = name == "precision" and new[name] == "auto"  # a run keeps what "auto" came to
        if value != new[name] and not resolved:
            yield f"{name} is {value!r} there and {new[name]!r} here"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
