"""What a family of environments is: the built-in ones and those of other modules come through the same door."""

from typing import ClassVar

import gymnasium

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.extensions import Extension


class Family(Extension):
    """A family of environments, named by what stands before the colon of a task.

        @dreamer_jax.register("maze")
        class Mazes(dreamer_jax.Family):
            form = "maze:<size>"

            class Options(Section):
                walls: float = Field(default=0.3, ge=0, le=1, description="density of the walls [ratio]")

            def make(self, name, config, render):
                return Maze(int(name), self.options.walls, render_mode="rgb_array" if render else None)

    Its options are `env.options.FIELD` of the configuration.

    Attributes:
      form: how a task is written; errors list it.
      repeats_actions: its environments take the whole `env.action_repeat` in one step; others are repeated from outside.
    """

    door = "family"
    form: ClassVar[str]
    repeats_actions: ClassVar[bool] = False

    @classmethod
    def is_whole(cls, name: str) -> bool:
        """Whether `name` can be what follows the colon of a task; False ends in an error that lists the forms."""
        return bool(name)

    def make(self, name: str, config: EnvConfig, render: bool) -> gymnasium.Env:
        """Makes one environment as its author would have it; everything else is wrapped around it.

        Args:
          name: what follows the colon in `config.task`.
          config: all options of the environment.
          render: its `render` has to give uint8 [height, width, 3], with a `render_mode` of "rgb_array"; one that cannot draw
            is made all the same, with a `render_mode` of None.

        Raises:
          EnvError: there is no such environment, or it cannot be made; one line that says what to do.
        """
        raise NotImplementedError
