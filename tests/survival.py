"""Ends a small run again and again, in the ways that runs end, and compares it with the same run in one go.

    python tests/survival.py --kills 25 --frames 20000 --seed 0 --output FOLDER

Every life of the run is a process of `scripts/train.py`. After each life the run's folder is checked, and the run is resumed.
In the end its rows, agent and evaluation have to be those of the run that nobody disturbed, bit for bit.
`docs/reliability.md` has a table of what was found.
"""

import argparse
import hashlib
import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from dreamer_jax.cli.command import run_command
from dreamer_jax.core.errors import STOPPED, ConfigError
from dreamer_jax.runs.metrics import MEASURED, read_metrics

TRAIN = Path(__file__).resolve().parent.parent / "scripts" / "train.py"
# A small agent with all that a run can lose: latents in the replay, an online queue, several environments, evaluations.
SETTINGS = {
    "device": "cpu",
    "model.deter": 16,
    "model.hidden": 8,
    "model.stoch": 2,
    "model.classes": 3,
    "model.units": 8,
    "model.blocks": 2,
    "model.bins": 21,
    "behavior.imagination_horizon": 3,
    "env.num_envs": 2,
    "replay.batch_size": 2,
    "replay.batch_length": 8,
    "replay.min_items": 64,
    "replay.train_ratio": 8,
    "replay.context": 1,
    "replay.online": True,
    "eval.episodes": 2,
    "eval.final_episodes": 4,
    "train.checkpoint_minutes": 0.015,
    "train.tensorboard": False,
    "eval.video": False,
    "eval.dreams": False,
}
HEADER = (
    "| life | ended by | exit status | half-written | newest whole checkpoint at frame | problems |\n|---|---|---|---|---|---|"
)
_PATIENCE = 300.0  # for what a life is waited for [seconds]


@dataclass(frozen=True)
class End:
    """How a life ends: `signal` comes `delay` seconds after `moment`, "start", "training" or "checkpoint".

    Without a signal its files cannot grow beyond what the metrics have plus a little, as on a disk that is full (POSIX).
    """

    signal: signal.Signals | None
    moment: str
    delay: float

    def __str__(self) -> str:
        return f"{self.signal.name}, {self.delay:.3f} s after {self.moment}" if self.signal else "no room to write"


@dataclass
class Life:
    """What was seen of one life: how it was to end, its exit status, and what it left half-written."""

    end: End
    status: int
    halves: list[str]
    torn: bool
    frames: int  # of the newest whole checkpoint; 0 without one
    problems: list[str] = field(default_factory=list)


