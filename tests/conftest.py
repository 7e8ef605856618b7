"""What all tests share: quick compilation, and one tiny finished run.

Agents in tests are tiny, and compiling takes most of their time. So programs are hardly optimised, here and in the scripts that
tests start, and compiled once for all of them. `XLA_FLAGS= python -m pytest` compiles them as users have them.
"""

import atexit
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before JAX is there; for workers and scripts as well.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1",
)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="dreamer_jax_compiled_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.01"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import helpers
import jax
import pytest
from counting import tiny_config

from dreamer_jax.core import extensions


def _once(compile_: Callable[..., Any]) -> Callable[..., Any]:
    """`compile_`(networks, settings, ...), a pure function's program, for runs that differ in nothing that goes into it."""
    programs: dict[Any, Any] = {}

    def cached(nets: Any, config: Any, *rest: Any, **options: Any) -> Any:
        settings = config.model_dump_json(exclude={"preset", "seed", "runs", "env", "replay", "train"})
        key = repr(nets), settings, rest, tuple(options.items())
        if key not in programs:
            programs[key] = compile_(nets, config, *rest, **options)
        return programs[key]

    return cached


@pytest.fixture(scope="session", autouse=True)
def _quick_programs() -> Iterator[None]:
    """Runs in one process that differ in nothing that is compiled share it, and need not trace it again."""
    from dreamer_jax.agent.policy import compile_policy
    from dreamer_jax.agent.train_step import compile_init, compile_train_step

    with pytest.MonkeyPatch.context() as patch:
        if helpers.WITHOUT_EMITTERS:
            for module in ("agent.train_step", "play.dreams"):
                patch.setattr(f"dreamer_jax.{module}.compiler_options", lambda layout, once=False: helpers.WITHOUT_EMITTERS)
            jax.block_until_ready(jax.numpy.zeros(()))  # XLA has read its flags: from here on they are for scripts alone
            patch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} --xla_cpu_use_fusion_emitters=false")
        patch.setattr("dreamer_jax.training.learner.compile_train_step", _once(compile_train_step))
        patch.setattr("dreamer_jax.training.build.compile_init", _once(compile_init))
        patch.setattr("dreamer_jax.training.acting.compile_policy", _once(compile_policy))
        patch.setattr("dreamer_jax.play.policy.compile_policy", _once(compile_policy))
        yield


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 200 frames in episodes of five, with everything that a run leaves behind. Copy it before changing it."""
    from dreamer_jax.training import start

    runs = tmp_path_factory.mktemp("finished")
    changes = {"train__frames": 200, "eval__every": 80, "train__tensorboard": True, "eval__video": True}
    return start.train(tiny_config(runs, **changes))


@pytest.fixture(autouse=True)
def _doors_are_closed_again() -> Iterator[None]:
    """What a test imports or registers from outside is forgotten after it."""
    before = {name: dict(door._classes) for name, door in extensions.DOORS.items()}
    imported = list(extensions._imported)
    yield
    for name, door in extensions.DOORS.items():
        for outside in door.outside_names():
            del door._classes[outside]
        door._classes.update(before[name])
    extensions._imported[:] = imported


@pytest.fixture
def without_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates that only count themselves, and evaluations that are not played: for the accounting around them."""

    def count(nets: Any, config: Any, seeds: int) -> Callable[..., Any]:
        metrics = {"loss/total": jax.numpy.zeros(seeds), "refused": jax.numpy.zeros(seeds)}
        return lambda state, batch: (dataclasses.replace(state, step=state.step + 1), metrics, None)

    result = dict.fromkeys(("return_mean", "return_std", "return_min", "return_max", "length_mean"), 0.0) | {"episodes": 1}
    monkeypatch.setattr("dreamer_jax.training.learner.compile_train_step", count)
    monkeypatch.setattr("dreamer_jax.training.seed_run.evaluate", lambda policy, env, episodes, seed, first_seed: dict(result))


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """said(): the lines that the library has logged so far, as a command prints them."""
    caplog.set_level("INFO", "dreamer_jax")
    return lambda: "".join(f"{record.getMessage()}\n" for record in caplog.records)
