"""The command `dreamer` as a process: what it finds, and that `python -m dreamer_jax` and the scripts are the same."""

import subprocess
import sys
from pathlib import Path

import pytest

import dreamer_jax
from dreamer_jax.cli.main import COMMANDS, dispatch
from dreamer_jax.core.errors import ConfigError

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
CONSOLE = [str(Path(sys.executable).with_name("dreamer"))]  # beside the interpreter that the package is installed for
MODULE = [sys.executable, "-m", "dreamer_jax"]


def call(command: list[str], *arguments: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(params=["console", "module"])
def command(request):
    if request.param == "console" and not Path(CONSOLE[0]).exists():
        pytest.skip("the package is not installed")
    return {"console": CONSOLE, "module": MODULE}[request.param]


def test_every_command_has_a_module_and_help(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as caught:
            dispatch([name, "--help"])
        assert not caught.value.code
        assert capsys.readouterr().out.startswith(f"usage: dreamer {name} ")


def test_help_and_version_of_the_whole(capsys):
    with pytest.raises(SystemExit):
        dispatch(["--help"])
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    dispatch(["--version"])
    assert capsys.readouterr().out == f"dreamer_jax {dreamer_jax.__version__}\n"


@pytest.mark.parametrize(("word", "nearest"), [("trian", "train"), ("bench_speed", "bench"), ("Reports", "report")])
def test_an_unknown_command_is_refused_with_the_nearest(word, nearest):
    with pytest.raises(ConfigError, match=f"unknown command dreamer {word}; did you mean '{nearest}'"):
        dispatch([word])


def test_a_mistake_ends_the_process_with_one_line(command, tmp_path):
    result = call(command, "train", "--sede", "1", folder=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: unknown option --sede; did you mean 'seed'? `--help` lists all options\n"


def test_modules_beside_the_user_are_found(command, tmp_path):
    """By the command; the library leaves the path as it is."""
    (tmp_path / "beside.py").write_text("raise RuntimeError('imported')\n")
    result = call(command, "train", "--import", "beside", "--dry-run", folder=tmp_path)
    assert result.stderr.startswith("error: importing beside raised RuntimeError: imported (beside.py:1)")


@pytest.mark.parametrize(
    "name", ["train", "evaluate", "benchmark", "report", "diagnose", "study", "bench_speed", "cost_curves"]
)
def test_a_script_is_its_command(name, tmp_path):
    result = call([sys.executable, str(SCRIPTS / f"{name}.py")], "--help", folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    command = {"bench_speed": "bench", "cost_curves": "costs"}.get(name, name)
    assert result.stdout.startswith(f"usage: dreamer {command} ")


LAUNCHED = """
import os, sys
from dreamer_jax.cli import main

main.run_command = lambda dispatch, words: print(os.environ.get("GLIBC_TUNABLES"), words)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
@pytest.mark.parametrize(("word", "tuned"), [("train", True), ("bench", True), ("evaluate", False)])
def test_long_computations_start_with_a_tuned_malloc(word, tuned, tmp_path, monkeypatch):
    """As a console script, and as a module: the process that is started again has the same words."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    (tmp_path / "script.py").write_text(f"{LAUNCHED}main.main()\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "__main__.py").write_text(f"{LAUNCHED}main.main()\n")
    for command in ([sys.executable, "script.py"], [sys.executable, "-m", "package"]):
        printed = call(command, word, "--a", "b c", folder=tmp_path).stdout
        tunables = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=4" if tuned else "None"
        assert printed == f"{tunables} ['{word}', '--a', 'b c']\n"
