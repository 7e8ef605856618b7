"""What several test files share: quick compilation, and one tiny finished run."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helpers
import jax
import pytest
from counting import tiny_config

from dreamer_jax.evaluation import compile_play
from dreamer_jax.policy import compile_policy
from dreamer_jax.train_step import compile_train_step


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for compiled programs that lasts as long as the session."""
    return tmp_path_factory.mktemp("compiled")


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


_ONCE = {
    "dreamer_jax.learner.compile_train_step": _once(compile_train_step),
    "dreamer_jax.training.compile_policy": _once(compile_policy),
    "dreamer_jax.evaluation.compile_play": _once(compile_play),
}


@contextlib.contextmanager
def _quick_compilation(cache: Path) -> Iterator[None]:
    """Compiles every program once a session and hardly optimises it: these runs are tiny and compile for most of their time."""
    quick = {
        "jax_compilation_cache_dir": str(cache),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_disable_most_optimizations": True,
    }
    before = {name: jax.config.values[name] for name in quick}
    patch = pytest.MonkeyPatch()
    try:
        for name, value in quick.items():
            jax.config.update(name, value)
        patch.setattr("dreamer_jax.train_step.compiler_options", lambda: helpers.QUICK)
        for place, program in _ONCE.items():
            patch.setattr(place, program)
        yield
    finally:
        patch.undo()
        for name, value in before.items():
            jax.config.update(name, value)


@pytest.fixture(scope="module")
def quick_compilation(compilation_cache: Path) -> Iterator[None]:
    """For modules that train tiny agents: `pytestmark = pytest.mark.usefixtures("quick_compilation")`."""
    with _quick_compilation(compilation_cache):
        yield


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, compilation_cache: Path) -> Path:
    """A run of 200 frames in episodes of five, with everything that a run leaves behind. Copy it before changing it."""
    from dreamer_jax import loop

    with _quick_compilation(compilation_cache):
        runs = tmp_path_factory.mktemp("finished")
        changes = {"train__frames": 200, "train__eval_every": 80, "train__tensorboard": True, "train__video": True}
        return loop.train(tiny_config(runs, **changes))
