"""How a run stands, for schedulers and scripts: `RUN/status.json`. Imports no JAX.

    {"status": "stopped", "reason": "SIGUSR1", "frames": 5120, "resume": "dreamer train --resume RUN", "time": "..."}

It is written when a training starts, with each checkpoint and at its end. The file of a run that was killed still says
"running".
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from dreamer_jax.core.errors import RunError
from dreamer_jax.core.files import read_json, write_json
from dreamer_jax.core.text import shown

FILE = "status.json"
Status = Literal["running", "stopped", "finished", "failed"]


def write_status(folder: Path, status: Status, reason: str, frames: int, resume: str) -> None:
    """Writes how a run stands; the file is whole at any moment.

    Args:
      reason: what ended the run: a signal's name, "frames", "minutes" or "target_return", or one line of an error; empty while
        it is running.
      frames: simulator steps so far.
      resume: the command that goes on with the run.

    Raises:
      OSError: it cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"status": status, "reason": reason, "frames": frames, "resume": resume, "time": now}
    write_json(folder / FILE, content)


def read_status(folder: Path) -> dict[str, str | int]:
    """What `write_status` wrote; empty for a run of before there were such files.

    Raises:
      RunError: it is damaged.
    """
    content = read_json(folder / FILE) or {}
    for name in ("status", "reason", "resume", "time") if content else ():
        if not isinstance(content.get(name), str):
            raise RunError(f"{folder / FILE} is damaged: {name} is {shown(content.get(name))}")
    return content
