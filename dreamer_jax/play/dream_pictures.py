"""Dreams for people: a video of what was seen and what was imagined, and a figure of numbers and rewards."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from dreamer_jax.core.figures import BLUE, RED, plain_axes
from dreamer_jax.core.files import atomic_write
from dreamer_jax.play.dreams import Dream

FPS = 8  # of videos: slow enough to compare
CELL = 64  # the least height and width of an image in a video [pixels]; smaller ones are enlarged
BORDER = 3  # around each image [pixels]
BACKGROUND = 24  # grey of what is empty
NUMBERS = 4  # of the observations that a figure shows
INK = "#222222"


def draw_video(dream: Dream) -> np.ndarray | None:
    """The images of a dream as a video u8[L, H, W, 3]; None where it has none.

    A column is a piece of an episode. Its rows are the recorded image, the imagined one, and their difference: grey where they
    are the same, brighter where the imagined one is. Several image observations lie below each other. The border of an image is
    blue in the context, where the agent sees the recorded images, and red where it imagines. A column is empty after its end.
    """
    blocks = [_rows(real, imagined, dream) for real, imagined in dream.images.values()]
    if not blocks:
        return None
    width = max(block.shape[2] for block in blocks)
    padded = [
        np.pad(block, ((0, 0), (0, 0), (0, width - block.shape[2]), (0, 0)), constant_values=BACKGROUND) for block in blocks
    ]
    return np.concatenate(padded, 1)


def draw_figure(dream: Dream, title: str) -> np.ndarray:
    """The numbers that vary most and the rewards of a dream, recorded and imagined over records: a picture u8[H, W, 3].

    A column is a piece of an episode. The line of what was imagined is the mean over the samples of the latents, and the band
    reaches from their 5th to their 95th percentile. The context is shaded: there the agent sees the recorded observations.
    """
    rows = [*_numbers(dream), ("reward", *dream.reward)]
    count, length = dream.reward[0].shape
    figure = Figure(figsize=(1.2 + 2.9 * count, 1.0 + 1.5 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), count, sharex=True, sharey="row", squeeze=False)
    for (name, real, imagined), row in zip(rows, panels, strict=True):
        row[0].set_ylabel(name, fontsize=9)
        for k, axes in enumerate(row):
            end = dream.length[k]
            _draw_number(axes, real[k, :end], imagined[k, :, :end], dream.context[k])
    for axes in panels[-1]:
        axes.set_xlim(-0.5, length - 0.5)
        axes.set_xlabel("records of the piece")
    figure.suptitle(title, fontsize=11)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    canvas = FigureCanvasAgg(figure)  # of its own: no display, nothing global
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def write_picture(picture: np.ndarray, path: Path) -> None:
    """Writes a picture u8[H, W, 3] as a PNG, as `files.atomic_write`."""
    with atomic_write(path) as file:
        file.write(iio.imwrite("<bytes>", picture, extension=".png"))


def as_rgb(images: np.ndarray) -> np.ndarray:
    """Images [.., H, W, C] with any number of channels -> [.., H, W, 3].

    Channels in threes are colours, of which the last three are shown: the newest of stacked frames. Of other numbers the last
    channel is shown, in grey.
    """
    if images.shape[-1] % 3 == 0:
        return images[..., -3:]
    return np.repeat(images[..., -1:], 3, -1)


def _rows(real: np.ndarray, imagined: np.ndarray, dream: Dream) -> np.ndarray:
    """The three rows of an image observation: u8[K, L, H, W, C] and f32 in [0, 1] -> u8[L, rows, columns, 3]."""
    seen = as_rgb(real)
    dreamt = np.rint(255 * np.clip(as_rgb(imagined), 0, 1)).astype(np.uint8)
    difference = ((dreamt.astype(int) - seen + 255) // 2).astype(np.uint8)
    cells = np.stack([seen, dreamt, difference], 1)  # [K, 3, L, H, W, 3]
    factor = max(1, -(-CELL // max(cells.shape[3:5])))
    cells = cells.repeat(factor, 3).repeat(factor, 4)
    count, rows, length, height, width, _ = cells.shape
    framed = np.empty((count, rows, length, height + 2 * BORDER, width + 2 * BORDER, 3), np.uint8)
    for frame, context in zip(framed, dream.context, strict=True):
        frame[:, :context], frame[:, context:] = _color(BLUE), _color(RED)
    framed[..., BORDER:-BORDER, BORDER:-BORDER, :] = cells
    for frame, end in zip(framed, dream.length, strict=True):
        frame[:, end:] = BACKGROUND
    return framed.transpose(2, 1, 3, 0, 4, 5).reshape((length, rows * framed.shape[3], count * framed.shape[4], 3))


def _color(name: str) -> np.ndarray:
    return np.rint(255 * np.array(to_rgb(name))).astype(np.uint8)


def _numbers(dream: Dream) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The numbers of largest variance: (name, real [K, L], imagined [K, S, L]), in the order of the observation."""
    found = []
    for name, (real, imagined) in dream.values.items():
        recorded = np.concatenate([real[k, :end] for k, end in enumerate(dream.length)])  # [records, n]
        for i, variance in enumerate(recorded.var(0)):
            label = f"{name}[{i}]" if real.shape[-1] > 1 else name
            found.append((float(variance), (label, real[..., i], imagined[..., i])))
    chosen = sorted(range(len(found)), key=lambda i: -found[i][0])[:NUMBERS]
    return [found[i][1] for i in sorted(chosen)]


def _draw_number(axes: Axes, real: np.ndarray, imagined: np.ndarray, context: int) -> None:
    """One panel: real [T], imagined [S, T]."""
    x = np.arange(len(real))
    low, high = np.percentile(imagined, (5, 95), axis=0)
    axes.axvspan(-0.5, context - 0.5, color=BLUE, alpha=0.1, linewidth=0, label="context")
    axes.fill_between(x, low, high, color=RED, alpha=0.25, linewidth=0, label="5 to 95 % of the samples")
    axes.plot(x, real, color=INK, linewidth=1.4, label="recorded")
    axes.plot(x, imagined.mean(0), color=RED, linewidth=1.2, label="imagined, mean")
    plain_axes(axes)
