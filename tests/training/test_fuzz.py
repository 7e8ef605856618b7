"""Files from elsewhere, changed in every way: each is read, or refused in one line.

FUZZ=10 tries ten times as many, and others each time.
"""

import contextlib
import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import yaml
from counting import tiny_config
from flax import traverse_util
from run_folders import make_run
from stopping import stop_next_run

from dreamer_jax.agent.train_step import init_agent
from dreamer_jax.benchmark.suites import final_evaluation
from dreamer_jax.core.errors import CheckpointError, DreamerError
from dreamer_jax.core.presets import CONFIG_FOLDER, read_yaml, write_yaml
from dreamer_jax.core.statistics import binned_returns
from dreamer_jax.replay.buffer import Replay
from dreamer_jax.replay.store import ReplayStore
from dreamer_jax.replay.train_ratio import TrainRatio
from dreamer_jax.report.comparison import make_panels
from dreamer_jax.report.summary import read_run, runs_table, summarise
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.curves import draw_curves
from dreamer_jax.runs.folder import create_run, open_run
from dreamer_jax.runs.metrics import COUNTERS, is_number, read_metrics, truncate
from dreamer_jax.training import start
from dreamer_jax.training.build import build_training
from dreamer_jax.training.callbacks.group import Callbacks
from dreamer_jax.training.loop import Training
from dreamer_jax.training.resumption import begin
from dreamer_jax.training.seed_run import SeedRun

SCALE = int(os.environ.get("FUZZ", "1"))
STOPPED_AT = 34


def examples(count: int) -> hypothesis.settings:
    """The same examples in every test run, unless more of them are asked for."""
    allowed = [
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.data_too_large,
        hypothesis.HealthCheck.large_base_example,
    ]
    return hypothesis.settings(
        max_examples=count * SCALE, derandomize=SCALE == 1, deadline=None, database=None, suppress_health_check=allowed
    )


REFUSED = object()


def read_or_refused(function: Callable, *arguments: Any) -> Any:
    """What a call returns; REFUSED where it refuses with one line of ours. Any other error comes through."""
    try:
        return function(*arguments)
    except DreamerError as error:
        message = str(error)
        assert len(message.splitlines()) == 1, message
        assert 10 < len(message) < 2000, message
        return REFUSED


# Changes

NUMBERS = st.sampled_from(
    [0, 1, -1, 2, 40, 2**31, 2**53 + 1, 2**64, -(2**64), 10**400, 0.5, -0.5, 1e308, -1e308, 5e-324, float("inf"), float("nan")]
)
WORDS = st.sampled_from(["", "x", "nan", "1", "none", "a\nb", "\x00", "../../x", "é\u2028", "x" * 5000, "(", "1e999"])
LEAVES = NUMBERS | WORDS | st.none() | st.booleans()
DEEP = json.loads("[" * 60 + "]" * 60)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=6
)
VALUES = (VALUES | st.just(DEEP)).map(copy.deepcopy)  # they are changed again


@st.composite
def changed(draw: st.DrawFn, tree: Any) -> Any:
    """A copy of nested mappings and lists with one to three values replaced, removed or added."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        place = tree
        while True:
            if not isinstance(place, dict | list) or not place:
                return draw(VALUES)
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or not place[key] or draw(st.integers(0, 3)) == 0:
                break
            place = place[key]
        what = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add")))
        if what == "remove":
            del place[key]
        elif what == "add" and isinstance(place, dict):
            place[draw(WORDS)] = draw(VALUES)
        else:
            place[key] = draw(VALUES)
    return tree


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes with some of them changed, removed, repeated or cut off, or others altogether."""
    what = draw(st.sampled_from(("flip", "flip", "cut", "splice", "other")))
    at = st.integers(0, max(0, len(content) - 1))
    if what == "other" or not content:
        return draw(st.sampled_from([b"", b"\x00" * 100, b"\xff\xfe", b"[]", b"null", b"5", b'"x"', b"{}", b"[" * 100_000]))
    if what == "flip":
        out = bytearray(content)
        for place in draw(st.lists(at, min_size=1, max_size=4)):
            out[place] = draw(st.integers(0, 255))
        return bytes(out)
    first, last = sorted((draw(at), draw(at)))
    if what == "cut":
        return content[: draw(at)] if draw(st.booleans()) else content[:first] + content[last:]
    return (
        content[:last]
        + draw(st.sampled_from([content[first:last], b"\x00", b"\xff", b"\n", b"- ", b"{", b"1" * 5000]))
        + content[last:]
    )


