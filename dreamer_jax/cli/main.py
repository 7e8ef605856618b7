"""The console command: `dreamer train`, `dreamer evaluate` and so on; `python -m dreamer_jax` is the same."""

import sys
from collections.abc import Sequence
from importlib import import_module

import dreamer_jax
from dreamer_jax.cli.command import run_command, tune_malloc
from dreamer_jax.core.paths import paths_from, start_folder

COMMANDS = {  # each is a module of this package
    "train": "trains an agent, or goes on with one",
    "evaluate": "plays episodes with a trained agent",
    "report": "compares runs with each other and with published results",
    "benchmark": "trains a suite of tasks over several seeds",
    "diagnose": "compares a run's imagination with its environment",
    "study": "studies over several runs: horizons, and PPO on the same task",
    "bench": "times an update and its parts on this machine",
    "costs": "measures what an update costs against batch, length, horizon, size and seeds",
    "schema": "writes a JSON schema of preset files, for editors",
}
TUNED = ("train", "bench", "costs")  # they compute for long in this process
ABOUT = "Dreamer in JAX: agents that learn a world model and act inside it.\n`dreamer --version` prints the version."


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `dreamer` as a process of its own, with the words of its command line, or with `arguments`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in TUNED:
        tune_malloc()
    run_command(dispatch, arguments)


def dispatch(arguments: Sequence[str]) -> None:
    """Runs the command that the words name.

    Raises:
      DreamerError: there is no such command, or what that command raises.
    """
    if arguments and arguments[0] == "--version":
        print(f"dreamer_jax {dreamer_jax.__version__}")
        return
    from dreamer_jax.cli.parser import choose

    name, rest = choose("dreamer", ABOUT, COMMANDS, arguments)
    folder = start_folder()
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))  # modules beside the user: `--import my_ideas`, tasks `import:my_env:make`
    with paths_from(folder):
        import_module(f"dreamer_jax.cli.{name}").main(rest)
