"""A whole run: what it leaves behind, what it counts, and how it goes on after an interruption.

All runs are tiny and play `counting`, where an episode of five decisions returns 15 in six records.
"""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio.v3 as iio
import jax
import numpy as np
import pytest
from counting import INTERRUPTED_AT, tiny_config

from dreamer_jax.agent.types import AgentState
from dreamer_jax.cli.command import messages_on_stdout
from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import CheckpointError, DreamerError, RunError, StorageError
from dreamer_jax.core.presets import parse_config, read_yaml, write_yaml
from dreamer_jax.envs import env_seeds, make_vector_env
from dreamer_jax.play.policy import Policy
from dreamer_jax.replay.buffer import Replay
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.metrics import MEASURED, read_metrics
from dreamer_jax.training import acting, build, start


def rows_of(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    return [row for row in read_metrics(run / "metrics.jsonl") if kind in (None, row["kind"])]


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def saved_host(run: Path) -> dict[str, Any]:
    """Counters and the like in a run's last checkpoint."""
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        return checkpoints.restore_host(checkpoints.resolve("last")).model_dump()


def leaves(state: AgentState) -> dict[str, np.ndarray]:
    """Every array of an agent by its path: parameters, optimisers, slow critic, normaliser, key and step."""
    plain = dataclasses.replace(state, key=jax.random.key_data(state.key))
    return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(plain)}


def assert_same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)
        assert value.dtype == two[name].dtype, name


def refusal(function: Any, argument: Any, error: type[DreamerError] = RunError) -> str:
    """The message of the error that a call ends with: one line."""
    with pytest.raises(error) as caught:
        function(argument)
    message = str(caught.value)
    assert "\n" not in message
    return message


# What a run leaves behind


def test_a_run_leaves_its_folder(finished_run):
    assert {path.name for path in finished_run.iterdir()} == {
        "config.yaml",
        "spaces.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "replay",
        "videos",
        "curves.png",
        "environment.json",
        "evaluation.json",
        "status.json",
        "lock",
    }
    assert finished_run.parent.name == "import_counting_five"
    assert finished_run.name.startswith("cartpole-0-")
    assert list((finished_run / "tensorboard").glob("events.*"))
    assert iio.imread(finished_run / "curves.png").std() > 5


def test_the_resolved_configuration_is_kept(finished_run):
    values = read_yaml(finished_run / "config.yaml")
    assert values["behavior"]["lam"] == 0.95  # also what neither preset nor options named
    runs = finished_run.parent.parent
    changes = {"train__frames": 200, "eval__every": 80, "train__tensorboard": True, "eval__video": True}
    assert values["precision"] == "float32"  # not "auto": the run goes on in it on any device
    assert parse_config(values, "file") == tiny_config(runs, precision="float32", **changes)


def test_the_environment_is_recorded(finished_run):
    environment = json.loads((finished_run / "environment.json").read_text())
    assert set(environment) == {"versions", "device", "machine", "cores", "git_commit"}
    assert environment["versions"]["jax"] == jax.__version__


def test_the_final_evaluation(finished_run):
    evaluation = json.loads((finished_run / "evaluation.json").read_text())
    assert (evaluation["task"], evaluation["checkpoint"]) == ("import:counting:five", "last")
    assert (evaluation["frames"], evaluation["decisions"]) == (200, 200)
    for name, deterministic in (("deterministic", True), ("sampled", False)):
        result = evaluation[name]
        assert (result["returns"], result["lengths"], result["deterministic"]) == ([15.0] * 3, [5] * 3, deterministic)


def test_the_video_shows_a_whole_episode(finished_run):
    assert [path.name for path in (finished_run / "videos").iterdir()] == ["200.mp4"]
    video = finished_run / "videos" / "200.mp4"
    assert iio.immeta(video, plugin="pyav")["fps"] == 20
    brightness = iio.imread(video, plugin="pyav").mean((1, 2, 3))
    np.testing.assert_allclose(brightness, [0, 40, 80, 120, 160, 200], atol=6)


