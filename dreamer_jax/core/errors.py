"""Every error that this package raises on purpose. Each message is one line for the user, with the value and the fix.

    DreamerError
      ConfigError         an option, a preset or a configuration file
      EnvError            an environment
        ActionError       an action that no environment can take: the agent is at fault
      ReplayError         records that do not fit, or more of them than there is room for
      RunError            a run's folder: not a run, damaged, in use, unlike another one
        CheckpointError   a checkpoint that is missing, damaged or of another agent
          DamagedError    one that cannot be read, where an older one may be whole
      StorageError        a disk that is full, failing or read-only
      DivergedError       updates that are not finite any more
      CallbackError       a callback that raised an error

Errors of bad input are ValueErrors too.
"""

from pathlib import Path

UNUSABLE_CHECKPOINT = 3  # exit status of a command that ends with a CheckpointError
# What code of the user's may raise: `sys.exit()` too, with which a program means to end itself and not a training.
RAISED_OUTSIDE = (Exception, SystemExit)
STOPPED = 75  # exit status of a training that SIGTERM or SIGUSR1 has stopped (EX_TEMPFAIL): a scheduler may resume it


class DreamerError(Exception):
    """The base of all errors of this package."""


class ConfigError(DreamerError, ValueError):
    """A configuration that cannot be used."""


class EnvError(DreamerError, ValueError):
    """An environment that cannot be used."""


class ActionError(EnvError):
    """An action that no environment can take: the agent is at fault."""


class ReplayError(DreamerError, ValueError):
    """The replay cannot do what was asked."""


class RunError(DreamerError, ValueError):
    """A run's folder, or a file in it, cannot be used."""


class CheckpointError(RunError):
    """A run's checkpoint or replay is missing, damaged or of another agent: the run cannot go on."""


class DamagedError(CheckpointError):
    """The checkpoint of `run` at `frames` cannot be read, or what belongs to it: an older one may be whole."""

    def __init__(self, message: str, run: Path, frames: int) -> None:
        super().__init__(message)
        self.run, self.frames = run, frames


class StorageError(DreamerError):
    """Files cannot be written: the disk is full, failing, gone or read-only."""


class CallbackError(DreamerError):
    """A callback raised an error: the run has ended with a checkpoint."""


class DivergedError(DreamerError):
    """More updates were not finite than the configuration allows: the agent does not learn any more."""
