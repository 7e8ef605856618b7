"""No representation beside rewards, continues and the KL."""

from dreamer_jax.agent.parts import Plan, Representation
from dreamer_jax.core.extensions import register
from dreamer_jax.core.section import Section


@register("reward_only")
class RewardOnly(Representation):
    """Adds neither parameters nor losses."""

    Options = Section

    def __init__(self, options: Section, plan: Plan) -> None:
        super().__init__(options, plan, weight=0.0)
