"""Benchmarks: what they consist of, what they do with runs in any state, and the arithmetic of their results.

But for the last test, the children are `training_stub`, whose numbers are known beforehand.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from counting import TINY
from run_folders import make_run

from dreamer_jax.benchmark.results import bin_width, results, scores_table
from dreamer_jax.benchmark.runner import run_benchmark
from dreamer_jax.benchmark.suites import SUITES, Plan, listing, make_plan, overview, read_runs
from dreamer_jax.core.errors import ConfigError, EnvError, RunError
from dreamer_jax.core.files import locked
from dreamer_jax.core.text import safe_name
from dreamer_jax.envs.families.gl import choose_gl
from dreamer_jax.report import summary
from dreamer_jax.report.page import write_report

ROOT = Path(__file__).resolve().parents[2]
STUB = (sys.executable, str(ROOT / "tests" / "training_stub.py"))
FIVE, SIX = "import:counting:five", "import:counting:six"


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    """What the children were asked for, one line a call. They find the package and the environments of these tests."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.delenv("STUB", raising=False)

    def read() -> list[str]:
        """The calls since the last time."""
        lines = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
        (tmp_path / "calls").write_text("")
        return [line.removeprefix("import:counting:") for line in lines]

    return read


@pytest.fixture
def order(monkeypatch):
    """Tells the stub what to do with runs "<task> <seed>"; without an argument: nothing special."""
    return lambda orders: monkeypatch.setenv(
        "STUB", json.dumps({f"import:counting:{run}": what for run, what in orders.items()})
    )


def plan_of(output: Path, suite: str = FIVE, seeds: int = 1, frames: int = 120, **changes) -> Plan:
    return make_plan(suite, seeds, "cartpole", {**TINY, "train.frames": frames, **changes}, output)


def stub(plan: Plan) -> int:
    return run_benchmark(plan, STUB)


def results_of(output: Path) -> dict:
    return json.loads((output / "results.json").read_text())


def statuses(output: Path) -> dict[str, str]:
    return {
        f"{run['task'].removeprefix('import:counting:')} {run['seed']}": run["status"] for run in results_of(output)["runs"]
    }


# Plans


def test_the_published_suites_are_tasks_of_dm_control():
    pytest.importorskip("dm_control")
    choose_gl()  # before dm_control's suite is imported, which would choose for all tests that follow
    from dm_control import suite

    known = {f"{domain}_{task}" for domain, task in suite.ALL_TASKS}
    assert {name: len(set(tasks)) for name, tasks in SUITES.items()} == {"dmc_proprio": 18, "dmc_vision": 20, "dreamer6": 6}
    for name, tasks in SUITES.items():
        assert len(tasks) == len(set(tasks)), name
        assert set(tasks) <= known, name
    assert set(SUITES["dmc_vision"]) - set(SUITES["dmc_proprio"]) == {"quadruped_run", "quadruped_walk"}


def test_a_named_suite_becomes_its_tasks(tmp_path):
    pytest.importorskip("dm_control")
    plan = make_plan("dreamer6", 2, "dmc_proprio_cpu", {"train.frames": "100_000"}, tmp_path / "none")
    assert len(plan.configs) == 12
    assert plan.tasks[4] == plan.configs[10].env.task == "dmc:ball_in_cup_catch"
    assert {config.train.frames for config in plan.configs} == {100_000}
    assert not (tmp_path / "none").exists()


def test_every_task_is_run_with_one_seed_before_the_next_seed(tmp_path):
    plan = plan_of(tmp_path, f"{FIVE}, {SIX},{FIVE}", 2)
    assert [(config.env.task, config.seed) for config in plan.configs] == [(FIVE, 0), (SIX, 0), (FIVE, 1), (SIX, 1)]
    assert {config.runs for config in plan.configs} == {str(tmp_path / "runs")}


