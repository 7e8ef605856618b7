"""What all tests share: quick compilation, and one tiny finished run.

Agents in tests are tiny, and compiling takes most of their time. So programs are hardly optimised, here and in the scripts that
tests start, and compiled once for all of them. `XLA_FLAGS= python -m pytest` compiles them as users have them.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Before JAX is there; for workers and scripts as well.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="dreamer_jax_compiled_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.01"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import pytest
from counting import tiny_config


def _update_options() -> dict[str, Any]:
    """For the update, the largest program: without emitters that take most of the time, where XLA can do without them.

    Elsewhere they stay: the same function rounds differently with and without them.
    """
    quick = "xla_backend_optimization_level=0" in os.environ["XLA_FLAGS"]
    older = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 12)
    return {"xla_cpu_use_fusion_emitters": False} if quick and older else {}


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
    from dreamer_jax.evaluation import compile_play
    from dreamer_jax.policy import compile_policy
    from dreamer_jax.train_step import compile_train_step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dreamer_jax.train_step.compiler_options", _update_options)
        patch.setattr("dreamer_jax.learner.compile_train_step", _once(compile_train_step))
        patch.setattr("dreamer_jax.training.compile_policy", _once(compile_policy))
        patch.setattr("dreamer_jax.evaluation.compile_play", _once(compile_play))
        yield


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 200 frames in episodes of five, with everything that a run leaves behind. Copy it before changing it."""
    from dreamer_jax import loop

    runs = tmp_path_factory.mktemp("finished")
    changes = {"train__frames": 200, "train__eval_every": 80, "train__tensorboard": True, "train__video": True}
    return loop.train(tiny_config(runs, **changes))