# Configurations

CONFIG = {"seed": 1, "runs": "runs", "preset": "dreamer_v2_dmc", **read_yaml(CONFIG_FOLDER / "dreamer_v2_dmc.yaml")}
PLAIN = yaml.safe_dump(CONFIG, sort_keys=False)
BOMB = "b0: &b0 [x, x]\n" + "".join(f"b{i + 1}: &b{i + 1} [{', '.join([f'*b{i}'] * 9)}]\n" for i in range(12))
SNIPPETS = [
    "!!python/object/apply:os.system ['true']",
    "!!python/name:os.system",
    "!!int ''",
    "!!bool x",
    "!!timestamp x",
    "!!binary '*'",
    "!unknown x",
    "2001-99-99",
    "0001-01-01T00:00:00+23:59",
    "0x" + "f" * 6000,
    "1" * 6000,
    "1:" * 500 + "1",
    "&a [*a]",
    "*nothing",
    "{? [1]: 2}",
    "{1: 2, null: 3, 1.5: x}",
    "[" * 500 + "]" * 500,
    '"\\ud800"',
    '"(?\\n"',
    "'a{99999999999999}'",
    "'" + "(" * 5000 + "'",
    ".nan",
    "|\n  a\n  b",
    "\tx",
    "%x",
]


@st.composite
def config_texts(draw: st.DrawFn) -> bytes:
    """A config.yaml in which bytes, values or their text are others."""
    kind = draw(st.sampled_from(("bytes", "values", "values", "text", "text", "bomb")))
    if kind == "bytes":
        return draw(damaged(PLAIN.encode()))
    if kind == "values":
        return yaml.safe_dump(draw(changed(CONFIG)), default_flow_style=draw(st.booleans())).encode()
    lines = PLAIN.splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    if kind == "text":
        lines[at] = f"{lines[at].split(':')[0]}: {draw(st.sampled_from(SNIPPETS))}"
        return "\n".join([*lines, *draw(st.sampled_from([[], [lines[at]], ["1: 2"], ["? {}"]]))]).encode()
    merged = draw(st.sampled_from(["env: *b12", "<<: *b12", "seed: *b3", "model: {deter: *b12}"]))
    return f"{BOMB}{merged}\n{PLAIN}".encode()


@examples(800)
@hypothesis.given(content=config_texts())
def test_configurations(tmp_path_factory, content):
    run = tmp_path_factory.getbasetemp() / "config"
    run.mkdir(exist_ok=True)
    (run / "config.yaml").write_bytes(content)
    config = read_or_refused(open_run, run)
    if config is not REFUSED:  # what is accepted can be written, read again and shown
        write_yaml(config, run / "config.yaml")
        assert open_run(run) == config
        with contextlib.suppress(FileNotFoundError):
            (run / "metrics.jsonl").unlink()
        assert len(runs_table([summarise(read_run(run))]).encode().splitlines()) == 3
        make_panels([read_run(run)])


# Numbers of a run


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    ends = [(100 * i, float(i)) for i in range(1, 13)]
    return make_run(tmp_path_factory.mktemp("numbers") / "run", ends, 12.0, evals=[(600, 6.0)])


@pytest.fixture(scope="module")
def rows(folder) -> list[dict]:
    losses = {"loss/total": -1.5, "loss/reward": 0.5, "loss/decoder/x": None, "note": "x"}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [*rows, {**rows[-1], "kind": "train", **losses}]


def as_lines(rows: list) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def read_numbers(run: Path) -> list[dict]:
    """The rows, through all that reads them but for pictures."""
    rows = read_metrics(run / "metrics.jsonl")
    binned_returns(rows, 100, 1200)
    read = read_run(run)
    runs_table([summarise(read, threshold=5.0)])
    make_panels([read])
    truncate(run, 700)
    assert all(row["frames"] <= 700 for row in read_metrics(run / "metrics.jsonl"))
    return rows


@examples(600)
@hypothesis.given(data=st.data())
def test_metrics(folder, rows, data):
    lines = data.draw(st.one_of(st.lists(changed(rows[0]), max_size=3).map(lambda new: as_lines([*rows, *new, *rows[:1]])),
                                changed(rows).map(lambda new: as_lines(new if isinstance(new, list) else [new])),
                                damaged(as_lines(rows))))  # fmt: skip
    (folder / "metrics.jsonl").write_bytes(lines)
    read_or_refused(read_numbers, folder)