def test_metrics_rows(finished_run):
    train = rows_of(finished_run, "train")
    assert column(train, "frames") == list(range(20, 201, 20))  # the first update comes with record 23, at frame 20
    assert all(np.isfinite(value) for row in train for value in row.values() if not isinstance(value, str))
    assert {"loss/reward", "loss/continue", "loss/dyn", "loss/policy", "loss/value"} < set(train[0])
    evaluations = rows_of(finished_run, "eval")
    assert column(evaluations, "frames") == [80, 160, 200]
    assert column(evaluations, "episodes") == [2, 2, 3]
    assert column(evaluations, "return_mean") == [15, 15, 15]
    everything = rows_of(finished_run)
    for name in ("frames", "decisions", "updates", "wall_seconds"):
        assert column(everything, name) == sorted(column(everything, name)), name


def test_every_episode_is_a_row_with_its_true_return_and_length(finished_run):
    episodes = rows_of(finished_run, "episode")
    assert column(episodes, "frames") == list(range(5, 201, 5))  # the last one ends with the run
    assert set(column(episodes, "return")) == {15.0}
    assert set(column(episodes, "length")) == {5}


def test_the_newest_checkpoints_are_kept_and_replay_is_shared_between_them(finished_run):
    with contextlib.closing(Checkpoints(finished_run)) as checkpoints:
        assert set(checkpoints.steps()) >= {160, 200}
        assert len(checkpoints.steps()) <= 3  # the newest two and the best
    segments = sorted(path.stem for path in (finished_run / "replay").iterdir())
    # 16, 32 and 40 episodes: their decisions and the resets between them
    assert segments == ["000000000000-000000000095", "000000000095-000000000191", "000000000191-000000000239"]


def test_the_seed_decides_everything(finished_run, tmp_path):
    changes = {"train__frames": 200, "eval__every": 80}
    again = start.train(tiny_config(tmp_path, **changes))
    one, two = ([{k: v for k, v in row.items() if k not in MEASURED} for row in rows_of(run)] for run in (finished_run, again))
    assert one == two
    with contextlib.closing(Checkpoints(finished_run)) as first, contextlib.closing(Checkpoints(again)) as second:
        assert first.restore_host(200).replay_rng == second.restore_host(200).replay_rng


# Counting


