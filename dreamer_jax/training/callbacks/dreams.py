"""With each evaluation, what the agent dreams: RUN/dreams/<frames>.mp4 and .png, shown by TensorBoard and W&B as well."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dreamer_jax.core.extensions import register
from dreamer_jax.core.text import one_line
from dreamer_jax.play.dream_pictures import FPS, draw_figure, draw_video, write_picture
from dreamer_jax.play.dreams import Dreamer
from dreamer_jax.play.video import write_video
from dreamer_jax.training.callbacks.base import Callback, RunView

if TYPE_CHECKING:
    from dreamer_jax.play.policy import Policy

logger = logging.getLogger(__name__)


@register("dreams")
class Dreams(Callback):
    """Writes a figure of numbers and rewards, and a video where images are decoded; see `play.dreams`.

    Nothing is written while the episodes of the replay are too short. What fails costs a warning, never the run.
    """

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._dreamer: Dreamer | None = None  # of all seeds

    def evaluation(self, run: RunView, policy: "Policy", result: Mapping[str, Any]) -> None:
        """Dreams with the parameters that were evaluated."""
        frames = run.counters.frames
        try:
            self._dream(run, policy, frames)
        except Exception as error:  # drawing fails in many ways, and a dream is not worth a run
            logger.warning("no dream at frame %d: %s", frames, one_line(error))

    def _dream(self, run: RunView, policy: "Policy", frames: int) -> None:
        self._dreamer = self._dreamer or Dreamer(policy.nets, run.config)
        dream = self._dreamer(policy.params.world_model, run.replay, run.config.seed, frames)
        if dream is None:
            return
        folder = run.folder / "dreams"
        folder.mkdir(exist_ok=True)
        video = draw_video(dream)
        if video is not None:
            # Twice as large: colours of mp4 have half the resolution.
            write_video((frame.repeat(2, 0).repeat(2, 1) for frame in video), folder / f"{frames}.mp4", FPS)
            run.show("dreams/video", video, FPS)
        figure = draw_figure(dream, f"{run.config.env.task}, frame {frames:,}: recorded and imagined")
        write_picture(figure, folder / f"{frames}.png")
        run.show("dreams/figure", figure[None])
