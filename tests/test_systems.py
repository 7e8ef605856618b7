"""Systems without what only POSIX has: the package can be imported there, and a folder is used without a lock."""

import subprocess
import sys

SCRIPT = """
import signal, sys
from pathlib import Path

import jax, matplotlib, orbax.checkpoint, psutil, tqdm  # whose own affair it is what they import
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
del signal.SIGUSR1

import dreamer_jax
from dreamer_jax.core.files import locked, write_text

dreamer_jax.load_config("cartpole")
import dreamer_jax.cli.train, dreamer_jax.training.start, dreamer_jax.play.evaluate, dreamer_jax.profiling.parts
import dreamer_jax.report.summary, dreamer_jax.benchmark.runner, dreamer_jax.cli.main
from dreamer_jax.training.stop import Stop

with Stop() as stop, locked(Path(sys.argv[1]) / "lock"):
    write_text(Path(sys.argv[1]) / "text", "whole")
print(Path(sys.argv[1], "text").read_text())
"""


def test_nothing_that_only_posix_has_is_needed_to_import(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "whole\n"
    assert "cannot be locked (Function not implemented): see to it that one process alone works there" in done.stderr
