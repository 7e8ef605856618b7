"""What the user did wrong is one line on stderr and exit status 2; our own mistakes keep their traceback."""

import logging
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from counting import TINY
from tqdm import tqdm

from dreamer_jax.cli.command import run_command
from dreamer_jax.cli.train import training_request
from dreamer_jax.core.errors import CheckpointError, ConfigError, EnvError, ReplayError
from dreamer_jax.training import start

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def script(name: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPTS / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train.py", ["--sed", "1"], "unknown option --sed; did you mean 'seed'?"),
        ("evaluate.py", ["no/such/run"], f"{Path('no/such/run').absolute()} is not a run"),
    ],
)
def test_a_script_ends_with_one_line_and_status_2(name, arguments, message):
    result = script(name, *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"error: {message}")


def test_help_is_no_error():
    result = script("train.py", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "--env.task" in result.stdout


@pytest.mark.parametrize(("error", "status"), [(ConfigError, 2), (EnvError, 2), (ReplayError, 2), (CheckpointError, 3)])
def test_errors_of_the_user_become_one_line(error, status, capsys):
    def main(arguments):
        raise error(f"{arguments[0]} is wrong")

    with pytest.raises(SystemExit) as caught:
        run_command(main, ["this"])
    assert caught.value.code == status
    assert capsys.readouterr() == ("", "error: this is wrong\n")


def test_what_the_package_logs_is_printed_while_a_command_runs(capsys):
    """Bare, on stdout, from INFO on; the library itself installs no handler."""
    logger = logging.getLogger("dreamer_jax.somewhere")

    def main(arguments):
        logger.debug("details")
        logger.info("frame %d", 3)
        logger.warning("no video: 100%")
        logging.getLogger("elsewhere").info("not ours")

    package = logging.getLogger("dreamer_jax")
    before = package.level, package.propagate, list(package.handlers)
    for _ in range(2):  # a second command in the same process prints each message once as well
        run_command(main, [])
        assert capsys.readouterr() == ("frame 3\nno video: 100%\n", "")
    assert (package.level, package.propagate, package.handlers) == before
    main([])
    assert capsys.readouterr().out == ""


def test_a_message_leaves_a_progress_bar_whole(capsys):
    def main(arguments):
        with tqdm(total=2, file=sys.stdout, ncols=40, bar_format="{desc}bar") as bar:
            logging.getLogger("dreamer_jax").info("between")
            bar.update()

    run_command(main, [])
    shown = capsys.readouterr().out
    assert "\rbetween\n" in re.sub(r"\r +\r", "\r", shown)  # the bar is wiped, and drawn again below
    assert shown.rindex("bar") > shown.index("between")


class Broken:
    """A stream as a notebook or a service may put in the place of stdout."""

    def __init__(self, error: Exception | None) -> None:
        self.error, self.written = error, ""

    def write(self, text: str) -> None:
        if self.error:
            raise self.error
        self.written += text


@pytest.mark.parametrize("error", [BrokenPipeError("nobody reads"), ValueError("I/O operation on closed file"), None])
def test_a_stream_that_cannot_be_written_ends_no_command(error, monkeypatch):
    done = []

    def main(arguments):
        logging.getLogger("dreamer_jax").info("to whom it may concern")
        done.append(True)

    stream = Broken(error)
    monkeypatch.setattr(sys, "stdout", stream)
    run_command(main, [])
    assert done == [True]
    assert stream.written == ("" if error else "to whom it may concern\n")


def test_our_own_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda arguments: print(1 / 0), [])


