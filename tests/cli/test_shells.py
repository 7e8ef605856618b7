"""What a shell, a scheduler or a container may do to a process: settings of JAX, closed streams, encodings, no home."""

import os
import subprocess
import sys

import pytest
from counting import TINY

# The first of them is the device.
OPTIONS = [f"--{name}={value}" for name, value in {**TINY, "env.task": "import:counting:five", "train.frames": 40}.items()]
CLOSE = "import os, sys; os.close(int(sys.argv[1])); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
NO_HOME = """
import os, pwd

def unknown(number):
    raise KeyError(number)

pwd.getpwuid = unknown  # as for the number of a user that the system does not know
from dreamer_jax.cli.main import main
main()
"""


def environment(**changes: str | None) -> dict[str, str]:
    values = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **changes}
    return {name: value for name, value in values.items() if value is not None}


def run(command: list[str], cwd, **changes: str | None) -> subprocess.CompletedProcess:
    options = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "check": False}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=environment(**changes), **options)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            {"JAX_PLATFORMS": "tpu,nonsense"},
            "JAX_PLATFORMS=tpu,nonsense allows nothing else; unset it, or try JAX_PLATFORMS=cpu",
        ),
        ({"JAX_PLATFORMS": "nonsense"}, "JAX_PLATFORMS=nonsense allows nothing else; unset it, or try JAX_PLATFORMS=cpu"),
        ({"JAX_ENABLE_X64": "1"}, "unset JAX_ENABLE_X64"),
    ],
)
def test_settings_that_jax_cannot_work_with_are_named_in_one_line(tmp_path, setting, words):
    done = run(["-m", "dreamer_jax", "train", *OPTIONS[1:]], tmp_path, **setting)
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith(("WARNING", "W1", "INFO"))]
    assert done.returncode == 2
    assert line.startswith("error: JAX ")
    assert words in line
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.parametrize("stream", [1, 2])
def test_a_closed_stream_ends_no_training(tmp_path, stream):
    done = run(["-c", CLOSE, str(stream), "-m", "dreamer_jax", "train", *OPTIONS, "--runs=runs"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/*/*/evaluation.json"))) == 1


def test_a_terminal_without_a_letter_shows_an_escape(tmp_path):
    """The folder's name has letters that the encodings do not know."""
    folder = tmp_path / "Läufe ☃"
    folder.mkdir()
    done = run(["-m", "dreamer_jax", "train", *OPTIONS, f"--runs={folder}"], tmp_path, PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert "Run folder: " in done.stdout
    assert r"\u2603" in done.stdout
    shown = run(["-m", "dreamer_jax", "report", str(folder)], tmp_path, PYTHONIOENCODING="ascii")
    assert shown.returncode == 0, shown.stderr
    assert (folder / "import_counting_five").is_dir()


def test_a_user_without_a_home_trains_and_is_told_what_is_not_kept(tmp_path):
    changes = {"HOME": None, "XDG_CACHE_HOME": None, "JAX_COMPILATION_CACHE_DIR": None}
    done = run(["-c", NO_HOME, "train", *OPTIONS, "--runs=runs"], tmp_path, **changes)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("compiled programs are not kept (") == 1
    assert "Traceback" not in done.stderr
    refused = run(["-c", NO_HOME, "train", *OPTIONS, "--runs=~/runs"], tmp_path, **changes)
    assert refused.returncode == 2
    assert refused.stderr.endswith("~/runs: there is no home folder that ~ could mean; write the whole path, or ./~/runs\n")