@examples(15)
@hypothesis.given(data=st.data())
def test_curves(folder, rows, data):
    """Numbers that a row may have, of every size, and one row with anything."""
    episode, evaluation, train = rows[0], rows[-2], rows[-1]
    sizes = st.none() | st.floats(-1e50, 1e50) | NUMBERS.filter(is_number)
    new = [{**row, data.draw(st.sampled_from(sorted(row.keys() - {"kind", *COUNTERS}))): data.draw(sizes)} for row in
           (episode, evaluation, train, train)]  # fmt: skip
    new += data.draw(st.lists(changed(train), max_size=1))
    (folder / "metrics.jsonl").write_bytes(as_lines([*rows, *new, rows[0]]))
    found = read_or_refused(read_metrics, folder / "metrics.jsonl")
    if found is not REFUSED:
        draw_curves(found, folder / "curves.png", "")


@examples(250)
@hypothesis.given(data=st.data())
def test_evaluations_and_environments(folder, rows, data):
    (folder / "metrics.jsonl").write_bytes(as_lines(rows))
    path = folder / data.draw(st.sampled_from(("evaluation.json", "environment.json")))
    content = path.read_bytes()
    new = data.draw(st.one_of(damaged(content), changed(json.loads(content)).map(lambda tree: json.dumps(tree).encode())))
    path.write_bytes(new)
    try:
        read_or_refused(read_numbers, folder)
        final_evaluation(folder, 100)
    finally:
        path.write_bytes(content)


# Checkpoints


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> Iterator[Training]:
    """A run of two environments, stopped between two updates with all in flight that there can be."""
    changes = {"replay__context": 1, "replay__online": True, "env__num_envs": 2, "eval__every": 20, "train__frames": 60}
    config = tiny_config(tmp_path_factory.mktemp("stopped"), **changes, precision="float32")
    with contextlib.ExitStack() as stack:
        envs = start._open_envs(stack, [config], [0])
        training = build_training([config], [create_run(config)], [None], envs, Callbacks([]), stack)
        with pytest.MonkeyPatch.context() as patch:
            stop_next_run(patch, STOPPED_AT)
            training.train()
        training.runs[0]._resume_from = STOPPED_AT
        yield training


@pytest.fixture(scope="module")
def stopped(training, tmp_path_factory) -> Path:
    """A copy of its folder; change it at will."""
    training.runs[0].checkpoints.wait()
    return Path(shutil.copytree(training.runs[0].folder, tmp_path_factory.mktemp("copied") / "run"))


def go_on(training: Training, host: Any) -> None:
    """Goes on from the checkpoint as `resume` does, with `host` as what its JSON holds, and takes batches and writes a row."""
    old = training.runs[0]
    config, replay = old.config.replay, old.replay
    sizes = (config.capacity, replay.num_envs, replay.sequence_length, replay.online, 0)
    fresh = Replay(training.envs.obs_specs, training.envs.action_spec, replay.latent, *sizes)
    checkpoints = old.checkpoints
    with mock.patch.object(checkpoints._manager, "restore", return_value={"host": host}), contextlib.ExitStack() as stack:
        run = SeedRun(old.config, old.folder, checkpoints, fresh, STOPPED_AT, Callbacks([]))
        run.open("cpu", stack)
        ratio = TrainRatio(config.train_ratio, config.batch_size, config.batch_length)
        ratio.previous = run.train_ratio
        ratio(run.counters.records)
        fresh.sample(20)
        run.write("episode", {"return": 1.0})


@pytest.fixture(scope="module")
def host(stopped) -> dict:
    return json.loads((stopped / "checkpoints" / str(STOPPED_AT) / "host" / "metadata").read_bytes())


