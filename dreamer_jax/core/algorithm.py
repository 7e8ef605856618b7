"""The algorithm's part of a configuration: networks, losses, behaviour and optimiser. Imports no JAX.

Every axis in which PlaNet, V1, V2 and V3 differ is one value here; `configs/*.yaml` say which values make which version.
"""

import re
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from dreamer_jax.core.section import Names, Section, none_from_text
from dreamer_jax.core.text import brief, shown

# V3's model sizes, in the order of WIDTHS.
_SIZES = {
    "1m": (512, 64, 32, 4, 4, 64),
    "12m": (2048, 256, 32, 16, 16, 256),
    "25m": (3072, 384, 32, 24, 24, 384),
    "50m": (4096, 512, 32, 32, 32, 512),
    "100m": (6144, 768, 32, 48, 48, 768),
    "200m": (8192, 1024, 32, 64, 64, 1024),
    "400m": (12288, 1536, 32, 96, 96, 1536),
}
WIDTHS = ("deter", "hidden", "stoch", "classes", "depth", "units")


class ModelConfig(Section):
    """What world model, actor and critic are made of, and their sizes (V3; the default is the author's 200m)."""

    latent: Literal["categorical", "gaussian", "deterministic"] = Field(
        default="categorical", description="stochastic part of the latent: of V2 and V3, of V1, or without noise [choice]"
    )
    core: Literal["block_gru", "layer_norm_gru", "gru", "feedforward"] = Field(
        default="block_gru", description="recurrent core: of V3, V2, V1, or none at all [choice]"
    )
    norm: Literal["rms", "none"] = Field(default="rms", description="norm before activations: V3 rms, V1, V2 none [choice]")
    activation: Literal["silu", "elu", "relu"] = Field(default="silu", description="dense layers: V3 silu, V1, V2 elu [choice]")
    cnn: Literal["pooled", "strided"] = Field(default="pooled", description="image layers: of V3, or of V1 and V2 [choice]")
    cnn_activation: Literal["silu", "elu", "relu"] = Field(
        default="silu", description="of image layers: V3 silu, V2 elu, V1 relu [choice]"
    )
    symlog: bool = Field(default=True, description="vectors are seen and decoded through symlog (V3) [true/false]")
    scalar_heads: Literal["two_hot", "normal"] = Field(
        default="two_hot", description="reward head and critic: two-hot bins (V3), or squared error (V1, V2) [choice]"
    )
    continue_head: bool = Field(default=True, description="predict ends; without it the discount is constant [true/false]")
    actor_critic: bool = Field(
        default=True, description="learn actor and critic; without them a planner acts (PlaNet) [true/false]"
    )
    actor_scale: float = Field(default=0.01, ge=0, description="scale of the actor's last layer at the start: V3 0.01, else 1")

    size: Literal["1m", "12m", "25m", "50m", "100m", "200m", "400m", "custom"] = Field(
        default="200m", description="V3's size, which sets deter, hidden, stoch, classes, depth and units"
    )
    deter: int = Field(default=8192, ge=1, description="deterministic state D [units]")
    hidden: int = Field(default=1024, ge=1, description="hidden width of the RSSM [units]")
    stoch: int = Field(default=32, ge=1, description="variables S of the latent [count]")
    classes: int = Field(default=64, ge=2, description="classes K of each categorical variable [count]")
    blocks: int = Field(default=8, ge=1, description="blocks of the block-diagonal GRU; divides deter [count]")
    depth: int = Field(default=64, ge=2, multiple_of=2, description="channels of the image layers are multiples of it [count]")
    units: int = Field(default=1024, ge=1, description="width of encoder, decoder and heads [units]")
    prior_layers: int = Field(default=2, ge=1, description="hidden layers of the prior [count]")
    posterior_layers: int = Field(default=1, ge=1, description="hidden layers of the posterior [count]")
    recurrent_layers: int = Field(default=1, ge=1, description="block-diagonal hidden layers before the gates [count]")
    encoder_layers: int = Field(default=3, ge=1, description="hidden layers of the vector encoder [count]")
    decoder_layers: int = Field(default=3, ge=1, description="hidden layers of the vector decoder [count]")
    reward_layers: int = Field(default=1, ge=1, description="hidden layers of the reward head [count]")
    continue_layers: int = Field(default=1, ge=1, description="hidden layers of the continue head [count]")
    actor_layers: int = Field(default=3, ge=1, description="hidden layers of the actor [count]")
    critic_layers: int = Field(default=3, ge=1, description="hidden layers of the critic [count]")
    bins: int = Field(default=255, ge=3, description="bins of the symexp two-hot heads [count]")
    unimix: float = Field(default=0.01, ge=0, lt=1, description="uniform share mixed into the latents [fraction]")
    representation: str = Field(
        default="reconstruction",
        description="what shapes the latent: reconstruction, contrastive, redundancy, prototypes, reward_only or an imported "
        "one; all built-in ones but reconstruction do without a decoder [name]",
    )
    prototypes: int = Field(default=2500, ge=2, description="prototypes that latents are assigned to [count]")
    prototype_freeze: int = Field(default=10_000, ge=0, description="updates before the prototypes move [updates]")
    prototype_shift: int = Field(default=3, ge=0, description="largest shift of the images in a view [pixels]")
    encoder_keys: str = Field(
        default=".*", description="observation keys that the encoder sees [regular expression, whole key]"
    )
    decoder_keys: str = Field(
        default=".*", description="observation keys that the decoder reconstructs [regular expression, whole key]"
    )

    @field_validator("encoder_keys", "decoder_keys")
    @classmethod
    def _compiles(cls, value: str, info: ValidationInfo) -> str:
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(
                f"model.{info.field_name}={shown(value)} is not a regular expression ({brief(error)}); "
                "'.*' takes every key, 'a|b' two of them"
            ) from None
        return value

    @model_validator(mode="before")
    @classmethod
    def _fill_widths(cls, values: Any) -> Any:
        """The size fills the widths that are not given; its name is corrected if they then differ from it."""
        if not isinstance(values, dict) or values.get("size", "200m") not in (*_SIZES, "custom"):
            return values
        asked = values.get("size", "200m")
        widths = dict(zip(WIDTHS, _SIZES["200m" if asked == "custom" else asked], strict=True))
        values = widths | values
        given = [values[name] for name in WIDTHS]

        def of_size(sizes: tuple[int, ...]) -> bool:
            return all(value in (width, str(width)) for value, width in zip(given, sizes, strict=True))

        return values | {"size": next((name for name, sizes in _SIZES.items() if of_size(sizes)), "custom")}

    @model_validator(mode="after")
    def _blocks_divide(self) -> "ModelConfig":
        if self.core == "block_gru" and self.deter % self.blocks:
            raise ValueError(f"deter={self.deter} is not a multiple of blocks={self.blocks}; change one of them")
        return self


