"""Run folders from elsewhere: loading them runs no code of theirs, and nothing in them leads out of the folder."""

import contextlib
import json
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from counting import tiny_config

from dreamer_jax.core.errors import CheckpointError, ConfigError, DreamerError
from dreamer_jax.core.presets import load_config, parse_config, read_yaml, write_yaml
from dreamer_jax.play.evaluate import evaluate_run
from dreamer_jax.play.policy import load_policy, read_specs
from dreamer_jax.report.summary import find_runs, read_runs, runs_table, summarise
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.folder import create_run, open_run
from dreamer_jax.runs.metrics import read_metrics
from dreamer_jax.training import start

FRAMES = 200  # of the finished run


@pytest.fixture
def run(finished_run, tmp_path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "runs" / "run"))


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def trap(tmp_path) -> Trap:
    """One that works, with nothing caught in it so far."""
    trap = Trap(tmp_path / "trace")
    pickle.loads(pickle.dumps(trap))
    trap.trace.rmdir()
    return trap


def planted(path: Path, name: str, trap: Trap) -> None:
    """Puts the trap into one array of an npz file."""
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {name: np.array([trap], dtype=object)}, allow_pickle=True)


def test_a_pickle_in_latents_is_not_loaded(tmp_path, trap, said):
    run = start.train(tiny_config(tmp_path / "runs", train__frames=FRAMES, replay__context=1, eval__final_episodes=1))
    path = run / "replay" / f"latents-{FRAMES}.npz"
    planted(path, "latent/deter", trap)
    start.resume(longer(run))
    assert f"{path} cannot be read: latent/deter is object[1]; " in said()
    assert not trap.trace.exists()


@pytest.mark.parametrize("name", ["reward", "obs/observation", "new"])
def test_a_pickle_in_the_replay_is_not_loaded(run, trap, name, said):
    path = min((run / "replay").iterdir())
    planted(path, name, trap)
    with pytest.raises(CheckpointError, match="none of its checkpoints can be read"):
        start.resume(longer(run))
    assert f"{path} cannot be read: Object arrays cannot be loaded" in said()
    assert not trap.trace.exists()


@pytest.mark.parametrize("place", ["config.yaml", "checkpoints/*/host/metadata", "replay/*.npz"])
def test_a_pickle_in_the_place_of_a_file_is_not_loaded(run, trap, place):
    longer(run)
    for path in run.glob(place):
        path.write_bytes(pickle.dumps(trap))
    with pytest.raises(DreamerError):
        start.resume(run)
    assert not trap.trace.exists()


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "evaluation.json", "environment.json"])
def test_a_pickle_among_the_numbers_is_not_loaded(run, trap, name):
    (run / name).write_bytes(pickle.dumps(trap) + b"\n{}\n")
    assert read_runs([run])[0] == []
    assert not trap.trace.exists()


def longer(run: Path) -> Path:
    """The run with frames left, and no evaluations to wait for."""
    values = read_yaml(run / "config.yaml")
    values["train"] |= {"frames": FRAMES + 20}
    values["eval"] |= {"every": 0, "final_episodes": 1, "video": False}
    write_yaml(parse_config(values, "test"), run / "config.yaml")
    return run


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir ['{}']", "!!python/object/new:os.mkdir ['{}']", "!!python/name:os.mkdir ''"]
)
def test_a_tag_in_a_configuration_calls_nothing(run, tmp_path, tag):
    with (run / "config.yaml").open("a") as file:
        file.write(f"x: {tag.format(tmp_path / 'trace')}\n")
    with pytest.raises(ConfigError, match="cannot be read as YAML: could not determine a constructor"):
        open_run(run)
    assert not (tmp_path / "trace").exists()


@pytest.fixture
def module(tmp_path, monkeypatch) -> Iterator[str]:
    """The name of a module that can be imported, and has not been."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "foreign_module.py").write_text("from counting import five\n")
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    yield "foreign_module"
    sys.modules.pop("foreign_module", None)


def test_reading_does_not_import_the_task(run, module):
    """Reports and listings only read; playing imports it, as the documentation says."""
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("import:counting:five", f"import:{module}:five"))
    config = open_run(run)
    runs, damaged = read_runs(find_runs([run]))
    assert (len(runs), damaged) == (1, [])
    assert module in runs_table([summarise(one) for one in runs])
    assert read_metrics(run / "metrics.jsonl")
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        checkpoints.restore_host(checkpoints.resolve("last"))
    assert module not in sys.modules
    read_specs(config.env)
    assert module in sys.modules


def test_classes_that_a_checkpoint_names_are_not_imported(run, module):
    path = run / "checkpoints" / str(FRAMES)
    for file in [path / "_CHECKPOINT_METADATA", path / "agent" / "_METADATA"]:
        text = file.read_text()
        for name in ("orbax.checkpoint._src.handlers.standard_checkpoint_handler.StandardCheckpointHandler", "np.ndarray"):
            text = text.replace(name, f"{module}.five")
        assert module in text
        file.write_text(text)
    with contextlib.suppress(CheckpointError):
        load_policy(run)
    assert module not in sys.modules


# Paths


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["../..", "..", "", ".", f"{FRAMES}/../{FRAMES}", f"0{FRAMES}", "²", "٢٠٠", "-1", "9" * 5000, "a\nb", "\x00"]
)
def test_a_name_of_no_checkpoint_is_refused(run, name):
    with pytest.raises(CheckpointError, match="has no checkpoint") as refused:
        load_policy(run, name)
    assert len(str(refused.value).splitlines()) == 1


def test_a_run_writes_into_its_own_folder_only(run, tmp_path, monkeypatch):
    """Whatever its configuration says of folders and names."""
    values = read_yaml(longer(run) / "config.yaml")
    values |= {"runs": str(tmp_path / "elsewhere"), "preset": "../../outside"}
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    host = run / "checkpoints" / str(FRAMES) / "host" / "metadata"
    host.write_text(host.read_text().replace('"preset": "cartpole"', '"preset": "../../outside"'))
    monkeypatch.chdir(tmp_path)
    start.resume(run)
    evaluate_run(run, "last", 1, True, 0, None, video=False)
    assert all(path.is_relative_to(run) for path in files(tmp_path))
    assert (run / "evaluations" / "last-deterministic.json").exists()


def test_a_new_run_stays_below_its_folder_of_runs(tmp_path):
    values = tiny_config(tmp_path / "a" / "runs").model_dump(by_alias=True)
    for task, preset in (("..", "../../../x"), ("import:../../x:y", "/x"), (".", ".."), ("gym:..\\..\\x", "a\\..\\b")):
        values["env"]["task"], values["preset"] = task, preset
        run = create_run(parse_config(values, "test"))
        assert run.resolve().parent.parent == tmp_path / "a" / "runs"


def test_a_folder_that_cannot_be_named_is_refused():
    with pytest.raises(ConfigError, match="cannot be made"):
        create_run(load_config("cartpole", {"runs": "a\x00b"}))


@pytest.mark.parametrize("change", [lambda host: host["counters"].update(frames=-1), lambda host: host.pop("replay_rng")])
def test_a_record_that_cannot_be_is_named_and_done_without(run, change: Callable[[dict], None], said):
    path = run / "checkpoints" / str(FRAMES) / "host" / "metadata"
    host = json.loads(path.read_text())
    change(host)
    path.write_text(json.dumps(host))
    start.resume(longer(run))
    assert re.search(r"host is damaged: '(counters\.frames|replay_rng)' is ", said())
