"""What a run says before it starts. Imports no JAX."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from dreamer_jax.core.config import Config
from dreamer_jax.core.extensions import DOORS
from dreamer_jax.core.memory import MIB, available_memory
from dreamer_jax.core.spaces import ActionSpec, LatentSpec, ObsSpec, ObsSpecs
from dreamer_jax.core.text import aligned_table
from dreamer_jax.replay.buffer import predict_bytes
from dreamer_jax.runs.folder import versions

IMAGE_LIKE = 32  # rows and columns from which on a matrix may be an image without its axis of channels


def predicted_updates(config: Config) -> int:
    """Updates in the frame budget: records x train ratio / (B x T), less the warm-up. Resets are not counted."""
    replay, env = config.replay, config.env
    decisions = config.train.frames // env.action_repeat
    # The warm-up lasts until every ring offers its share of the start positions.
    warmup = min(decisions, replay.min_items + env.num_envs * (replay.batch_length + replay.context - 1))
    return int((decisions - warmup) * replay.train_ratio / (replay.batch_size * replay.batch_length)) + 1


def describe_run(
    config: Config,
    seeds: Sequence[int],
    runs: Sequence[Path],
    device: str,
    obs_specs: ObsSpecs,
    action_spec: ActionSpec,
    key_layers: dict[str, tuple[str, str]],
    latent: LatentSpec | None,
    params: dict[str, int],
) -> str:
    """The lines printed at the start: device, versions, task, sizes, parameters, budget, replay memory, run folders.

    `runs` has a folder for each of `seeds`, or none for a dry run; `obs_specs` are the environment's; `key_layers` has the
    encoder's and decoder's layers for each key that is used.
    """
    found = versions()
    model, replay = config.model, config.replay
    action = f"{action_spec.size} choices" if action_spec.discrete else f"{action_spec.size} continuous"
    record = predict_bytes({name: obs_specs[name] for name in key_layers}, action_spec, latent, 1)
    memory = record * replay.capacity
    used = record * min(replay.capacity, config.train.frames // config.env.action_repeat)
    latents = f"{model.stoch}x{model.classes}" if model.latent == "categorical" else f"{model.stoch} ({model.latent})"
    together = f" for each of {len(seeds)} seeds" if len(seeds) > 1 else ""
    rows = {
        "preset": f"{config.preset}, {name_seeds(seeds)}",
        "task": f"{config.env.task}, {action}",
        "observations": _key_table(obs_specs, key_layers),
        "environments": f"{config.env.num_envs}{together}, action repeat {config.env.action_repeat}",
        "device": f"{device}, precision {config.precision}",
        "versions": ", ".join(f"{name} {found[name]}" for name in ("python", "jax", "flax", "gymnasium")),
        "model": f"size {model.size}: deter {model.deter} ({model.core}), latents {latents}, units {model.units}",
        "parameters": f"{sum(params.values()):,} ({', '.join(f'{name} {count:,}' for name, count in sorted(params.items()))})",
        **_extensions(config),
        "batch": f"{replay.batch_size} x {replay.batch_length}, train ratio {replay.train_ratio:g}",
        "budget": f"{config.train.frames:,} frames = {config.train.frames // config.env.action_repeat:,} decisions, "
        f"about {predicted_updates(config):,} updates{together}",
        "replay": f"{replay.capacity:,} steps, {memory / MIB:,.1f} MiB when full, {used / MIB:,.1f} MiB with this budget"
        f"{together}, {'on' if replay.storage == 'disk' else 'in'} {replay.storage}",
        **_warning(config, record, latent.bytes if latent else 0, len(seeds), runs),
        "run folder": "\n".join(map(str, runs)) or "none: a dry run",
    }
    lines = ((name if i == 0 else "", line) for name, text in rows.items() for i, line in enumerate(text.splitlines()))
    return aligned_table(list(lines))


def _extensions(config: Config) -> dict[str, str]:
    """What the run uses of the modules that it imports; nothing where it imports none."""
    if not config.imports:
        return {}
    names = [name for name in config.chosen() if name not in DOORS["representation"].built_in]
    family = config.env.task.partition(":")[0]
    used = [*names, *([family] if DOORS["family"].from_outside(family) else [])]
    return {"extensions": f"{', '.join(used) or 'none is used'} (imports {', '.join(config.imports)})"}


def _warning(config: Config, record: int, latent: int, seeds: int, runs: Sequence[Path]) -> dict[str, str]:
    """What will not fit: the replay with this budget into memory, or the run folders on their disk.

    `record` and `latent`: bytes of a record, and of the latent in it.
    """
    on_disk, capacity, lines = config.replay.storage == "disk", config.replay.capacity, []
    budget = config.train.frames // config.env.action_repeat
    used = record * min(capacity, budget)
    if not on_disk and seeds * used > (free := available_memory()):
        lines.append(
            f"the replay will take {seeds * used / MIB:,.0f} MiB of memory, and {free / MIB:,.0f} are available: "
            "set replay.storage to disk, or lower replay.capacity"
        )
    # Checkpoints hold records in files of their own, the best one another ring than the newest, and latents in two moments.
    saved = record * min(budget, capacity * (2 if config.eval.every else 1)) + 2 * latent * min(budget, capacity)
    needed = seeds * (saved + (record * capacity if on_disk else 0)) - sum(_held(run) for run in runs)
    if runs and on_disk:  # taken already
        needed -= seeds * record * capacity
    place = runs[0].parent if runs else Path(config.runs)
    free = shutil.disk_usage(_existing(place)).free
    if needed > free:
        lines.append(
            f"the replay will take {needed / MIB:,.0f} MiB on disk, and {free / MIB:,.0f} are free in {place}: "
            "lower replay.capacity, or choose another folder with --runs"
        )
    return {"WARNING": "\n".join(lines)} if lines else {}


def _held(run: Path) -> int:
    """Bytes that a run's records and moments take on disk."""
    return sum(path.stat().st_size for part in ("replay", "moments") for path in (run / part).glob("*"))


def _existing(folder: Path) -> Path:
    """The folder, or the first one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def name_seeds(seeds: Sequence[int]) -> str:
    """ "seed 3" or "seeds 3, 4, 5"."""
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"


def _key_table(obs_specs: ObsSpecs, key_layers: dict[str, tuple[str, str]]) -> str:
    """What goes where: a line for each observation key with its kind, shape and layers."""
    cells = [("key", "what it is", "encoder", "decoder")]
    for name, spec in sorted(obs_specs.items()):
        shape = f"{spec.classes} choices" if spec.kind == "discrete" else " x ".join(map(str, spec.shape)) or "1"
        cells.append((name, f"{spec.kind} {shape}{_remark(spec)}", *key_layers.get(name, ("-", "-"))))
    return aligned_table(cells)


def _remark(spec: ObsSpec) -> str:
    """The values of an image where they are not the usual ones; and what looks like an image, but is taken as numbers."""
    if spec.kind == "vector" and len(spec.shape) == 2 and min(spec.shape) >= IMAGE_LIKE:
        return f" (an image would be {spec.shape[0]} x {spec.shape[1]} x 1, uint8)"
    if spec.high == 255:
        return ""
    return f", values 0 to {spec.high if isinstance(spec.high, int) else ' | '.join(map(str, spec.high))}"
