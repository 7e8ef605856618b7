"""What an environment shows and takes, described without JAX and without gymnasium.

Networks read these to size their layers; the replay reads them to size its storage.
"""

from dataclasses import dataclass

import numpy as np

from dreamer_jax.core.errors import EnvError

BUILT_IN = {"vector": np.float32, "discrete": np.int32, "image": np.uint8}  # kinds of observation and their dtypes


@dataclass(frozen=True)
class ObsSpec:
    """One observation key, without batch axes.

    kind "vector": float32 of any shape of rank <= 2; "discrete": one int32 index below `classes`;
    "image": uint8 [height, width, channels]. Any other kind is the name of an imported `ObservationNetwork`, which gives
    `classes` a meaning where it needs one.

        ObsSpec("tokens", (16,), classes=100, storage="int32")

    Args:
      storage: dtype of an imported kind, as NumPy names it; the built-in kinds have their own.

    Raises:
      EnvError: a dtype that cannot be kept, or one for a built-in kind.
    """

    kind: str
    shape: tuple[int, ...]
    classes: int = 0
    storage: str = ""

    def __post_init__(self) -> None:
        if self.kind in BUILT_IN:
            if self.storage:
                raise EnvError(
                    f"storage={self.storage!r} of observations of kind {self.kind!r}, which are {self.dtype}; leave it out"
                )
        elif not _can_be_stored(self.storage):
            raise EnvError(
                f"storage={self.storage!r} of observations of kind {self.kind!r} is no dtype of numbers that NumPy can save; "
                "int32, float32 or the like was expected"
            )

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(BUILT_IN.get(self.kind, self.storage))


def _can_be_stored(name: str) -> bool:
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError):
        return False
    return dtype.kind in "biuf" and dtype.isnative and dtype.itemsize <= 8


@dataclass(frozen=True)
class ActionSpec:
    """The action as the agent sees it: a float32 vector of `size` numbers.

    Discrete actions are one-hot vectors over `size` choices; continuous ones lie in [-1, 1] and the
    environment wrapper rescales them to the environment's own bounds.
    """

    discrete: bool
    size: int


@dataclass(frozen=True)
class LatentSpec:
    """The latent that a record holds: deter [D] in the compute dtype, stoch [S] as class indices, or as deter without classes.

    bfloat16 is stored as its bits (uint16), which NumPy can save.
    """

    deter: int
    stoch: int
    classes: int
    bfloat16: bool

    @property
    def deter_dtype(self) -> np.dtype:
        return np.dtype(np.uint16 if self.bfloat16 else np.float32)

    @property
    def stoch_dtype(self) -> np.dtype:
        return np.min_scalar_type(self.classes - 1) if self.classes else self.deter_dtype

    def as_stored(self, deter: np.ndarray, stoch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both parts of latents in dtypes that NumPy can save."""
        return deter.view(self.deter_dtype), stoch if self.classes else stoch.view(self.stoch_dtype)

    @property
    def bytes(self) -> int:
        """Bytes that one latent takes in the replay."""
        return self.deter * self.deter_dtype.itemsize + self.stoch * self.stoch_dtype.itemsize


ObsSpecs = dict[str, ObsSpec]


def obs_bytes(specs: ObsSpecs) -> int:
    """Bytes that one observation takes in the replay."""
    return sum(int(np.prod(spec.shape, dtype=np.int64)) * spec.dtype.itemsize for spec in specs.values())