@pytest.mark.parametrize(
    ("function", "envs", "repeat", "ratio", "decisions", "records", "updates"),
    [
        # 60 decisions with 11 resets between 12 episodes. Of 8 records 16 windows are there at record 23: the first update.
        ("five", 1, 1, 4, 60, 71, 1 + 12),  # 48 records are left, 0.25 updates each
        ("five", 1, 1, 4.5, 60, 71, 1 + 13),  # 0.28125 each: fractions add up to 13.5
        ("five", 1, 1, 32, 60, 71, 1 + 96),  # 2 each
        # Two environments offer 2 x (n - 7) windows, 16 of them at n = 15. Each plays 30 decisions with 5 resets.
        ("five", 2, 1, 4, 60, 70, 1 + 10),  # 40 records are left
        ("five", 2, 1, 40, 60, 70, 1 + 100),  # 2.5 each, 5 for every round
        # 60 frames are 30 decisions of 2, in episodes of 3 decisions with 9 resets.
        ("six", 1, 2, 4, 30, 39, 1 + 4),  # 16 records are left
        ("six", 2, 2, 32, 30, 38, 1 + 16),  # 15 decisions and 4 resets each; 8 records are left, 2 each
    ],
)
def test_frames_decisions_records_and_updates(
    tmp_path, without_learning, function, envs, repeat, ratio, decisions, records, updates
):
    changes = {"env__num_envs": envs, "env__action_repeat": repeat, "replay__train_ratio": ratio, "train__frames": 60}
    run = start.train(tiny_config(tmp_path, function, **changes))
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        assert checkpoints.steps() == [60]
    host = saved_host(run)
    counters = host["counters"]
    assert (counters["frames"], counters["decisions"]) == (60, decisions)
    assert (counters["records"], host["replay_end"]) == (records, records // envs)
    assert counters["updates"] == updates
    assert counters["policy_steps"] == records // envs
    episodes = rows_of(run, "episode")
    length = {"five": 5, "six": 3}[function]
    assert len(episodes) == decisions // length
    assert {(row["return"], row["length"]) for row in episodes} == {({"five": 15.0, "six": 21.0}[function], length)}


def test_a_row_says_how_long_training_waited_for_checkpoints(tmp_path, without_learning, monkeypatch):
    """Half a second at frames 20 and 40, after the rows of these frames."""
    monkeypatch.setattr(Checkpoints, "save", lambda *_: time.sleep(0.5))
    run = start.train(tiny_config(tmp_path, train__frames=60, eval__every=20))
    waited = column(rows_of(run, "train"), "checkpoint_seconds")
    assert [int(seconds / 0.5) for seconds in waited] == [0, 1, 1]


def test_a_run_too_short_to_learn_still_ends_well(tmp_path, without_learning):
    run = start.train(tiny_config(tmp_path, train__frames=10))
    host = saved_host(run)
    assert (host["counters"]["updates"], host["train_ratio"]) == (0, None)
    assert {row["kind"] for row in rows_of(run)} == {"episode", "eval"}


def test_continuous_actions(tmp_path):
    config = tiny_config(tmp_path, env__task="gym:Pendulum-v1", train__frames=60, eval__final_episodes=1)
    run = start.train(config)
    assert run.parent.name == "gym_Pendulum-v1"
    train = rows_of(run, "train")
    assert train[-1]["updates"] == 1 + (60 - 23) // 4  # an episode of 200 decisions: no reset on the way
    assert all(np.isfinite(value) for row in train for value in row.values() if not isinstance(value, str))
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["deterministic"]["lengths"] == [200]
    assert -2000 < evaluation["deterministic"]["return_mean"] < 0


def test_training_waits_for_the_random_decisions(tmp_path):
    """The first decisions are random; nothing is learned before they are all taken, and then `pretrain` updates come."""
    options = {"replay__prefill": 30, "replay__pretrain": 7, "train__frames": 31}
    run = start.train(tiny_config(tmp_path, **options))
    counters = saved_host(run)["counters"]
    assert (counters["decisions"], counters["updates"]) == (31, 7)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_older_versions_train_and_resume(tmp_path, version):
    """A run with the choices of V1 or V2, its latents stored in the replay, learns and goes on from its checkpoint."""
    older = {
        "model__norm": "none",
        "model__scalar_heads": "normal",
        "behavior__return_norm": False,
        "loss__replay_value": 0,
        "loss__free_nats_of": "mean",
        "optimizer__algorithm": "adam",
        "replay__context": 1,
    }
    if version == "v1":
        older |= {"model__latent": "gaussian", "model__core": "gru", "model__continue_head": False}
        older |= {"behavior__returns": "own_reward_after_start", "behavior__dynamics_share": 1, "behavior__exploration": 0.3}
    else:
        older |= {"model__core": "layer_norm_gru", "behavior__returns": "own_reward", "behavior__bootstrap": "slow_critic"}
    run = start.train(tiny_config(tmp_path, **older, train__frames=40))
    config = read_yaml(run / "config.yaml")
    write_yaml(parse_config({**config, "train": {**config["train"], "frames": 60}}, "longer"), run / "config.yaml")
    start.resume(run)
    counters = saved_host(run)["counters"]
    assert counters["frames"] == 60
    losses = column(rows_of(run, "train"), "loss/total")
    assert len(losses) >= 2
    assert np.isfinite(losses).all()


# Interruption and resumption


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of 62 frames into which Ctrl-C came at frame 43: its folder, output, and what it saved last."""
    run_config = tiny_config(tmp_path_factory.mktemp("stopped"), "interrupted", train__frames=62, eval__every=20)
    saved = SimpleNamespace()
    save = Checkpoints.save

    def spy(self, frames, state, host, replay, in_flight, score):
        saved.frames, saved.state, saved.host, saved.replay = frames, leaves(state), host, replay.read(0, replay.added)
        save(self, frames, state, host, replay, in_flight, score)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch, messages_on_stdout(), contextlib.redirect_stdout(io.StringIO()) as output:
        patch.setattr(Checkpoints, "save", spy)
        run = start.train(run_config)
    assert signal.getsignal(signal.SIGINT) is handler
    return SimpleNamespace(run=run, output=output.getvalue(), saved=saved)


@pytest.fixture
def stopped_run(stopped, tmp_path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(stopped.run, tmp_path / stopped.run.name))


@pytest.fixture(scope="module")
def resumed(stopped, tmp_path_factory):
    """The stopped run after `resume`: its folder, and the agent and replay that it started from."""
    run = Path(shutil.copytree(stopped.run, tmp_path_factory.mktemp("resumed") / stopped.run.name))
    started = SimpleNamespace()

    class Spy(build.Learner):
        def __init__(self, nets, config, states, replays):
            (state,), (replay,) = states, replays
            started.state, started.replay = leaves(state), replay.read(0, replay.added)
            started.rng = replay.rng.bit_generator.state
            super().__init__(nets, config, states, replays)

    with pytest.MonkeyPatch.context() as patch, messages_on_stdout(), contextlib.redirect_stdout(io.StringIO()) as output:
        patch.setattr(build, "Learner", Spy)
        assert start.resume(run) == run
    return SimpleNamespace(run=run, started=started, output=output.getvalue())


def test_ctrl_c_ends_with_a_checkpoint_and_says_how_to_go_on(stopped):
    assert f"Stopped at frame {INTERRUPTED_AT}" in stopped.output
    assert f"dreamer train --resume {stopped.run}" in stopped.output
    with contextlib.closing(Checkpoints(stopped.run)) as checkpoints:
        assert checkpoints.resolve("last") == stopped.saved.frames == INTERRUPTED_AT
    counters = saved_host(stopped.run)["counters"]
    # 43 decisions and 8 resets are 51 records; from record 23 on an update every four.
    assert (counters["frames"], counters["records"], counters["updates"]) == (43, 51, 1 + 7)
    assert rows_of(stopped.run)[-1]["frames"] == 40  # the row that was begun is written when the run goes on
    assert (stopped.run / "curves.png").exists()
    assert not (stopped.run / "evaluation.json").exists()


def test_everything_is_restored_as_it_was_saved(stopped, resumed):
    assert_same(resumed.started.state, stopped.saved.state)
    assert_same(resumed.started.replay, stopped.saved.replay)
    assert resumed.started.rng == stopped.saved.host.replay_rng
    state = resumed.started.state
    assert state[".step"] == 8
    assert any("opt_state" in name and np.any(value) for name, value in state.items())
    assert state[".return_norm.high"] > state[".return_norm.low"]


def test_the_replay_holds_what_was_played(stopped):
    """Six records an episode; reward and flags belong to the arrival at the observation beside them."""
    replay = {name: values[0] for name, values in stopped.saved.replay.items()}
    count = np.arange(51) % 6
    np.testing.assert_array_equal(replay["obs/observation"][:, 0], count)
    np.testing.assert_array_equal(replay["reward"], count)
    np.testing.assert_array_equal(replay["is_first"], count == 0)
    np.testing.assert_array_equal(replay["is_last"], count == 5)
    np.testing.assert_array_equal(replay["is_terminal"], count == 5)
    np.testing.assert_array_equal(replay["prev_action"].sum(-1), count > 0)  # one-hot, none at a reset


def test_a_resumed_run_goes_on_to_its_end(stopped, resumed):
    host = saved_host(resumed.run)
    # 62 decisions with a reset before each of 13 episodes but the first; the record after the last decision is not stored.
    assert (host["counters"]["frames"], host["counters"]["decisions"], host["counters"]["records"]) == (62, 62, 51 + 23)
    # The ratio goes on where it stood, at record 51: neither a first update anew nor those of the pause.
    assert host["counters"]["updates"] == 1 + (51 + 23 - 23) // 4
    assert host["counters"]["wall_seconds"] > saved_host(stopped.run)["counters"]["wall_seconds"]
    evaluation = json.loads((resumed.run / "evaluation.json").read_text())
    assert (evaluation["frames"], evaluation["sampled"]["returns"]) == (62, [15.0] * 3)
    assert f"Run folder: {resumed.run}" in resumed.output


def test_a_resumed_run_neither_doubles_nor_loses_rows(stopped, resumed):
    before, after = rows_of(stopped.run), rows_of(resumed.run)
    assert after[: len(before)] == before
    assert column(rows_of(resumed.run, "train"), "frames") == [20, 40, 60]  # no update after
    assert column(rows_of(resumed.run, "eval"), "frames") == [20, 40, 60, 62]
    assert column(rows_of(resumed.run, "episode"), "frames") == list(range(5, 61, 5))  # the ninth goes on at frame 43
    assert set(column(rows_of(resumed.run, "episode"), "return")) == {15.0}


def test_a_resumed_run_plays_no_episode_twice(resumed):
    host = saved_host(resumed.run)
    with contextlib.closing(Checkpoints(resumed.run)) as checkpoints:
        config = parse_config(read_yaml(resumed.run / "config.yaml"), "file")
        replay = empty_replay(config)
        checkpoints.restore_replay(replay, host["counters"]["frames"], host["replay_end"])
    noise = replay.read(0, replay.added)["obs/observation"][0, :, 1]
    assert len(np.unique(noise)) == len(noise) == 74


def empty_replay(config: Config) -> Replay:
    envs = make_vector_env(config.env, env_seeds(0, config.env.num_envs))
    settings = config.replay
    sizes = (settings.capacity, envs.num_envs, settings.batch_length)
    return Replay(envs.obs_specs, envs.action_spec, None, *sizes, online=False, seed=0)


def test_rows_and_records_of_a_killed_run_are_forgotten(stopped_run, without_learning):
    """A kill after frame 40: the newest checkpoint is older than rows and replay segments."""
    shutil.rmtree(stopped_run / "checkpoints" / str(INTERRUPTED_AT))
    start.resume(stopped_run)
    assert column(rows_of(stopped_run, "train"), "frames") == [20, 40, 60]  # no update after
    host = saved_host(stopped_run)
    assert (host["counters"]["frames"], host["replay_end"]) == (62, 47 + 27)  # with the record of frame 40 and 4 resets
    with contextlib.closing(Checkpoints(stopped_run)) as checkpoints:
        replay = empty_replay(parse_config(read_yaml(stopped_run / "config.yaml"), "file"))
        checkpoints.restore_replay(replay, host["counters"]["frames"], host["replay_end"])
    np.testing.assert_array_equal(replay.read(47, 54)["reward"][0], [5, *range(6)])


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(finished_run, tmp_path, without_learning):
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    shutil.rmtree(run / "videos")
    config = tiny_config(tmp_path, precision="float32", train__frames=200, eval__every=80)
    write_yaml(config, run / "config.yaml")
    start.resume(run)
    assert column(rows_of(run, "eval"), "frames") == [80, 160, 200]
    assert column(rows_of(run, "train"), "frames") == column(rows_of(finished_run, "train"), "frames")


# Refusals


def test_a_checkpoint_of_another_model_is_refused(stopped_run):
    config = (stopped_run / "config.yaml").read_text()
    (stopped_run / "config.yaml").write_text(config.replace("deter: 16", "deter: 32"))
    message = refusal(start.resume, stopped_run, CheckpointError)
    assert "model.deter: 16 in the checkpoint, 32 in config.yaml" in message
    assert str(stopped_run / "checkpoints" / "43") in message


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    assert f"{tmp_path} is not a run" in refusal(start.resume, tmp_path)
    assert "is not a run" in refusal(start.resume, tmp_path / "nothing")


@pytest.mark.parametrize("part", ["agent", "host"])
def test_damaged_checkpoints_are_refused_if_there_is_no_other(stopped_run, part, said):
    for frames in ("40", "43"):
        damage(stopped_run / "checkpoints" / frames / part)
    output = nothing_left(stopped_run, said)
    for frames in ("40", "43"):
        assert (
            f"checkpoint {stopped_run / 'checkpoints' / frames}" in output or f"checkpoints/{frames}/host is damaged" in output
        )
    assert {path.name for path in (stopped_run / "checkpoints").iterdir()} == {"40", "43"}


def damage(folder: Path) -> None:
    """Empties every file, as a disk does that lost what it had promised."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def nothing_left(run: Path, said: Any) -> str:
    """What is printed of each checkpoint before the run is refused because none can be read."""
    assert f"{run}: none of its checkpoints can be read" in refusal(start.resume, run, CheckpointError)
    return said()


def test_a_missing_replay_segment_is_refused(stopped_run, said):
    # Records 0 to 23 were saved with the evaluation at frame 20, up to 47 at frame 40, up to 51 by the interruption.
    segments = sorted((stopped_run / "replay").iterdir())
    assert [path.stem[-3:] for path in segments] == ["023", "047", "051"]
    segments[1].unlink()
    assert f"checkpoint at frame 43: {stopped_run / 'replay'} lacks records 23 to 51" in nothing_left(stopped_run, said)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_a_damaged_replay_segment_is_refused(stopped_run, content, said):
    segment = min((stopped_run / "replay").iterdir())
    segment.write_bytes(content)
    assert f"{segment} cannot be read" in nothing_left(stopped_run, said)


def test_a_torn_replay_segment_is_refused(stopped_run, said):
    segment = min((stopped_run / "replay").iterdir())
    segment.write_bytes(segment.read_bytes()[:-100])
    assert f"{segment} cannot be read" in nothing_left(stopped_run, said)


def test_a_run_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal(start.train, tiny_config(tmp_path / "file"), StorageError)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_refused(stopped_run, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o500)
    assert "cannot be written" in refusal(start.train, tiny_config(closed), StorageError)
    stopped_run.chmod(0o500)
    assert "cannot be written" in refusal(start.resume, stopped_run, StorageError)
    stopped_run.chmod(0o700)


def test_latents_are_stored_and_saved_with_the_records(tmp_path):
    """With replay context every record carries the latent of its observation, in the checkpoint too."""
    # No updates: they would write newer latents over those of acting.
    changes = {"replay.context": 1, "replay.online": True, "train.frames": 60, "replay.min_items": 500}
    run = start.train(tiny_config(tmp_path, **changes))
    [segment] = (run / "replay").glob("0*.npz")
    with np.load(segment) as records:
        deter, stoch, first = records["latent/deter"][0], records["latent/stoch"][0], records["is_first"][0]
    # 60 decisions are 12 episodes of six records; the record after the last decision is not stored.
    assert (deter.shape, deter.dtype, stoch.shape, stoch.dtype) == ((71, 16), np.float32, (71, 2), np.uint8)
    # A fresh GRU maps the zero state to zero: that is the latent of a reset, and of no other record.
    np.testing.assert_array_equal(np.abs(deter).max(-1) == 0, first)
    assert set(np.unique(stoch)) == {0, 1, 2}
    # Windows of 1 + 8 records: the 7 whole ones of 71 records wait in the online queue.
    assert saved_host(run)["replay_queue"] == [[0, begin] for begin in range(0, 63, 9)]


def test_a_run_with_replay_context_learns_and_resumes(tmp_path):
    """Updates start when 16 windows of 9 records exist, at record 24; the queue goes on after a resumption."""
    config = tiny_config(tmp_path, precision="float32", **{"replay.context": 1, "replay.online": True, "train.frames": 60})
    run = start.train(config)
    assert saved_host(run)["counters"]["updates"] == 1 + (71 - 24) // 4
    write_yaml(config.model_copy(update={"train": config.train.model_copy(update={"frames": 90})}), run / "config.yaml")
    start.resume(run)
    assert saved_host(run)["counters"]["frames"] == 90
    with np.load(max((run / "replay").glob("*.npz"))) as records:
        assert np.isfinite(records["latent/deter"]).all()


def test_acting_training_and_evaluation_draw_from_different_keys(tmp_path, monkeypatch):
    """Keys are counted up by fold_in; two streams from one key would share their noise."""
    seen: dict[str, set[bytes]] = {}

    def record(name, key):
        seen.setdefault(name, set()).add(np.asarray(jax.random.key_data(key)).tobytes())

    compile_policy, initial = acting.compile_policy, Policy.initial

    def recording_policy(*arguments, **options):
        step = compile_policy(*arguments, **options)

        def recorded(params, key, *rest):
            record("act", key[0])
            return step(params, key, *rest)

        return recorded

    def recording_initial(self, batch, seed):
        carry, key = initial(self, batch, seed), None
        for _ in range(10):
            key, step = jax.random.split(carry.key if key is None else key)
            record("evaluate", step)
        return carry

    class RecordingLearner(build.Learner):
        def update(self, count):
            for i in range(count):
                record("train", jax.random.fold_in(self.state.key[0], self.state.step[0] + i))
            super().update(count)

    monkeypatch.setattr(acting, "compile_policy", recording_policy)
    monkeypatch.setattr(Policy, "initial", recording_initial)
    monkeypatch.setattr(build, "Learner", RecordingLearner)
    start.train(tiny_config(tmp_path, train__frames=60, eval__final_episodes=1))
    assert all(len(keys) >= 10 for keys in seen.values())
    assert seen.keys() == {"act", "train", "evaluate"}
    assert not seen["act"] & seen["train"]
    assert not seen["act"] & seen["evaluate"]
    assert not seen["train"] & seen["evaluate"]