def test_what_was_saved_is_gone_on_with(training, host):
    go_on(training, host)
    early = {name: value for name, value in host.items() if name not in ("format", "config")}
    go_on(training, early)  # as an early version wrote it


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"frames": STOPPED_AT + 2}, f"counters.frames is {STOPPED_AT + 2}, in the checkpoint of frame {STOPPED_AT}"),
        ({"decisions": 1}, f"counters.decisions is 1; {STOPPED_AT} frames / 1 was expected"),
        ({"records": 10}, "counters.records is 10, "),
        ({"policy_steps": 10}, "counters.policy_steps 10 and replay_end 20; "),
        ({"replay_end": 19}, "replay_end 19; the last two and records / 2 environments have to be the same"),
        ({"replay_queue": [[1, 11], [2, 0]]}, "replay_queue has [2, 0]; at most [1, 11] was expected"),
        ({"replay_queue": [[0, 12]]}, "replay_queue has [0, 12]; at most [1, 11] was expected"),
    ],
)
def test_counters_at_odds_are_named(training, host, changes, problem):
    counters = host["counters"] | {name: value for name, value in changes.items() if name in host["counters"]}
    others = {name: value for name, value in changes.items() if name in host}
    with pytest.raises(CheckpointError) as refused:
        go_on(training, {**host, **others, "counters": counters})
    assert "host is damaged: " in str(refused.value)
    assert problem in str(refused.value)


@examples(500)
@hypothesis.given(data=st.data())
def test_counters(training, host, data):
    part = data.draw(st.sampled_from(["counters", "counters", "replay_rng", "replay_queue", "recent_returns", "config", None]))
    values = data.draw(changed(host)) if part is None else {**host, part: data.draw(changed(host[part]))}
    read_or_refused(go_on, training, values)


Arrays = dict[Any, np.ndarray]  # by name, or by path


@pytest.fixture(scope="module")
def in_flight(stopped) -> Arrays:
    """What was in flight, by path."""
    saved = ocp.StandardCheckpointer().restore((stopped / "checkpoints" / str(STOPPED_AT) / "in_flight").absolute())
    arrays = traverse_util.flatten_dict(saved)
    assert {("learner", "metrics", "loss/total"), ("learner", "unwritten", "env"), ("carry", "latent", "deter")} <= set(arrays)
    return arrays


@st.composite
def changed_arrays(draw: st.DrawFn, arrays: Arrays, more: Sequence[Any]) -> Arrays:
    """Arrays of which one is missing, or has another shape, dtype or value; or with one more, from `more`."""
    arrays = dict(arrays)
    name = draw(st.sampled_from(sorted(arrays)))
    values = arrays[name]
    limit = np.inf if values.dtype.kind == "f" else np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1
    others = {
        "missing": None,
        "dtype": values.astype(draw(st.sampled_from(["f8", "f4", "f2", "i8", "u1", "?", "c16", "S3", "U2", "M8[s]", "V4"]))),
        "empty": np.zeros(draw(st.sampled_from([0, (0, 0), (), (1, 0)])), values.dtype),
        "more": np.concatenate([values, values]) if values.ndim else values[None],
        "less": values[1:] if values.ndim else values[None, None],
        "turned": values.T,
        "value": np.full(values.shape, draw(st.sampled_from([-1, 0, 1, 100]))).astype(values.dtype),
        "limit": np.full_like(values, limit),
    }
    what = draw(st.sampled_from(sorted(others)))
    arrays[name] = others[what]
    if what == "missing":
        del arrays[name]
    if draw(st.integers(0, 5)) == 0:
        arrays[draw(st.sampled_from(more))] = values
    return arrays


def begin_with(training: Training, arrays: Arrays) -> None:
    """Begins as `resume` does, with `arrays` as what was in flight, then updates, acts and steps."""
    training.learner._metrics, training.learner._last = None, None
    saved = {"in_flight": traverse_util.unflatten_dict(arrays)}
    with mock.patch.object(training.runs[0].checkpoints._manager, "restore", return_value=saved):
        training.step = begin(training.envs, training.acting, training.learner, training.collector)
    training.learner.update(1)
    training.learner.fetch_metrics()
    training.envs.step(training.acting.prev_action)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("carry/latent/deter", np.zeros((3, 16), np.float32), "deter' is float32[3, 16]; float32[2, 16] was expected"),
        ("prev_action", None, "'prev_action' is missing"),
        ("learner/metrics/x", np.zeros((), np.float32), "'learner/metrics/x' is unknown"),
        ("learner/summed", np.array(0), "summed is 0, which does not go with the"),
        ("learner/unwritten/env", np.full(2, 2), "unwritten latents are of other records"),
        ("episodes/seed", np.full(2, -1), "seeds, numbers or actions of the episodes are no such numbers"),
        ("episodes/recorded", np.array([0, 1]), "the episodes have [0, 1] actions, and there are"),
    ],
)
def test_what_is_in_flight_and_does_not_fit_is_named(training, in_flight, said, path, value, problem):
    """It is done without; what was saved is gone on with."""
    begin_with(training, in_flight)
    assert "new episodes" not in said()
    assert not training.step.is_first.any()
    changes = {**in_flight, tuple(path.split("/")): value}
    begin_with(training, {key: array for key, array in changes.items() if array is not None})
    place = training.runs[0].folder / "checkpoints" / str(STOPPED_AT) / "in_flight"
    output = said()
    assert f"{place} cannot be used: " in output
    assert problem in output
    assert training.step.is_first.all()


