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
    "image": uint8 [height, width, channels], of values from 0 to `high`. Any other kind is the name of an imported
    `ObservationNetwork`, which gives `classes` a meaning where it needs one.

        ObsSpec("tokens", (16,), classes=100, storage="int32")

    Args:
      storage: dtype of an imported kind, as NumPy names it; the built-in kinds have their own.
      high: largest value of an image, or of each of its channels where they differ. Networks see images divided by it.

    Raises:
      EnvError: a dtype that cannot be kept, or one for a built-in kind; a `high` that uint8 does not reach, or of another kind.
    """

    kind: str
    shape: tuple[int, ...]
    classes: int = 0
    storage: str = ""
    high: int | tuple[int, ...] = 255

    def __post_init__(self) -> None:
        if not self._high_fits():
            raise EnvError(
                f"high={self.high!r} of observations of kind {self.kind!r}, {list(self.shape)}; of an image, a whole number "
                "from 1 to 255 or one for each channel was expected. Leave it out for other kinds"
            )
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

    @property
    def channel_highs(self) -> tuple[int, ...]:
        """The largest value of each channel of an image."""
        return self.high if isinstance(self.high, tuple) else (self.high,) * self.shape[-1]

    def as_pixels(self, images: np.ndarray) -> np.ndarray:
        """Images u8 [.., H, W, C] of values from 0 to `high`, stretched to 0..255 for people to look at."""
        if self.high == 255:
            return images
        return np.rint(images * (255 / np.array(self.channel_highs))).clip(0, 255).astype(np.uint8)

    def _high_fits(self) -> bool:
        if self.kind != "image":
            return self.high == 255
        if isinstance(self.high, tuple) and len(self.high) != self.shape[-1]:
            return False
        return all(type(high) is int and 1 <= high <= 255 for high in self.channel_highs)


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
