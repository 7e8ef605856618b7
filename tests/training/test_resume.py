"""A run that was stopped goes on as if it had not been: beside the same run in one go."""

import contextlib
import json
import os
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from counting import Counting, tiny_config
from stopping import assert_same, last, rows, stop_next_run

from dreamer_jax.core.errors import ActionError, CheckpointError, EnvError
from dreamer_jax.core.presets import parse_config, read_yaml, write_yaml
from dreamer_jax.envs import VectorEnv, make_vector_env
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.metrics import read_metrics
from dreamer_jax.training import start
from dreamer_jax.training.loop import Training

CASES = {
    "episodes of several lengths, latents in the replay": {
        "function": "seeded_length",
        "env__num_envs": 2,
        "replay__context": 1,
        "replay__online": True,
    },
    "continuous actions, gradients through the dynamics": {
        "env__task": "gym:Pendulum-v1",
        "model__latent": "gaussian",
        "behavior__dynamics_share": 1,
        "behavior__exploration": 0.3,
        "replay__prefill": 30,
    },
}


def last_frames(run: Path) -> int:
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        return checkpoints.resolve("last")


@pytest.fixture
def stop_at(monkeypatch):
    """stop_at(frames): the next run stops there, as at Ctrl-C."""
    return partial(stop_next_run, monkeypatch)


@pytest.mark.parametrize("case", [next(iter(CASES)), *(pytest.param(case, marks=pytest.mark.slow) for case in list(CASES)[1:])])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, stop_at, case):
    """Parameters, optimisers, replay, counters and rows: bit for bit, with the stop in the midst of an episode and of a row."""
    changes = {**CASES[case], "train__frames": 130, "eval__every": 50}
    whole = start.train(tiny_config(tmp_path / "whole", **changes))
    stop_at(71)
    run = start.train(tiny_config(tmp_path / "stopped", **changes))
    assert not (run / "evaluation.json").exists()
    start.resume(run)
    assert rows(run) == rows(whole)
    assert len(rows(run)) > 8
    assert_same(last(run), last(whole))
    one, two = (json.loads((folder / "evaluation.json").read_text())["sampled"] for folder in (run, whole))
    assert one == two


def test_seeds_that_were_stopped_go_on_together(tmp_path, stop_at):
    """The first of the three has used up its frames by then, and waits for the others."""
    changes = {"train__frames": 90, "eval__every": 0, "function": "seeded_length", "seed": 0}
    whole = start.train_seeds(tiny_config(tmp_path / "whole", **changes), 3)
    stop_at(85)
    stopped = start.train_seeds(tiny_config(tmp_path / "stopped", **changes), 3)
    frames = [last_frames(run) for run in stopped]
    assert frames[0] == 90 > max(frames[1:])
    start.resume_seeds(stopped)
    for one, two in zip(stopped, whole, strict=True):
        assert rows(one) == rows(two)
        assert_same(last(one), last(two))


def test_a_checkpoint_with_nothing_in_flight_goes_on_with_new_episodes(tmp_path, stop_at):
    """Two steps into an episode of five at frame 32: three would be left of it, and it starts anew."""
    stop_at(32)
    run = start.train(tiny_config(tmp_path, train__frames=60))
    shutil.rmtree(run / "checkpoints" / "32" / "in_flight")
    start.resume(run)
    ends = [row["frames"] for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "episode"]
    assert ends == [5, 10, 15, 20, 25, 30, 37, 42, 47, 52, 57]


class Unrepeatable(Counting):
    """Its observations do not come from the seed."""

    def _observation(self):
        return np.array([self.count, int.from_bytes(os.urandom(2), "big")], np.float32)


def unrepeatable():
    return Unrepeatable(5)


def test_an_environment_that_does_not_repeat_itself_is_named(tmp_path, stop_at, said):
    stop_at(32)
    run = start.train(tiny_config(tmp_path, env__task="import:test_resume:unrepeatable", train__frames=60))
    start.resume(run)
    assert "seed 0: environment 0 does not repeat its episode; a new one begins" in said()
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "episode"]
    assert [row["frames"] for row in rows] == [5, 10, 15, 20, 25, 30, 37, 42, 47, 52, 57]
    assert {(row["return"], row["length"]) for row in rows} == {(15.0, 5)}


class Breaking(Counting):
    """The 48th step of its life fails."""

    def step(self, action):
        if self.lifetime == 47:
            raise OSError("the simulator has gone")
        return super().step(action)


def breaking():
    return Breaking(5)