MORE_IN_FLIGHT = [("learner", "metrics", "x"), ("learner", "x"), ("episodes", "../x"), ("x",), ("",)]


@examples(160)
@hypothesis.given(data=st.data())
def test_what_is_in_flight(training, in_flight, data):
    read_or_refused(begin_with, training, data.draw(changed_arrays(in_flight, MORE_IN_FLIGHT)))


def as_npz(arrays: Arrays, path: Path) -> bytes:
    np.savez(path, **arrays)
    return path.read_bytes()


@examples(150)
@hypothesis.given(data=st.data())
def test_latents_of_the_replay(training, stopped, tmp_path_factory, data):
    """They are read, or refused in one line, and then the replay has those that it had."""
    run, scratch = training.runs[0], tmp_path_factory.getbasetemp() / "scratch.npz"
    path = run.folder / "replay" / f"latents-{STOPPED_AT}.npz"
    content = (stopped / "replay" / path.name).read_bytes()
    with np.load(stopped / "replay" / path.name) as file:
        changes = changed_arrays(dict(file), ["latent/x", "../x", ""])
    path.write_bytes(data.draw(st.one_of(changes.map(lambda arrays: as_npz(arrays, scratch)), damaged(content))))
    before = {name: values.copy() for name, values in run.replay.latents().items()}
    refusal = None
    try:
        ReplayStore(run.folder).restore_latents(run.replay, STOPPED_AT)
    except ValueError as error:
        refusal = str(error)
    finally:
        path.write_bytes(content)
    if refusal is not None:
        assert len(refusal.splitlines()) == 1
        for name, values in run.replay.latents().items():
            np.testing.assert_array_equal(values, before[name])


@examples(200)
@hypothesis.given(data=st.data())
def test_segments_of_the_replay(training, host, tmp_path_factory, data):
    old, scratch = training.runs[0], tmp_path_factory.getbasetemp() / "scratch.npz"
    path = data.draw(st.sampled_from(sorted((old.folder / "replay").glob("0*.npz"))))
    content = path.read_bytes()
    with np.load(path) as file:
        kinds = changed_arrays(dict(file), ["x", "../x", ""]).map(lambda arrays: as_npz(arrays, scratch)), damaged(content)
    name = path.with_name(data.draw(st.sampled_from([path.name] * 4 + ["5-3.npz", "0-99.npz", f"0-{10**30}.npz", "0-1.npz"])))
    new = data.draw(st.one_of(*kinds))
    path.unlink()
    name.write_bytes(new)
    try:
        read_or_refused(go_on, training, host)
    finally:
        name.unlink(missing_ok=True)
        path.write_bytes(content)


@pytest.fixture(scope="module")
def agent(training):
    return jax.eval_shape(partial(init_agent, training.learner._nets, training.runs[0].config), jax.random.key(0))


def restore(run: Path, agent: Any, frames: int) -> None:
    """Through Orbax: opens the checkpoints and reads one of them."""
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        checkpoints.resolve("best")
        checkpoints.restore_host(frames)
        checkpoints.restore_agent(frames, agent)


@examples(130)
@hypothesis.given(data=st.data())
def test_files_of_orbax(stopped, agent, data):
    """20 has a score and STOPPED_AT has none."""
    frames = data.draw(st.sampled_from([20, STOPPED_AT]))
    files = [path for path in (stopped / "checkpoints" / str(frames)).rglob("*") if path.is_file()]
    small = [path for path in files if path.suffix != ".txt" and path.parent.name != "d"]
    path = data.draw(st.sampled_from(sorted(files)) | st.sampled_from(sorted(small)))
    content = path.read_bytes()
    kinds = [damaged(content)]
    with contextlib.suppress(ValueError):
        kinds += [changed(json.loads(content)).map(lambda tree: json.dumps(tree).encode())] * 2
    path.write_bytes(data.draw(st.one_of(*kinds)))
    try:
        read_or_refused(restore, stopped, agent, frames)
    finally:
        path.write_bytes(content)
