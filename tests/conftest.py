"""What several test files share: quick compilation, and one tiny finished run."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from counting import tiny_config


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for compiled programs that lasts as long as the session."""
    return tmp_path_factory.mktemp("compiled")


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
    # Of the update, which has options of its own: in a third of the time, to code that takes no longer on arrays so small.
    options = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    patch = pytest.MonkeyPatch()
    try:
        for name, value in quick.items():
            jax.config.update(name, value)
        patch.setattr("dreamer_jax.train_step.compiler_options", lambda: options)
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