def test_an_error_of_the_environment_loses_nothing(tmp_path):
    """What was recorded and learned until then is in a checkpoint, and the run goes on from it with a new episode."""
    config = tiny_config(tmp_path, env__task="import:test_resume:breaking", train__frames=80)
    with pytest.raises(EnvError, match="the simulator has gone"):
        start.train(config)
    [run] = (tmp_path / "import_test_resume_breaking").iterdir()
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        assert checkpoints.steps() == [47]
        assert checkpoints.restore_host(47).replay_end == 47 + 10  # records of nine whole episodes and three of the tenth
    start.resume(run)
    assert read_metrics(run / "metrics.jsonl")[-1]["frames"] == 80


def test_a_diverged_agent_is_not_saved(tmp_path, monkeypatch):
    """Its action is refused; the run can go on from before."""
    step = VectorEnv.step

    def diverging(self, action):
        diverging.calls += self.num_envs == 1  # evaluations play two at once
        return step(self, action * np.nan if diverging.calls == 60 else action)

    diverging.calls = 0
    monkeypatch.setattr(VectorEnv, "step", diverging)
    with pytest.raises(ActionError, match="the action holds NaN"):
        start.train(tiny_config(tmp_path, train__frames=80, eval__every=20))
    [run] = (tmp_path / "import_counting_five").iterdir()
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        assert checkpoints.steps() == [20, 40]


def test_checkpoints_come_with_time_as_well(tmp_path, monkeypatch):
    """They change nothing: latents of the replay, acting and metrics are those of a run that saves once."""
    saved, save = [], Checkpoints.save

    def spy(self, frames, *rest):
        saved.append(frames)
        save(self, frames, *rest)

    monkeypatch.setattr(Checkpoints, "save", spy)
    changes = {"train__frames": 45, "replay__context": 1, "replay__online": True}
    often = start.train(tiny_config(tmp_path / "often", train__checkpoint_minutes=1e-9, **changes))
    assert sorted(set(saved)) == list(range(1, 46))
    saved.clear()
    once = start.train(tiny_config(tmp_path / "once", **changes))
    assert saved == [45]
    assert rows(often) == rows(once)
    assert_same(last(often), last(once))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    return start.train(tiny_config(tmp_path_factory.mktemp("stopped"), train__frames=40, replay__context=1))


@pytest.fixture
def run(stopped, tmp_path) -> Path:
    """A copy that may be changed, with frames left."""
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    change(run, "train", frames=60)
    return run


def change(run: Path, section: str, **values) -> None:
    config = read_yaml(run / "config.yaml")
    config[section] |= values
    write_yaml(parse_config(config, "test"), run / "config.yaml")


def test_a_longer_run_and_another_device_are_no_other_configuration(run):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("device: cpu", "device: auto"))
    assert (run / "config.yaml").read_text() != text
    start.resume(run)
    assert read_metrics(run / "metrics.jsonl")[-1]["frames"] == 60


def test_going_on_needs_no_other_programs(tmp_path, stop_at, monkeypatch):
    """The agent, what acts and the carry have the types, weak or not, that they have in a new run."""
    given = []

    def spy(self, *args):
        begin(self, *args)
        given.append(jax.tree.map(jax.typeof, (self.learner.state, self.learner.acting, self.acting.carry)))

    begin = Training.__init__
    monkeypatch.setattr(Training, "__init__", spy)
    stop_at(31)
    run = start.train(tiny_config(tmp_path, train__frames=40, replay__context=1))
    start.resume(run)
    new, resumed = given
    assert new == resumed


def test_the_replay_may_move_to_disk(tmp_path, stop_at, monkeypatch):
    """Saved in segments of a few records each; the run is the same, its latents and records included."""
    monkeypatch.setattr("dreamer_jax.replay.store.SEGMENT_BYTES", 500)
    changes = {"train__frames": 60, "replay__context": 1, "env__num_envs": 2}
    whole = start.train(tiny_config(tmp_path / "whole", **changes))
    stop_at(41)
    run = start.train(tiny_config(tmp_path / "stopped", **changes))
    assert len(list((run / "replay").iterdir())) > 4
    change(run, "replay", storage="disk")
    start.resume(run)
    assert rows(run) == rows(whole)
    assert_same(last(run), last(whole))