def test_an_interrupt_is_no_traceback(capsys):
    def main(arguments):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        run_command(main, [])
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def train(arguments: list[str]) -> None:
    request = training_request(arguments)
    start.resume_seeds(request.resume) if request.resume else start.train_seeds(request.config, request.seeds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env.task", "gym:CartPol-v1"], "gym:CartPol-v1: no environment 'CartPol-v1' is registered; the nearest ids are"),
        (["--env.task", "CartPole-v1"], "env.task='CartPole-v1' is not a task. Write gym:<registered id>"),
        (["--env.task", "import:counting:fiv"], "import:counting:fiv: fiv in module counting does not exist; did you mean"),
        (["--device", "tpu"], "--device tpu: JAX finds no such device here"),
        (["--resume", "no/such/run"], "HERE/no/such/run is not a run: it has no config.yaml"),
        (["--seeds", "none"], "--seeds: 'none' was given, a whole number from 1 to 1024 was expected"),
        (["--seed", str(2**31 - 1), "--seeds", "2"], f"--seeds 2: seed={2**31}: input should be less than 2147483648"),
        (["--seed", str(2**31)], f"preset cartpole, changed: seed='{2**31}': input should be less than 2147483648"),
    ],
)
def test_training_refuses_in_one_line_and_leaves_no_run(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [word for name, value in TINY.items() if f"--{name}" not in arguments for word in (f"--{name}", str(value))]
    with pytest.raises(SystemExit) as caught:
        run_command(train, arguments if arguments[0] == "--resume" else [*options, *arguments])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message.replace('HERE', str(tmp_path))}")
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        # 250,000 decisions x 512 / 1024, less the warm-up: 1,024 start positions + 16 environments x 64 records, at half an
        # update each.
        ("dmc_proprio_paper", ["500,000 frames = 250,000 decisions, about 123,977 updates", "9,738,019"]),
        ("dmc_proprio_head", ["1,100,000 frames = 1,100,000 decisions, about 1,097,953 updates", "640,867"]),
    ],
)
def test_dry_run_says_the_budget_and_trains_nothing(preset, expected, capsys, tmp_path, monkeypatch):
    """Frames, decisions, updates and parameters of the whole run; no run folder."""
    pytest.importorskip("dm_control")
    monkeypatch.chdir(tmp_path)
    request = training_request(["--preset", preset, "--dry-run"])
    assert request.dry_run
    text = start.describe(request.config)
    for words in expected:
        assert words in text
    assert not any(tmp_path.iterdir())


TUNED = """
import ctypes, os, sys, threading
from dreamer_jax.cli.command import tune_malloc

print("start", flush=True)
tune_malloc()
print(os.environ["GLIBC_TUNABLES"], sys.argv[1:], sys.flags.dont_write_bytecode, flush=True)
together, libc = threading.Barrier(9), ctypes.CDLL(None)


def take():
    libc.malloc(10_000)
    together.wait()


for _ in range(8):
    threading.Thread(target=take).start()
together.wait()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize(
    ("own", "starts", "tunables"),
    [(None, 2, "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=4"), ("glibc.malloc.perturb=0", 1, "glibc.malloc.perturb=0")],
)
def test_malloc_is_tuned_once_and_the_command_stays(tmp_path, own, starts, tunables):
    """The process is started again with the same words; a setting of the user's own is left alone. Of nine threads each
    would have an arena of its own."""
    script = tmp_path / "script.py"
    script.write_text(TUNED)
    environment = {name: value for name, value in os.environ.items() if name not in ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX")}
    environment |= {"GLIBC_TUNABLES": own} if own else {}
    command = [sys.executable, "-B", str(script), "--a", "b c"]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[: starts + 1] == ["start"] * starts + [f"{tunables} ['--a', 'b c'] 1"]
    assert (printed.count("<heap nr=") > 4) == bool(own)


def test_the_start_says_what_goes_where():
    """Every key with its layers; a key that neither part uses takes no replay memory."""
    pytest.importorskip("dm_control")

    def described(*options):
        return start.describe(training_request(["--preset", "dmc_proprio_cpu", *options, "--dry-run"]).config)

    both = described("--env.obs", "both", "--model.encoder_keys", "image|velocity", "--model.decoder_keys", "velocity")
    rows = [line.split() for line in both.splitlines()]
    assert ["image", *["image", "64", "x", "64", "x", "3"], *["cnn", "64x64"], "-"] in rows
    assert ["position", "vector", "4", "-", "-"] in rows
    assert ["velocity", "vector", "4", "mlp", "mlp"] in rows

    def megabytes(text):
        line = next(line for line in text.splitlines() if line.startswith("replay"))
        return float(line.split()[3].replace(",", ""))

    difference = megabytes(both) - megabytes(described("--model.encoder_keys", "velocity", "--model.decoder_keys", "velocity"))
    assert difference == pytest.approx(100_000 * 64 * 64 * 3 / 2**20, abs=0.2)
