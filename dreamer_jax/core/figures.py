"""What all figures have in common. Import it where a figure is drawn; Matplotlib is slow to load. Imports no JAX."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dreamer_jax.core.files import atomic_write

BLUE, RED = "#2166ac", "#c0392b"
COLORS = (BLUE, RED, "#1b7837", "#7b3294", "#b35806", "#00757a")  # of curves beside each other


def plain_axes(axes: Axes) -> None:
    """A light grid, and no frame above and at the right."""
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def note_in(axes: Axes, text: str) -> None:
    """Says in the middle of a panel why it is empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="gray")


def save_figure(figure: Figure, path: Path, dpi: int = 120) -> None:
    """Writes a PNG, as `files.atomic_write`."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=dpi)
