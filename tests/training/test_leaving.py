"""An environment, a callback or a module that ends the program: the run is saved, and one line says who ended it."""

import pytest
from counting import TINY, tiny_config
from leaving import AT

from dreamer_jax.cli.command import run_command
from dreamer_jax.cli.main import dispatch
from dreamer_jax.core.errors import ConfigError, EnvError
from dreamer_jax.core.presets import load_config
from dreamer_jax.envs import make_env
from dreamer_jax.play.policy import load_policy
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.status import read_status
from dreamer_jax.training import start


@pytest.mark.parametrize(
    ("function", "more", "words"),
    [
        ("step_exit", (), "import:leaving:step_exit at step 4 of the episode: step raised SystemExit (leaving.py:"),
        ("step_status", (), "import:leaving:step_status at step 4 of the episode: step raised SystemExit: 3 (leaving.py:"),
        ("reset_exit", (), "import:leaving:reset_exit at reset: reset raised SystemExit (leaving.py:"),
        (
            "step_interrupt",
            (),
            "import:leaving:step_interrupt or an extension ended the program: KeyboardInterrupt (leaving.py:",
        ),
        ("five", ("leaving",), "the callback 'leaving' raised SystemExit (leaving.py:"),
        ("five", ("interrupting",), "import:counting:five or an extension ended the program: KeyboardInterrupt (leaving.py:"),
    ],
)
def test_what_ends_the_program_leaves_a_checkpoint_a_line_and_a_status(tmp_path, capsys, function, more, words):
    task = f"import:{'counting' if more else 'leaving'}:{function}"
    changes = {**TINY, "runs": str(tmp_path), "env.task": task, "train.frames": 100, "train.log_every": 20}
    changes |= {"imports": "leaving", "train.callbacks": more[0]} if more else {}
    options = [f"--{'import' if name == 'imports' else name}={value}" for name, value in changes.items()]
    with pytest.raises(SystemExit) as caught:
        run_command(dispatch, ["train", *options])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {words}")
    assert error.count("\n") == 1
    (run,) = tmp_path.glob("*/*")
    assert read_status(run)["status"] == "failed"
    assert AT <= Checkpoints(run).steps()[-1] <= AT + 20
    load_policy(run)


@pytest.mark.parametrize("function", ["step_exit", "step_os_exit", "step_interrupt"])
def test_a_process_of_its_own_that_ends_is_started_anew(tmp_path, said, function):
    config = tiny_config(tmp_path, function, train__frames=60, env__processes=True, env__task=f"import:leaving:{function}")
    run = start.train(config)
    assert read_status(run)["status"] == "finished"
    assert "ended unexpectedly" in said()
    assert "restart 1 of 10" in said()


def test_a_close_that_ends_the_program_costs_a_line(tmp_path, said):
    """Nothing depends on it: the evaluations that are over count, and the run goes on."""
    config = tiny_config(tmp_path, train__frames=40, eval__every=20, env__task="import:leaving:close_exit")
    run = start.train(config)
    assert read_status(run)["status"] == "finished"
    assert (run / "evaluation.json").is_file()
    assert "import:leaving:close_exit: close raised SystemExit (leaving.py:" in said()


def test_a_render_that_ends_the_program_costs_the_video(tmp_path, said):
    config = tiny_config(tmp_path, train__frames=40, eval__video=True, env__task="import:leaving:render_exit")
    run = start.train(config)
    assert read_status(run)["status"] == "finished"
    assert "no video: SystemExit (leaving.py:" in said()


def test_making_an_environment_and_importing_a_module_may_end_the_program(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ending_module.py").write_text("import sys\nsys.exit()\n")
    for task, words in {
        "import:leaving:make_exit": "make_exit raised SystemExit",
        "import:ending_module:make": "importing ending_module raised SystemExit",
        "gym:ending_module:X-v0": "importing ending_module raised SystemExit",
    }.items():
        with pytest.raises(EnvError, match=words):
            make_env(tiny_config(tmp_path, env__task=task).env)
    with pytest.raises(ConfigError, match="importing ending_module raised SystemExit"):
        load_config("cartpole", {"imports": "ending_module"})
