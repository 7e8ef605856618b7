"""A run goes on exactly, also when its programs are compiled as users have them.

The other tests compile with hardly any optimisation (tests/conftest.py), and a program that fuses more operations rounds in
other places. Most of this test's time is the one compilation, which its three processes share.
"""

import os
import signal

import pytest
import survival

from dreamer_jax.core.errors import STOPPED

SETTINGS = survival.SETTINGS | {
    "train.frames": 300,
    "train.log_every": 50,
    "train.checkpoint_minutes": 10,  # no checkpoint but those of the evaluations, the stop and the end
    "eval.every": 200,
    "eval.final_episodes": 2,  # as many as on the way, so that one program plays both
}


@pytest.mark.ci
def test_a_stopped_run_goes_on_exactly_with_optimised_programs(tmp_path):
    """Rows, agent and evaluation of a run that SIGTERM stopped are those of the run in one go."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}

    def train(name: str, *arguments: str) -> survival.TrainProcess:
        return survival.TrainProcess(arguments, tmp_path / f"{name}.log", environment=environment)

    def finish(training: survival.TrainProcess, status: int = 0) -> None:
        assert training.process.wait() == status, training.log.read_text()

    settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
    finish(train("whole", *settings, f"--runs={tmp_path / 'whole'}"))
    whole = survival.only_run(tmp_path / "whole")
    stopped = train("stopped", *settings, f"--runs={tmp_path / 'stopped'}")
    stopped.wait_for(lambda: stopped.printed("updates [1-9]"))
    stopped.process.send_signal(signal.SIGTERM)
    finish(stopped, STOPPED)
    run = survival.only_run(tmp_path / "stopped")
    assert whole is not None
    assert run is not None
    assert not (run / "evaluation.json").exists()
    finish(train("resumed", "--resume", str(run)))
    assert survival.differences(whole, run) == []