class LossConfig(Section):
    """Weights of the loss terms (V3 eq. 4 and following) and the free nats."""

    decoder: float = Field(default=1.0, ge=0, description="weight of each reconstructed key")
    contrastive: float = Field(default=1.0, ge=0, description="weight of the contrastive representation")
    redundancy: float = Field(default=0.05, ge=0, description="weight of the redundancy-reducing representation")
    prototypes: float = Field(default=1.0, ge=0, description="weight of the prototypes' losses")
    reward: float = Field(default=1.0, ge=0, description="weight of the reward head")
    continue_: float = Field(default=1.0, ge=0, alias="continue", description="weight of the continue head")
    dyn: float = Field(default=1.0, ge=0, description="weight of KL(sg posterior || prior)")
    rep: float = Field(default=0.1, ge=0, description="weight of KL(posterior || sg prior)")
    policy: float = Field(default=1.0, ge=0, description="weight of the actor loss")
    value: float = Field(default=1.0, ge=0, description="weight of the critic loss on imagined states")
    replay_value: float = Field(default=0.3, ge=0, description="weight of the critic loss on replayed states")
    free_nats: float = Field(default=1.0, ge=0, description="KL below which dyn and rep give no gradient [nats]")
    free_nats_of: Literal["step", "mean"] = Field(
        default="step", description="what is held against free_nats: the KL of each step (V3), or their mean (V1, V2) [choice]"
    )

    terms: Names = Field(default=(), description="imported loss terms; their weights are extensions.NAME.weight [names]")

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)


class PlannerConfig(Section):
    """The cross-entropy method, which acts where there is no actor, or where an evaluation asks for it (PlaNet)."""

    horizon: int = Field(default=12, ge=1, description="length of a plan [decisions]")
    iterations: int = Field(default=10, ge=1, description="times that the plan is refit to its best candidates [count]")
    candidates: int = Field(default=1000, ge=2, description="plans imagined in an iteration [count]")
    elites: int = Field(default=100, ge=1, description="best candidates that the plan is refit to [count]")

    @model_validator(mode="after")
    def _elites_are_few(self) -> "PlannerConfig":
        if self.elites >= self.candidates:
            raise ValueError(
                f"behavior.planner.elites={self.elites} has to be below "
                f"behavior.planner.candidates={self.candidates}; change one"
            )
        return self