@pytest.mark.parametrize(
    ("suite", "changes", "error", "message"),
    [
        ("dmc_vison", {}, ConfigError, "--suite dmc_vison: no such suite; did you mean 'dmc_vision'?"),
        (FIVE, {"seeds": 0}, ConfigError, "--seeds 0: at least 1 is needed"),
        (FIVE, {"env.task": SIX}, ConfigError, "--env.task differs between the runs of a benchmark; choose with --suite"),
        (FIVE, {"seed": 1}, ConfigError, "--seed differs between the runs of a benchmark; choose with --seeds"),
        (FIVE, {"runs": "here"}, ConfigError, "--runs differs between the runs of a benchmark; choose with --output"),
        (FIVE, {"replay.batch_size": 0}, ConfigError, "preset cartpole, changed: replay.batch_size=0"),
        (FIVE, {"env.obs": "pixels"}, ConfigError, "env.obs='pixels' is for dmc tasks only"),
        ("dmc_vision", {}, ConfigError, "suite dmc_vision is played with env.obs='pixels', and preset cartpole shows 'state'"),
        (f"{FIVE},import:counting:fife", {}, EnvError, "import:counting:fife: fife in module counting does not exist"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(tmp_path, suite, changes, error, message):
    with pytest.raises(error) as caught:
        plan_of(tmp_path / "none", suite, **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("frames", "width"),
    [(1_100_000, 25_000), (500_000, 25_000), (249_999, 10_000), (50_000, 5_000), (10_000, 1_000), (62, 5), (10, 1), (3, 1)],
)
def test_bins_are_25000_frames_or_a_tenth_of_a_short_run(frames, width):
    assert bin_width(frames) == width


# Results


def test_results_by_hand(tmp_path, calls, said):
    """400 frames in bins of 25; an episode every 10 frames returns its end frame + seed."""
    output = tmp_path / "out"
    assert stub(plan_of(output, f"{FIVE},{SIX}", 2, 400, **{"env.action_repeat": 2})) == 0
    assert calls() == ["five 0 new", "six 0 new", "five 1 new", "six 1 new"]
    content = results_of(output)
    assert set(content) == {"protocol", "environments", "runs", "tasks"}

    protocol = content["protocol"]
    assert (protocol["frames"], protocol["decisions"], protocol["action_repeat"]) == (400, 200, 2)
    # The warm-up is 16 start positions + 7 records; then 4 / (2 x 8) updates a record, and the first one.
    assert protocol["predicted_updates"] == 1 + (200 - 23) // 4
    assert (protocol["preset"], protocol["train_ratio"], protocol["agent"]) == ("cartpole", 4, "last")
    assert (protocol["tasks"], protocol["seeds"], protocol["evaluation_episodes"]) == ([FIVE, SIX], [0, 1], 3)
    assert protocol["bin_width"] == 25
    assert protocol["bin_ends"] == list(range(25, 401, 25))
    assert protocol["config"]["model"]["deter"] == 16
    assert protocol["overrides"]["env.action_repeat"] == "2"
    assert not {"seed", "runs"} & set(protocol["config"])
    assert "task" not in protocol["config"]["env"]

    [environment] = content["environments"]
    assert environment["device"] == "stub"
    assert {"versions", "machine", "cores", "git_commit"} < set(environment)
    assert environment["runs"] == [f"{task} seed {seed}" for seed in (0, 1) for task in (FIVE, SIX)]

    for run in content["runs"]:
        seed = run["seed"]
        assert (run["status"], run["error"]) == ("finished", None)
        assert (run["frames"], run["decisions"], run["updates"], run["wall_seconds"]) == (400, 200, 100, 400.0)
        # Ends 10, 20 | 30, 40, 50 | 60, 70 | 80, 90, 100 | ... | 380, 390, 400
        assert run["curve"][:4] == [15 + seed, 40 + seed, 65 + seed, 90 + seed]
        assert (len(run["curve"]), run["last_bin"]) == (16, 390 + seed)
        assert run["deterministic"] == {"return_mean": 100 + seed, "return_std": 2, "episodes": 3}
        assert run["sampled"] == {"return_mean": 50 + seed, "return_std": 2, "episodes": 3}
        folder = output / run["folder"]
        assert (folder / "evaluation.json").is_file()
        assert folder.name.startswith(f"cartpole-{seed}-")

    for task, name in zip(content["tasks"], (FIVE, SIX), strict=True):
        assert (task["task"], task["runs"], task["finished"]) == (name, 2, 2)
        # Of two values one apart: sqrt((0.5^2 + 0.5^2) / (2 - 1)).
        assert task["last_bin"] == {"mean": 390.5, "std": pytest.approx(0.5**0.5), "seeds": 2}
        assert task["deterministic"] == {"mean": 100.5, "std": pytest.approx(0.5**0.5), "seeds": 2}
        assert task["sampled"] == {"mean": 50.5, "std": pytest.approx(0.5**0.5), "seeds": 2}
    printed = said()
    assert f"| {SIX} | 2 of 2 | 390.5 ± 0.7 | 100.5 ± 0.7 | 50.5 ± 0.7 |" in printed
    assert f"[4/4] finished {SIX} seed 1 in 0:00:0" in printed
    assert f"report: dreamer report {output / 'runs'} --output {output / 'report'}" in printed
    assert (output / "logs" / "import_counting_six-1.log").read_text() == f"training {SIX} 1\n"


def test_results_and_report_agree_on_the_deviation_over_seeds(tmp_path):
    """Seeds 0, 1 and 2 of 0, 100 and 200: 100 with n - 1; with n it would be 81.6. One seed has no deviation."""
    plan = plan_of(tmp_path / "out", f"{FIVE},{SIX}", 3, 100)
    settings = {name.replace(".", "__"): value for name, value in {**TINY, "train.frames": 100}.items()}
    for task, seed in ((FIVE, 0), (FIVE, 1), (FIVE, 2), (SIX, 1)):
        folder = plan.output / "runs" / safe_name(task) / f"cartpole-{seed}"
        make_run(folder, [(100, 100.0 * seed)], 100.0 * seed, "cartpole", **settings, env__task=task, seed=seed)
    content = results(plan, read_runs(plan), {})
    five, six = content["tasks"]
    over_three, alone = {"mean": 100, "std": 100, "seeds": 3}, {"mean": 100, "std": None, "seeds": 1}
    assert (five["last_bin"], five["deterministic"], six["last_bin"]) == (over_three, over_three, alone)
    lines = scores_table(content).splitlines()
    assert lines[2:] == [
        f"| {FIVE} | 3 of 3 | 100.0 ± 100.0 | 100.0 ± 100.0 | 90.0 ± 100.0 |",
        f"| {SIX} | 1 of 3 | 100.0 | 100.0 | 90.0 |",
    ]
    runs, damaged = summary.read_runs(summary.find_runs([plan.output]))
    page = write_report(runs, damaged, tmp_path / "report").read_text()
    for seeds in ("100.0 ± 100.0", "90.0 ± 100.0"):
        assert f'{seeds}<small class="seeds">' in page
    assert '100.0<small class="seeds">1: 100.0</small>' in page
    assert "81." not in page.split("<h2>Final scores")[1].split("<h2>Runs")[0]


def test_different_commits_are_listed(tmp_path, said):
    output = tmp_path / "out"
    stub(plan_of(output, seeds=2))
    assert "not all runs had the same" not in said()
    [path] = output.glob("runs/*/cartpole-1-*/environment.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"git_commit": "another"}))
    stub(plan_of(output, seeds=2))
    assert "not all runs had the same versions, device, machine and commit" in said()
    one, two = results_of(output)["environments"]
    assert (one["runs"], two["runs"], two["git_commit"]) == ([f"{FIVE} seed 0"], [f"{FIVE} seed 1"], "another")


# Failures


def test_a_child_that_fails_is_recorded_and_the_others_go_on(tmp_path, calls, order, said):
    order({"five 0": "crash", "six 0": "kill", "five 1": "refuse"})
    plan = plan_of(tmp_path / "out", f"{FIVE},{SIX}", 2)
    assert stub(plan) == 1
    assert calls() == ["five 0 new", "six 0 new", "five 1 new", "six 1 new"]
    assert statuses(plan.output) == {"five 0": "failed", "six 0": "failed", "five 1": "failed", "six 1": "finished"}
    runs = results_of(plan.output)["runs"]
    assert [run["error"] for run in runs] == ["RuntimeError: out of luck", "killed by SIGKILL", "ValueError: refused", None]
    assert [(run["folder"] is None, run["frames"]) for run in runs] == [(False, 0), (False, 0), (True, 0), (False, 120)]
    assert [run["curve"] for run in runs[:3]] == [[]] * 3
    five, six = results_of(plan.output)["tasks"]
    assert (five["runs"], five["finished"], five["deterministic"]["mean"]) == (2, 0, None)
    assert (six["runs"], six["finished"], six["deterministic"]["mean"]) == (2, 1, 101)
    assert f"failed: {FIVE} seed 0: RuntimeError: out of luck" in said()
    assert "a warning" in (plan.output / "logs" / "import_counting_five-0.err").read_text()

    order({})
    assert stub(plan) == 0
    assert calls() == ["five 0 new", "six 0 new", "five 1 new"]
    assert set(statuses(plan.output).values()) == {"finished"}


def test_a_child_that_stops_too_early_is_no_success(tmp_path, order):
    order({"five 0": "cut off"})
    assert stub(plan_of(tmp_path / "out")) == 1
    [run] = results_of(tmp_path / "out")["runs"]
    assert (run["status"], run["error"], run["frames"]) == ("failed", "ended with status 0 before its evaluation", 60)
    assert run["curve"] == [10, 20, 30, 40, 50, 60]
    assert run["last_bin"] is None


# Going on


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory) -> Path:
    """A benchmark's folder: seed 0 finished, seed 1 cut off at frame 60, seed 2 without a checkpoint."""
    folder = tmp_path_factory.mktemp("mixed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
        patch.setenv("CALLS", str(folder / "calls"))
        patch.setenv("STUB", json.dumps({f"{FIVE} 1": "cut off", f"{FIVE} 2": "crash"}))
        stub(plan_of(folder / "out", seeds=3))
    return folder / "out"


@pytest.fixture
def mixed(left_behind, tmp_path) -> Plan:
    """What was left behind, and seed 3, which never started. Run folders go on wherever they are."""
    return plan_of(Path(shutil.copytree(left_behind, tmp_path / "out")), seeds=4)


def folders(plan: Plan) -> list[str]:
    """The run folders that count, by seed."""
    return [str(run.folder) for run in read_runs(plan)]


def test_states_are_read_from_the_folders(mixed):
    before = sorted(mixed.output.rglob("*"))
    runs = read_runs(mixed)
    assert [run.state for run in runs] == ["finished", "to resume", "to start", "to start"]
    assert [run.frames for run in runs] == [120, 60, 0, 0]
    assert listing(runs).splitlines()[1].startswith(f"to resume  {FIVE} seed 1 from frame 60  {runs[1].folder}")
    lines = overview(mixed, runs).splitlines()
    assert lines[1] == "runs: 1 finished, 1 to resume, 2 to start"
    # 1 + (120 - 23) // 4 = 25 updates a run; 2.5 runs are left.
    assert lines[2:] == [
        "one run  120 frames = 120 decisions, about 25 updates",
        "in all   480 frames = 480 decisions, about 100 updates",
        "left     300 frames = 300 decisions, about 62 updates",
    ]
    assert sorted(mixed.output.rglob("*")) == before


def test_only_what_is_missing_is_run_and_no_folder_counts_twice(mixed, calls):
    before = folders(mixed)
    assert stub(mixed) == 0
    assert calls() == ["five 1 resume", "five 2 new", "five 3 new"]
    after = folders(mixed)
    assert after[:2] == before[:2]
    assert len(list((mixed.output / "runs").glob("*/*"))) == 4
    [aside] = (mixed.output / "set_aside").glob("*/*")
    assert str(aside) == before[2].replace("/runs/", "/set_aside/")
    assert set(statuses(mixed.output).values()) == {"finished"}
    assert results_of(mixed.output)["runs"][1]["curve"] == [10.0 * i + 1 for i in range(1, 13)]
    assert stub(mixed) == 0
    assert calls() == []


def test_a_checkpoint_that_train_refuses_is_started_anew(mixed, calls, order, said):
    before = folders(mixed)
    order({"five 1": "refuse"})
    assert stub(mixed) == 1  # the stub refuses the new run too
    assert calls()[:2] == ["five 1 resume", "five 1 new"]
    assert "error: checkpoint 60 is damaged" in said()
    assert Path(before[1].replace("/runs/", "/set_aside/")).joinpath("checkpoints").is_dir()
    order({})
    assert stub(mixed) == 0
    assert calls() == ["five 1 new"]


def test_a_crash_on_resuming_keeps_the_checkpoint(mixed, calls, order):
    order({"five 1": "crash"})
    assert stub(mixed) == 1
    order({"five 1": "kill"})
    assert stub(mixed) == 1
    assert results_of(mixed.output)["runs"][1]["error"] == "killed by SIGKILL"  # without the first attempt's last words
    order({})
    assert stub(mixed) == 0
    assert calls() == ["five 1 resume", "five 2 new", "five 3 new", "five 1 resume", "five 1 resume"]


def test_of_several_folders_of_one_run_the_furthest_counts(mixed):
    finished, cut_off, empty, _ = folders(mixed)
    for folder, seed in ((cut_off, 1), (empty, 2)):
        for name in ("cartpole-0-00000000T000000", "cartpole-9-99999999T999999"):
            copy = Path(shutil.copytree(folder, Path(folder).with_name(f"{name}-{seed}")))
            (copy / "config.yaml").write_text((copy / "config.yaml").read_text().replace(f"seed: {seed}", "seed: 0"))
    assert folders(mixed)[0] == finished
    (Path(finished) / "evaluation.json").unlink()
    shutil.rmtree(Path(finished) / "checkpoints")
    assert folders(mixed)[0].endswith("cartpole-9-99999999T999999-1")


@pytest.mark.parametrize("content", ["", '{"frames": 120', '{"frames": 119}', "[]"])
def test_an_evaluation_that_is_damaged_or_too_early_does_not_count(mixed, content):
    Path(folders(mixed)[0], "evaluation.json").write_text(content)
    assert read_runs(mixed)[0].state == "to resume"


def test_damaged_metrics_are_named_and_the_evaluation_counts(mixed):
    path = Path(folders(mixed)[0], "metrics.jsonl")
    path.write_text("no row\n" + path.read_text())
    stub(mixed)
    run = results_of(mixed.output)["runs"][0]
    assert run["error"].startswith(f"{path}, line 1 is damaged")
    assert (run["status"], run["last_bin"], run["deterministic"]["return_mean"]) == ("finished", None, 100)


def test_other_settings_in_the_same_folder_are_refused_and_named(mixed, calls):
    before = sorted(mixed.output.rglob("*"))
    other = plan_of(mixed.output, seeds=3, frames=240, **{"replay.train_ratio": 8})
    with pytest.raises(RunError) as caught:
        stub(other)
    assert str(caught.value) == (
        f"{mixed.output} holds runs with other settings: replay.train_ratio is 4.0 there and 8.0 here; "
        "train.frames is 120 there and 240 here. Choose another --output, or the settings of these runs"
    )
    with pytest.raises(RunError, match="preset is 'cartpole' there and 'pendulum' here"):
        stub(make_plan(FIVE, 1, "pendulum", TINY, mixed.output))
    assert calls() == []
    assert sorted(mixed.output.rglob("*")) == before


def test_more_seeds_and_more_tasks_may_be_added_and_none_is_forgotten(tmp_path, calls):
    output = tmp_path / "out"
    stub(plan_of(output))
    stub(plan_of(output, seeds=2))
    stub(plan_of(output, SIX))
    assert calls() == ["five 0 new", "five 1 new", "six 0 new"]
    assert statuses(output) == {"six 0": "finished", "five 0": "finished", "five 1": "finished"}
    assert [(task["task"], task["finished"]) for task in results_of(output)["tasks"]] == [(SIX, 1), (FIVE, 2)]


def test_two_benchmarks_do_not_share_a_folder(mixed, calls):
    with locked(mixed.output / ".lock"), pytest.raises(RunError, match=r"is in use by process \d+ on .+; wait until it ends"):
        stub(mixed)
    assert calls() == []
    assert stub(mixed) == 0


# Interruption


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_reaches_the_child_and_the_same_command_goes_on(tmp_path, calls, order, monkeypatch, said, name):
    monkeypatch.setenv("SIGNAL", name)
    order({"five 1": "wait"})
    plan = plan_of(tmp_path / "out", seeds=3)
    assert stub(plan) == 130
    assert calls() == ["five 0 new", "five 1 new"]
    assert statuses(plan.output) == {"five 0": "finished", "five 1": "to resume", "five 2": "to start"}
    assert results_of(plan.output)["runs"][1]["error"] is None
    lines = said().splitlines()
    assert lines[-1] == f"Stopped. Go on with: {plan.command()}"
    assert [line[:12] for line in lines if line.startswith("[")] == [
        "[1/3] start ",
        "[1/3] finish",
        "[2/3] start ",
        "[2/3] stoppe",
    ]
    order({})
    assert stub(plan) == 0
    assert calls() == ["five 1 resume", "five 2 new"]

    whole = plan_of(tmp_path / "whole", seeds=3)
    stub(whole)
    interrupted, uninterrupted = (
        [{key: value for key, value in run.items() if key != "folder"} for run in results_of(plan.output)["runs"]]
        for plan in (plan, whole)
    )
    assert interrupted == uninterrupted


def test_a_real_run_is_interrupted_and_resumed(tmp_path, monkeypatch):
    """`dreamer benchmark` with `dreamer train`: Ctrl-C comes at frame 43 of 62.

    An episode of five decisions returns 15 in six records; see test_loop for the updates of such a run.
    """
    output = tmp_path / "out"
    own = ["--suite", "import:counting:parent_interrupted", "--preset", "cartpole", "--output", str(output)]
    overrides = [f"--{name}={value}" for name, value in {**TINY, "train.frames": 62}.items()]

    def call(*more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "dreamer_jax", "benchmark", *own, *more, *overrides]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, start_new_session=True)

    first = call()
    assert first.returncode == 130, first
    assert statuses(output) == {"parent_interrupted 0": "to resume"}
    [run] = results_of(output)["runs"]
    assert (run["frames"], run["updates"], run["error"]) == (40, 7, None)  # of the last row; the next one was begun
    assert "Stopped at frame 43" in (output / "logs" / "import_counting_parent_interrupted-0.log").read_text()
    assert "runs: 0 finished, 1 to resume, 0 to start" in call("--dry-run").stdout

    second = call()
    assert (second.returncode, second.stderr) == (0, "")
    [run] = results_of(output)["runs"]
    assert (run["status"], run["frames"], run["decisions"], run["updates"]) == ("finished", 62, 62, 1 + (62 + 12 - 23) // 4)
    assert run["curve"] == [15.0] * 12
    assert run["last_bin"] == run["deterministic"]["return_mean"] == run["sampled"]["return_mean"] == 15
    assert run["deterministic"]["episodes"] == 3
    assert not (output / "set_aside").exists()
    [environment] = results_of(output)["environments"]
    assert environment["device"].lower() == "cpu"


def test_a_preset_may_be_a_file(tmp_path, calls):
    """Each child, and the command that goes on, name the file; its runs are known by its name."""
    file = tmp_path / "mine.yaml"
    file.write_text("base: cartpole\nreplay: {batch_size: 3}\n")
    plan = make_plan(FIVE, 1, str(file), {**TINY, "train.frames": 120}, tmp_path / "out")
    assert stub(plan) == 0
    assert calls() == ["five 0 new"]
    [run] = results_of(plan.output)["runs"]
    assert (run["status"], Path(run["folder"]).name[:7]) == ("finished", "mine-0-")
    assert f"--preset {file} " in plan.command()


# Seeds side by side


def test_seeds_together_share_a_process(tmp_path, calls):
    plan = make_plan(f"{FIVE},{SIX}", 3, "cartpole", {**TINY, "train.frames": 120}, tmp_path, together=True)
    assert "--together" in plan.command()
    assert stub(plan) == 0
    assert calls() == ["five 0 1 2 new", "six 0 1 2 new"]
    assert set(statuses(tmp_path).values()) == {"finished"}
    assert len(statuses(tmp_path)) == 6


def test_seeds_together_are_resumed_together(tmp_path, calls, order):
    plan = make_plan(FIVE, 2, "cartpole", {**TINY, "train.frames": 120}, tmp_path, together=True)
    order({"five 0": "cut off", "five 1": "cut off"})
    assert stub(plan) == 1
    order({})
    assert stub(plan) == 0
    assert calls() == ["five 0 1 new", "five 0 1 resume"]


def test_a_seed_that_is_behind_goes_on_alone(tmp_path, calls, order):
    """Seed 0 finished, seed 1 has a checkpoint, and a third seed is new: no two can share a process."""
    plan = make_plan(FIVE, 2, "cartpole", {**TINY, "train.frames": 120}, tmp_path, together=True)
    order({"five 1": "cut off"})
    assert stub(plan) == 1
    order({})
    assert stub(make_plan(FIVE, 3, "cartpole", {**TINY, "train.frames": 120}, tmp_path, together=True)) == 0
    assert calls() == ["five 0 1 new", "five 1 resume", "five 2 new"]


def test_seeds_without_a_common_checkpoint_go_on_one_at_a_time(tmp_path, calls, order):
    plan = make_plan(FIVE, 2, "cartpole", {**TINY, "train.frames": 120}, tmp_path, together=True)
    order({"five 0": "cut off", "five 1": "cut off"})
    assert stub(plan) == 1
    order({"five 0": "refuse", "five 1": "refuse"})
    assert stub(plan) == 1
    assert calls()[1:] == ["five 0 1 resume", "five 0 resume", "five 0 new", "five 1 resume", "five 1 new"]
