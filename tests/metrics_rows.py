"""Metrics rows made by hand, and files of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dreamer_jax.runs.metrics import FILE_NAME, MetricsLog


def make_row(frames: int, kind: str = "train", **values: Any) -> dict[str, Any]:
    """A row with an update every other frame and 8 frames a second."""
    return {"kind": kind, "frames": frames, "decisions": frames, "updates": frames // 2, "wall_seconds": frames / 8, **values}


def write_rows(folder: Path, rows: Iterable[dict[str, Any]], resume: bool = False) -> Path:
    """Writes rows as a run does -> their file."""
    log = MetricsLog(folder, resume)
    for row in rows:
        log.write(row)
    log.close()
    return folder / FILE_NAME