def test_another_configuration_is_refused_with_all_that_differs(run):
    change(run, "model", deter=32)
    change(run, "optimizer", learning_rate=0.25)
    with pytest.raises(CheckpointError) as refused:
        start.resume(run)
    message = str(refused.value)
    assert "model.deter: 16 in the checkpoint, 32 in config.yaml" in message
    assert "optimizer.learning_rate: 0.0005 in the checkpoint, 0.25 in config.yaml" in message
    assert "frames" not in message.partition("configuration")[2]


def test_a_checkpoint_of_a_newer_version_is_refused_by_name(run):
    for path in (run / "checkpoints" / "40" / "host").rglob("*"):
        if path.is_file() and b'"format"' in path.read_bytes():
            path.write_bytes(path.read_bytes().replace(b'"format": 4', b'"format": 99').replace(b'"format":4', b'"format":99'))
    with pytest.raises(CheckpointError, match="has format 99; this version reads 1 to 4"):
        start.resume(run)


def test_a_run_of_before_what_is_in_flight_was_stored_with_the_checkpoint_goes_on(run, said):
    """Format 2: evaluations had their options in `train`, and what was in flight lay in files of its own."""
    old = {"every": "eval_every", "episodes": "eval_episodes", "final_episodes": "final_episodes", "video": "video"}

    def with_old_names(values: dict) -> dict:
        evaluation = {old[name]: value for name, value in values["eval"].items() if name in old}
        rest = {name: section for name, section in values.items() if name != "eval"}
        return rest | {"train": values["train"] | evaluation}

    values = read_yaml(run / "config.yaml")
    (run / "config.yaml").write_text(yaml.safe_dump(with_old_names(values)))
    shutil.rmtree(run / "checkpoints" / "40" / "in_flight")
    path = run / "checkpoints" / "40" / "host" / "metadata"
    host = json.loads(path.read_text())
    path.write_text(json.dumps(host | {"format": 2, "config": with_old_names(host["config"])}))
    start.resume(run)
    place = run / "checkpoints" / "40"
    assert f"{place} has nothing in flight. The run goes on with new episodes" in said()
    assert read_metrics(run / "metrics.jsonl")[-1]["frames"] == 60
    assert len(json.loads((run / "evaluation.json").read_text())["sampled"]["returns"]) == values["eval"]["final_episodes"]


@pytest.mark.parametrize("place", ["checkpoints/40/in_flight", "replay/latents-40.npz"])
def test_what_is_in_flight_can_be_done_without(run, place, said):
    """Damaged or gone; the run says so and goes on with new episodes."""
    for path in [run / place] if (run / place).is_file() else (run / place).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-100])
    start.resume(run)
    output = said()
    assert f"{run / place} cannot be " in output
    assert "The run goes on with new episodes" in output
    assert read_metrics(run / "metrics.jsonl")[-1]["frames"] == 60


@pytest.mark.parametrize(("steps", "processes"), [*((steps, False) for steps in (0, 1, 4, 5, 6, 13, 40)), (13, True)])
def test_environments_go_on_where_they_were(steps, processes):
    """Beside the same environments that were not interrupted: records until and after the end of several episodes."""
    config = tiny_config(Path("."), "seeded_length", env__processes=processes).env
    rng = np.random.default_rng(0)
    actions = [np.eye(3, dtype=np.float32)[rng.integers(3, size=2)] for _ in range(steps + 30)]
    with (
        contextlib.closing(make_vector_env(config, [5, 6])) as envs,
        contextlib.closing(make_vector_env(config, [7, 8])) as others,
    ):
        before = [envs.reset(), *(envs.step(action) for action in actions[:steps])][-1]
        after = [others.reset(envs.episodes()), *(others.step(action) for action in actions[steps:])]
        expected = [before, *(envs.step(action) for action in actions[steps:])]
    assert sum(record.is_last.sum() for record in expected) > 4
    for one, two in zip(after, expected, strict=True):
        assert_same(one.obs, two.obs)
        assert_same(*({name: value for name, value in vars(record).items() if name != "obs"} for record in (one, two)))


def test_a_seeded_episode_does_not_depend_on_those_before(tmp_path):
    """The fourth episode of a seed is the same after three short ones and after three abandoned ones."""
    config = tiny_config(tmp_path, "seeded_length").env
    seen = []
    for abandoned in (False, True):
        with contextlib.closing(make_vector_env(config, [3])) as envs:
            action = np.eye(3, dtype=np.float32)[:1]
            for _ in range(4):
                record = envs.reset()
                first = record.obs["observation"].copy()
                while not abandoned and not record.is_last[0]:
                    record = envs.step(action)
            seen.append(first)
    np.testing.assert_array_equal(*seen)