class BehaviorConfig(Section):
    """Actor and critic, or a planner in their place."""

    imagination_horizon: int = Field(default=15, ge=1, le=1000, description="imagined steps H [decisions]")
    discount_horizon: float = Field(default=333.0, gt=1, description="discount = 1 - 1/this [decisions]")
    reward: Literal["identity", "tanh"] = Field(
        default="identity", description="what the reward head learns: the reward, or its tanh (V2 on Atari) [choice]"
    )
    returns: Literal["next_reward", "own_reward", "own_reward_after_start"] = Field(
        default="next_reward",
        description="a value begins with the next reward (V3), or with the state's own: V2, V1 (after the start) [choice]",
    )
    estimator: Literal["lambda", "n_step", "reward"] = Field(
        default="lambda", description="value estimate of V1's paper: V_lambda, V_N, or V_R without values [choice]"
    )
    lam: float = Field(default=0.95, ge=0, le=1, description="lambda of the return [fraction]")
    n_step: int = Field(default=15, ge=1, description="steps of the estimator n_step before it takes the value [decisions]")
    dynamics_share: float = Field(
        default=0.0, ge=0, le=1, description="the actor's gradient: 0 REINFORCE, 1 through the dynamics (V1), or both [share]"
    )
    bootstrap: Literal["critic", "slow_critic"] = Field(
        default="critic", description="whose values returns use: V1 and V3 the critic's, V2 its slow copy's [choice]"
    )
    exploration: float = Field(
        default=0.0,
        ge=0,
        description="noise on actions while collecting: deviation, or chance of a random choice (V1) [action]",
    )
    policy: Literal["bounded_normal", "tanh_normal", "truncated_normal"] = Field(
        default="bounded_normal", description="distribution of continuous actions: V3, V1, V2 [choice]"
    )
    entropy: float = Field(default=3e-4, ge=0, description="entropy bonus of the actor [return / nat]")
    min_std: float = Field(default=0.1, gt=0, description="smallest standard deviation of continuous actions")
    max_std: float = Field(default=1.0, gt=0, description="largest standard deviation of continuous actions")
    slow_rate: float = Field(default=0.02, gt=0, le=1, description="step of the slow critic to the critic [fraction]")
    slow_every: int = Field(default=1, ge=1, description="distance of these steps: V3 1, V2 100 [updates]")
    slow_weight: float = Field(default=1.0, ge=0, description="weight of the critic's pull towards the slow critic")
    return_norm: bool = Field(default=True, description="divide advantages by the range of returns (V3) [true/false]")
    norm_rate: float = Field(default=0.01, gt=0, le=1, description="step of the return percentiles [fraction / update]")
    norm_low: float = Field(default=5.0, ge=0, le=100, description="lower percentile of the return range [percent]")
    norm_high: float = Field(default=95.0, ge=0, le=100, description="upper percentile of the return range [percent]")
    norm_limit: float = Field(default=1.0, gt=0, description="smallest divisor of the advantage [return]")
    bonuses: Names = Field(
        default=(),
        description="imported exploration bonuses, added to imagined rewards; weights: extensions.NAME.weight [names]",
    )
    planner: PlannerConfig = Field(default_factory=PlannerConfig)

    @model_validator(mode="after")
    def _ranges_rise(self) -> "BehaviorConfig":
        for low, high in (("min_std", "max_std"), ("norm_low", "norm_high")):
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(
                    f"behavior.{low}={getattr(self, low)} has to be below behavior.{high}={getattr(self, high)}; change one"
                )
        return self

    @model_validator(mode="after")
    def _choices_fit(self) -> "BehaviorConfig":
        if self.policy == "tanh_normal" and self.entropy:
            raise ValueError(
                f"behavior.entropy={self.entropy} needs an entropy in closed form, which behavior.policy=tanh_normal lacks; "
                "set behavior.entropy to 0, or choose another policy"
            )
        if self.returns != "next_reward" and self.imagination_horizon < 2:
            raise ValueError(
                f"behavior.returns={self.returns} needs behavior.imagination_horizon of 2 or more, not "
                f"{self.imagination_horizon}: an action's outcome is the return of the state after it"
            )
        return self

    @property
    def discount(self) -> float:
        return 1.0 - 1.0 / self.discount_horizon


class OptimizerConfig(Section):
    """LaProp with adaptive gradient clipping and one rate for all (V3), or Adam with three rates (V1, V2)."""

    algorithm: Literal["laprop", "adam"] = Field(default="laprop", description="V3 laprop; V1 and V2 adam [choice]")
    learning_rate: float = Field(default=4e-5, gt=0, description="learning rate after the warm-up [1 / update]")
    actor_rate: float | None = Field(default=None, gt=0, description="the actor's learning rate; none: the same [1 / update]")
    critic_rate: float | None = Field(default=None, gt=0, description="the critic's learning rate; none: the same [1 / update]")
    warmup: int = Field(default=1000, ge=0, description="updates over which the rate rises from 0 [updates]")
    agc: float = Field(default=0.3, ge=0, description="largest gradient norm relative to the tensor's; 0: no limit [ratio]")
    agc_min: float = Field(default=1e-3, gt=0, description="smallest tensor norm that AGC assumes")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the momentum [1 / update]")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="decay of the squared gradient [1 / update]")
    eps: float = Field(default=1e-20, gt=0, description="added to the root of the squared gradient")
    clip: float = Field(default=0.0, ge=0, description="largest norm of the gradient of model, actor, critic; 0: no limit")
    decay: float = Field(default=0.0, ge=0, lt=1, description="share of each parameter taken off at an update (V2) [fraction]")

    @field_validator("actor_rate", "critic_rate", mode="before")
    @classmethod
    def _none_can_be_typed(cls, value: Any) -> Any:
        return none_from_text(value)
