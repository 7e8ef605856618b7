"""The folder of a run: its name, what stands in it, and the checks before it is used. Imports no JAX."""

import logging
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError, RunError, StorageError
from dreamer_jax.core.extensions import import_extensions, imported_extensions
from dreamer_jax.core.files import read_json, write_json
from dreamer_jax.core.presets import check_chosen, read_config, write_yaml
from dreamer_jax.core.text import brief, plus_minus, safe_name, shown
from dreamer_jax.runs.metrics import COUNTERS, is_counter, is_number

logger = logging.getLogger(__name__)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "distrax", "orbax-checkpoint", "gymnasium", "dm_control", "mujoco", "numpy")
SPACES = "spaces.json"  # read by `spaces_file`
POLICIES = ("deterministic", "sampled")
RESULTS = ("return_mean", "return_std", "return_min", "return_max", "episodes")


def create_run(config: Config, spaces: Mapping[str, Any] | None = None) -> Path:
    """Makes `runs/<task>/<preset>-<seed>-<time>/` with its `config.yaml` and `spaces.json`.

    Of runs that start in the same second, as a scheduler starts jobs, each has a folder: those after the first end in "-2" ...

    Args:
      spaces: what `EnvSpaces.as_json` says of the environment. None: there is no `spaces.json`, and whoever loads the agent
        makes the environment to know them.

    Raises:
      StorageError, ConfigError: it cannot be written, or not under this name.
    """
    stamp = time.strftime("%Y%m%dT%H%M%S")
    name = f"{safe_name(config.preset)}-{config.seed}-{stamp}"
    run = Path(config.runs) / safe_name(config.env.task) / name
    try:
        for number in count(2):
            try:
                run.mkdir(parents=True, exist_ok=False)
                break
            except FileExistsError:
                if not run.is_dir():  # a file is in the way: of it, or of a folder above it
                    raise
                run = run.with_name(f"{name}-{number}")
        write_yaml(config, run / "config.yaml")
        if spaces is not None:
            write_json(run / SPACES, spaces)
    except OSError as error:
        raise StorageError(
            f"run folder {shown(str(run))} cannot be written ({brief(error)}); choose another with --runs"
        ) from None
    except ValueError as error:  # a NUL in the name
        raise ConfigError(f"run folder {shown(str(run))} cannot be made ({brief(error)}); choose another with --runs") from None
    return run


def open_run(run: Path) -> Config:
    """Reads the configuration of an existing run.

    Raises:
      RunError: not a run folder.
      ConfigError: a configuration that cannot be read.
    """
    if not (run / "config.yaml").is_file():
        raise RunError(f"{run} is not a run: it has no config.yaml. Give the folder that `dreamer train` printed")
    return read_config(run / "config.yaml")


def open_run_with_imports(run: Path) -> Config:
    """As `open_run`, after importing the modules that the run imports: its extensions can be used then.

    Modules that are not imported yet are named by a message first.

    Raises:
      RunError: not a run folder.
      ConfigError: a configuration that cannot be read, or a module that cannot be imported.
    """
    config = open_run(run)
    if config.imports:
        if new := [name for name in config.imports if name not in imported_extensions()]:
            logger.info("%s imports %s", run, ", ".join(new))
        import_extensions(config.imports)
        config = open_run(run)  # now its sections have their types
    check_chosen(config)
    return config


def versions() -> dict[str, str]:
    """Installed versions of what determines a run's numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit() -> str:
    """The commit of the project's checkout, "unknown" outside one. Read from its files: a child process would fork JAX.

    It does not tell whether the checkout was changed after that commit: only git itself can compare them.
    """
    git = Path(__file__).resolve().parents[2] / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        reference = head.removeprefix("ref: ")
        if (git / reference).is_file():
            return (git / reference).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {reference}")), "unknown")
    except OSError:
        return "unknown"


def describe_environment(device: str) -> dict[str, Any]:
    """Where a run happens: versions, device, machine and git commit."""
    return {
        "versions": versions(),
        "device": device,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "git_commit": git_commit(),
    }


def read_evaluation(run: Path) -> dict[str, Any] | None:
    """The evaluation at the end of a run, from `evaluation.json`; None for a run that is not finished.

    Raises:
      RunError: it is damaged.
    """
    path = run / "evaluation.json"
    evaluation = read_json(path)
    if evaluation is None:
        return None
    results = [evaluation.get(policy) for policy in POLICIES]
    whole = all(isinstance(of, dict) and all(is_number(of.get(name)) for name in RESULTS) for of in results)
    if not whole or not all(is_counter(name, evaluation.get(name)) for name in COUNTERS):
        raise RunError(f"{path} lacks a counter or a result; evaluate again with `dreamer train --resume`")
    return evaluation


def over_episodes(result: Mapping[str, Any]) -> str:
    """An evaluation's mean return ± the standard deviation over its episodes, of this population."""
    return plus_minus(result["return_mean"], result["return_std"])


def read_environment(run: Path) -> dict[str, Any]:
    """Where a run happened, from `environment.json` (see `describe_environment`); empty where there is none.

    Raises:
      RunError: it is damaged.
    """
    path = run / "environment.json"
    environment = read_json(path) or {}
    found = environment.get("versions", {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise RunError(f"{path} is damaged: versions is not a mapping of names to texts")
    for name in ("device", "machine", "cores", "git_commit"):
        if not isinstance(value := environment.get(name), str | int | None):
            raise RunError(f"{path} is damaged: {name} is {shown(value)}")
    return environment
