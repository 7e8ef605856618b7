"""Action repeat."""

from typing import Any

import gymnasium


class ActionRepeat(gymnasium.Wrapper):
    """One decision takes `repeat` simulator steps, fewer where the episode ends; their rewards are summed.

    "success" is the largest one that was reported, so that a success on the way is not lost.
    """

    def __init__(self, env: gymnasium.Env, repeat: int):
        super().__init__(env)
        self._repeat = repeat
        if "render_fps" in env.metadata:  # a video shows one frame a decision
            self.metadata = {**env.metadata, "render_fps": env.metadata["render_fps"] / repeat}

    def step(self, action: Any):
        total, success = 0.0, []
        for _ in range(self._repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if "success" in info:
                success.append(info["success"])
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, ({"success": max(success)} if success else {})
