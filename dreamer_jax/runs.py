"""The folder of a run: its name, what stands in it, and the checks before it is used. Imports no JAX."""

import contextlib
import fcntl
import json
import os
import platform
import re
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_jax.core.config import Config, parse_config, read_yaml, write_yaml
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.text import brief, shown
from dreamer_jax.metrics import COUNTERS, is_counter, is_number

PACKAGES = ("jax", "jaxlib", "flax", "optax", "distrax", "orbax-checkpoint", "gymnasium", "dm_control", "mujoco", "numpy")
POLICIES = ("deterministic", "sampled")
RESULTS = ("return_mean", "return_std", "return_min", "return_max", "episodes")
UNUSABLE_CHECKPOINT = 3  # exit status of a script that ends with a CheckpointError


def create_run(config: Config) -> Path:
    """Makes `runs/<task>/<preset>-<seed>-<time>/` with its `config.yaml`.

    Raises:
      ConfigError: the folder exists, or cannot be written.
    """
    stamp = time.strftime("%Y%m%dT%H%M%S")
    run = Path(config.runs) / _folder_name(config.env.task) / f"{_folder_name(config.preset)}-{config.seed}-{stamp}"
    try:
        run.mkdir(parents=True, exist_ok=False)
        write_yaml(config, run / "config.yaml")
    except FileExistsError:
        raise ConfigError(f"run folder {run} exists; start again in a second, or choose another --runs folder") from None
    except (OSError, ValueError) as error:  # a ValueError for the name: a NUL in it
        raise ConfigError(
            f"run folder {shown(str(run))} cannot be written ({brief(error)}); choose another with --runs"
        ) from None
    return run


def _folder_name(text: str) -> str:
    """`text` as the name of one folder: no separators, and not "." or ".."."""
    name = re.sub(r"[:/\\\x00]", "_", text)
    return name if name.strip(".") else "_"


def open_run(run: Path) -> Config:
    """Reads the configuration of an existing run.

    Raises:
      ConfigError: not a run folder, or a configuration that cannot be read.
    """
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run} is not a run: it has no config.yaml. Give the folder that train.py printed")
    return parse_config(read_yaml(run / "config.yaml"), source=str(run / "config.yaml"))


def lock_run(run: Path, stack: contextlib.ExitStack) -> None:
    """Keeps other processes from training in a run's folder until `stack` closes or this process ends, however it does.

    The lock belongs to the open file `RUN/lock`, not to its being there. Where a file system has no locks, none is kept.

    Raises:
      ConfigError: another process has it; the message says which.
    """
    file = stack.enter_context((run / "lock").open("a+"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise ConfigError(f"{run} is being trained by {holder}; wait until it ends, or stop it") from None
    except OSError as error:
        print(f"{run} cannot be locked ({error.strerror}): see to it that one process alone trains there", flush=True)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}\n")
    file.flush()


def make_folder(folder: Path) -> None:
    """Makes a folder for results, which may exist.

    Raises:
      ConfigError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {folder} cannot be made: {error.strerror}; choose another folder") from None
    check_writable(folder)


def check_writable(run: Path) -> None:
    """Raises ConfigError when nothing can be written into `run`."""
    probe = run / ".write_test"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"run folder {run} cannot be written ({error.strerror}); check its permissions") from None


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
    """The commit of the project's checkout, "unknown" outside one. Read from its files: a child process would fork JAX."""
    git = Path(__file__).resolve().parent.parent / ".git"
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
      ConfigError: it is damaged.
    """
    path = run / "evaluation.json"
    evaluation = read_json(path)
    if evaluation is None:
        return None
    results = [evaluation.get(policy) for policy in POLICIES]
    whole = all(isinstance(of, dict) and all(is_number(of.get(name)) for name in RESULTS) for of in results)
    if not whole or not all(is_counter(name, evaluation.get(name)) for name in COUNTERS):
        raise ConfigError(f"{path} lacks a counter or a result; evaluate again with train.py --resume")
    return evaluation


def read_environment(run: Path) -> dict[str, Any]:
    """Where a run happened, from `environment.json` (see `describe_environment`); empty where there is none.

    Raises:
      ConfigError: it is damaged.
    """
    path = run / "environment.json"
    environment = read_json(path) or {}
    found = environment.get("versions", {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ConfigError(f"{path} is damaged: versions is not a mapping of names to texts")
    for name in ("device", "machine", "cores", "git_commit"):
        if not isinstance(value := environment.get(name), str | int | None):
            raise ConfigError(f"{path} is damaged: {name} is {shown(value)}")
    return environment


def read_json(path: Path) -> dict[str, Any] | None:
    """The mapping in a JSON file; None if there is no file.

    Raises:
      ConfigError: it cannot be read, or holds something else.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {brief(error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}; a mapping was expected")
    return content


def write_json(path: Path, content: Any) -> None:
    """Writes JSON through a temporary file, so that a reader never sees half of it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads what `write_arrays` wrote. Pickled objects are not loaded: that would run code of theirs.

    Raises:
      ValueError: the file cannot be read; one line says why.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return as_arrays(file, file.files)
    except Exception as error:  # zipfile, zlib, struct and NumPy have their own ways to fail on damaged bytes
        raise ValueError(brief(error)) from None


def as_arrays(file: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Some of an archive's arrays; ValueError for what is none."""
    arrays = {name: file[name] for name in names}
    for name, values in arrays.items():
        if not isinstance(values, np.ndarray):
            raise ValueError(f"{shown(name)} is no array")
    return arrays


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an `.npz` through a temporary file; bfloat16, which NumPy does not know, as its bits."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        plain = {name: values.view(np.uint16) if values.dtype.kind == "V" else values for name, values in arrays.items()}
        np.savez(file, **plain)  # pyright: ignore[reportArgumentType]
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