def ends(kills: int, seed: int) -> list[End]:
    """SIGKILL at random: a fifth at the start (imports, restoring, compiling), two fifths in training, two in a checkpoint.

    For each ten a SIGTERM, a SIGINT and a disk that is full come among them.
    """
    rng = random.Random(seed)
    spans = {"start": 8.0, "training": 3.0, "checkpoint": 0.003}  # seconds
    moments = [("start", "training", "training", "checkpoint", "checkpoint")[i % 5] for i in range(kills)]
    planned = [End(signal.SIGKILL, moment, rng.uniform(0, spans[moment])) for moment in moments]
    for number in (signal.SIGTERM, signal.SIGINT, None):
        planned += [End(number, "training", rng.uniform(0, 3.0)) for _ in range(max(1, kills // 10))]
    rng.shuffle(planned)
    return planned


def survive(output: Path, planned: Sequence[End], frames: int, report: Callable[[str], None]) -> tuple[list[Life], list[str]]:
    """Lets a run end as planned and go on each time -> its lives, and what is wrong with it at last.

    Args:
      output: a folder for the runs and their logs.
      frames: length of the run; long enough for it to be alive at the last of its ends.
      report: takes a line for the terminal.
    """
    settings = [f"--{name}={value}" for name, value in {**SETTINGS, "train.frames": frames}.items()]
    settings.append(f"--eval.every={frames // 6}")
    report(HEADER)
    whole = TrainProcess([*settings, f"--runs={output / 'whole'}"], output / "whole.log")
    if whole.process.wait():
        raise RuntimeError(f"the undisturbed run failed; see {output / 'whole.log'}")
    arguments = [*settings, f"--runs={output / 'ended'}"]
    lives: list[Life] = []
    for number, end in enumerate(planned, start=1):
        run = only_run(output / "ended")
        process = TrainProcess(arguments, output / f"life_{number}.log", None if end.signal else _size(run) + 1000)
        lives.append(_live(process, end, run))
        if run := only_run(output / "ended"):
            arguments = ["--resume", str(run)]
        report(describe_life(number, lives[-1]))
        if process.finished():
            return lives, [f"it ended by itself in life {number}: more frames are needed"]
    last = TrainProcess(arguments, output / "last.log")
    if last.process.wait():
        return lives, [f"it could not be resumed: see {last.log}"]
    problems = [f"life {number}: {problem}" for number, life in enumerate(lives, start=1) for problem in life.problems]
    one, two = only_run(output / "whole"), only_run(output / "ended")
    assert one is not None
    assert two is not None
    return lives, problems + differences(one, two)


def differences(one: Path, two: Path) -> list[str]:
    """What is not the same in two run folders: rows but for times, the last agent, the evaluation at the end."""
    found = []
    rows = [
        [
            repr({name: value for name, value in row.items() if name not in MEASURED})
            for row in read_metrics(run / "metrics.jsonl")
        ]
        for run in (one, two)
    ]
    if rows[0] != rows[1]:
        first = next((i for i, (a, b) in enumerate(zip(*rows, strict=False)) if a != b), min(map(len, rows)))
        found.append(f"rows differ from line {first + 1} on ({len(rows[0])} and {len(rows[1])} lines)")
    agents = [_agent(run) for run in (one, two)]
    if agents[0].keys() != agents[1].keys() or any(not np.array_equal(agents[0][name], agents[1][name]) for name in agents[0]):
        found.append("the agents differ")
    results = [json.loads((run / "evaluation.json").read_text()) for run in (one, two)]
    if any(results[0][mode] != results[1][mode] for mode in ("deterministic", "sampled")):
        found.append("the evaluations differ")
    return found


def describe_life(number: int, life: Life) -> str:
    """A row of the table: how it ended and what it left."""
    halves = ", ".join(life.halves) or "nothing"
    torn = " and a torn row" if life.torn else ""
    problems = "; ".join(life.problems) or "none"
    return f"| {number} | {life.end} | {life.status} | {halves}{torn} | {life.frames:,} | {problems} |"


class TrainProcess:
    """A process of train.py, with what it prints in the file `log`.

    Args:
      limit: its files cannot grow beyond this number of bytes.
      environment: its environment variables; those of this process by default.
    """

    def __init__(
        self, arguments: Sequence[str], log: Path, limit: int | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        limited = [] if limit is None else ["sh", "-c", f'ulimit -f {limit // 512 + 1}; exec "$@"', "limited"]
        command = [*limited, sys.executable, str(TRAIN), *arguments]
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)

    def printed(self, pattern: str) -> bool:
        """Whether it has printed that."""
        return re.search(pattern, self.log.read_text(), re.MULTILINE) is not None

    def finished(self) -> bool:
        """Whether it came to the end of its frames."""
        return self.printed("^Evaluating the last agent")

    def wait_for(self, seen: Callable[[], bool]) -> None:
        """Until something is seen, or it has ended."""
        deadline = time.monotonic() + _PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline and not seen():
            time.sleep(0.001)


def _live(process: TrainProcess, end: End, run: Path | None) -> Life:
    """Lets a process run to its end, and looks at what it leaves; `run` is there already when it is a resumed one."""
    before = _whole_checkpoints(run) if run else {}
    if end.signal and end.moment != "start":
        process.wait_for(lambda: process.printed(r"^ *\d+\.\d% frames"))
    if end.signal and end.moment == "checkpoint":
        folder = run or only_run(process.log.parent / "ended")
        process.wait_for(lambda: folder is not None and bool(_halves(folder)))
    if end.signal:
        time.sleep(end.delay)
        process.process.send_signal(end.signal)
    status = process.process.wait()
    run = run or only_run(process.log.parent / "ended")
    if run is None:
        return Life(end, status, [], False, 0)
    after, halves = _whole_checkpoints(run), _halves(run)
    life = Life(end, status, halves, _torn(run), max(after, default=0))
    changed = [frames for frames in before.keys() & after.keys() if before[frames] != after[frames]]
    life.problems += [f"the checkpoint at {frames} has changed" for frames in changed]
    if before and not after:
        life.problems.append("no checkpoint is left")
    expected = {signal.SIGKILL: -9, signal.SIGTERM: STOPPED, None: 2}.get(end.signal, 0)
    if status != expected:
        life.problems.append(f"exit status {status}, not {expected}: see {process.log}")
    if process.printed("^error") != (end.signal is None):
        life.problems.append(f"{'no' if end.signal is None else 'an'} error: see {process.log}")
    return life


def only_run(folder: Path) -> Path | None:
    """The run folder below, once its configuration is there."""
    return next((path.parent for path in folder.glob("*/*/config.yaml")), None)


def _size(run: Path | None) -> int:
    """Bytes of the metrics so far."""
    path = run / "metrics.jsonl" if run else None
    return path.stat().st_size if path and path.exists() else 0


def _whole_checkpoints(run: Path) -> dict[int, str]:
    """Checksums of the checkpoints that are not half-written, by frames."""
    sums = {}
    for folder in (run / "checkpoints").glob("*"):
        if folder.name.isdigit():
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            sums[int(folder.name)] = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return sums


def _halves(run: Path) -> list[str]:
    """What is being written, or was when the process ended."""
    places = [run / name for name in ("checkpoints", "replay")]
    return sorted(f"{place.name}/{path.name}" for place in places for path in place.glob("*tmp*"))


def _torn(run: Path) -> bool:
    """Whether the last row is cut off."""
    path = run / "metrics.jsonl"
    return path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0


def _agent(run: Path) -> dict[str, np.ndarray]:
    """Every array of the newest agent, by name."""
    place = run / "checkpoints" / str(max(_whole_checkpoints(run))) / "agent"
    leaves = jax.tree_util.tree_leaves_with_path(ocp.StandardCheckpointer().restore(place.absolute()))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def main(arguments: Sequence[str]) -> None:
    """Ends a run as the command line says; the exit status is 1 where something is wrong with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, help="SIGKILLs; SIGTERM, SIGINT and a full disk come with each ten")
    parser.add_argument("--frames", type=int, default=20_000, help="length of the run [simulator steps]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments at which the run is ended")
    parser.add_argument("--output", type=Path, default=Path("survival"), help="new folder for the runs and what they print")
    options = parser.parse_args(arguments)
    if options.output.exists():
        raise ConfigError(f"--output {options.output} exists; give a folder that does not")
    planned = ends(options.kills, options.seed)
    lives, problems = survive(options.output, planned, options.frames, lambda line: print(line, flush=True))
    print(f"{len(lives)} lives; {'; '.join(problems) or 'rows, agent and evaluation are those of the run in one go'}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
