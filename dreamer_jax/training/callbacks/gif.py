"""Videos in the form that TensorBoard and W&B show without further packages."""

import imageio.v3 as iio
import numpy as np


def encode_gif(frames: np.ndarray, fps: int) -> bytes:
    """An animated GIF of frames uint8[T, H, W, 3], in an endless loop."""
    return iio.imwrite("<bytes>", frames, extension=".gif", plugin="pillow", duration=1000 / fps, loop=0)
