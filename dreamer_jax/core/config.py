"""Typed, frozen and validated configuration.

Defaults are DreamerV3's (ALGORITHM: Hafner et al. 2023, "Mastering Diverse Domains through World Models",
and the author's code). Presets in `configs/*.yaml` name only what they change. Bad input raises `ConfigError`
with one line that names the value, what was expected and the nearest valid name.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.text import brief, shown

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"
DEFAULT_PRESET = "cartpole"
_PRINTABLE = r"^\P{C}+$"  # no control characters: tables show it
LARGEST = 2**53  # of whole numbers: larger ones are no count of anything, and no float holds them exactly


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _numbers_are_countable(cls, value: Any) -> Any:
        if isinstance(value, int) and value > LARGEST:
            raise PydanticCustomError("too_large", "at most {limit} was expected", {"limit": LARGEST})
        return value


def _none_from_text(value: Any) -> Any:
    return None if isinstance(value, str) and value.lower() == "none" else value


class EnvConfig(_Section):
    """The environment."""

    task: str = Field(
        default="gym:CartPole-v1",
        pattern=_PRINTABLE,
        description="gym:<registered id>, dmc:<domain>_<task>, atari:<game> or import:<package.module>:<function>",
    )
    obs: Literal["state", "pixels", "both"] = Field(default="state", description="what dmc tasks show [choice]")
    image_size: int = Field(default=64, ge=16, le=480, description="height and width of dmc and atari images [pixels]")
    camera: int | None = Field(default=None, ge=0, description="camera of dmc images; none: 0, for quadruped 2 [index]")
    num_envs: int = Field(default=1, ge=1, le=1024, description="environments stepped together [count]")
    action_repeat: int = Field(default=1, ge=1, le=100, description="simulator steps per decision, rewards summed [steps]")
    processes: bool = Field(default=False, description="step each environment in a process of its own [true/false]")
    timeout: float = Field(
        default=300.0, gt=0, description="a process that takes longer for a step or reset has hung, and is restarted [seconds]"
    )
    restarts: int = Field(
        default=10, ge=0, description="processes that may die or hang before the run ends with an error [count]"
    )

    @field_validator("camera", mode="before")
    @classmethod
    def _none_can_be_typed(cls, value: Any) -> Any:
        return _none_from_text(value)

    @model_validator(mode="after")
    def _options_fit_the_task(self) -> "EnvConfig":
        for name in ("obs", "image_size", "camera"):
            value = getattr(self, name)
            families = ("dmc:", "atari:") if name == "image_size" else ("dmc:",)
            if value != type(self).model_fields[name].default and not self.task.startswith(families):
                known = " and ".join(family.rstrip(":") for family in families)
                raise ValueError(
                    f"env.{name}={value!r} is for {known} tasks only; leave it out for env.task={shown(self.task)}"
                )
        return self


# V3's model sizes, in the order of _WIDTHS.
_SIZES = {
    "1m": (512, 64, 32, 4, 4, 64),
    "12m": (2048, 256, 32, 16, 16, 256),
    "25m": (3072, 384, 32, 24, 24, 384),
    "50m": (4096, 512, 32, 32, 32, 512),
    "100m": (6144, 768, 32, 48, 48, 768),
    "200m": (8192, 1024, 32, 64, 64, 1024),
    "400m": (12288, 1536, 32, 96, 96, 1536),
}
_WIDTHS = ("deter", "hidden", "stoch", "classes", "depth", "units")


class ModelConfig(_Section):
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
    representation: Literal["reconstruction", "contrastive", "redundancy", "prototypes", "reward_only"] = Field(
        default="reconstruction", description="what shapes the latent; all but reconstruction do without a decoder [choice]"
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
        widths = dict(zip(_WIDTHS, _SIZES["200m" if asked == "custom" else asked], strict=True))
        values = widths | values
        given = [values[name] for name in _WIDTHS]

        def of_size(sizes: tuple[int, ...]) -> bool:
            return all(value in (width, str(width)) for value, width in zip(given, sizes, strict=True))

        return values | {"size": next((name for name, sizes in _SIZES.items() if of_size(sizes)), "custom")}

    @model_validator(mode="after")
    def _blocks_divide(self) -> "ModelConfig":
        if self.core == "block_gru" and self.deter % self.blocks:
            raise ValueError(f"deter={self.deter} is not a multiple of blocks={self.blocks}; change one of them")
        return self


class LossConfig(_Section):
    """Weights of the loss terms (V3 eq. 4 and following) and the free nats."""

    decoder: float = Field(default=1.0, ge=0, description="weight of each reconstructed key")
    contrastive: float = Field(default=1.0, ge=0, description="weight of the contrastive representation")
    redundancy: float = Field(default=0.05, ge=0, description="weight of the redundancy-reducing representation")
    prototypes: float = Field(default=1.0, ge=0, description="weight of the prototypes' losses")
    reward: float = Field(default=1.0, ge=0, description="weight of the reward head")
    continue_: Annotated[float, tyro.conf.arg(name="continue")] = Field(
        default=1.0, ge=0, alias="continue", description="weight of the continue head"
    )
    dyn: float = Field(default=1.0, ge=0, description="weight of KL(sg posterior || prior)")
    rep: float = Field(default=0.1, ge=0, description="weight of KL(posterior || sg prior)")
    policy: float = Field(default=1.0, ge=0, description="weight of the actor loss")
    value: float = Field(default=1.0, ge=0, description="weight of the critic loss on imagined states")
    replay_value: float = Field(default=0.3, ge=0, description="weight of the critic loss on replayed states")
    free_nats: float = Field(default=1.0, ge=0, description="KL below which dyn and rep give no gradient [nats]")
    free_nats_of: Literal["step", "mean"] = Field(
        default="step", description="what is held against free_nats: the KL of each step (V3), or their mean (V1, V2) [choice]"
    )

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)


class PlannerConfig(_Section):
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


class BehaviorConfig(_Section):
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


class OptimizerConfig(_Section):
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
        return _none_from_text(value)


class ReplayConfig(_Section):
    """Replayed sequences and how often they are used."""

    capacity: int = Field(default=5_000_000, ge=2, description="steps held over all environments [records]")
    storage: Literal["memory", "disk"] = Field(
        default="memory", description="where they are held: disk is the run folder's [choice]"
    )
    batch_size: int = Field(default=16, ge=1, description="sequences in a batch B [count]")
    batch_length: int = Field(default=64, ge=2, description="length of a sequence T [records]")
    train_ratio: float = Field(default=32.0, gt=0, description="replayed steps trained per record collected [ratio]")
    context: int = Field(
        default=1, ge=0, le=1, description="1: sequences continue from the stored latent; 0: from the zero state [records]"
    )
    online: bool = Field(default=True, description="train on new sequences first, then on uniform ones [true/false]")
    min_items: int = Field(default=1024, ge=1, description="start positions that must be held before training starts [count]")
    prefill: int = Field(default=0, ge=0, description="decisions with random actions before training [decisions]")
    pretrain: int = Field(default=1, ge=1, description="updates when training starts [count]")


class TrainConfig(_Section):
    """How long a run lasts and what it leaves behind."""

    frames: int = Field(default=10_000, ge=1, le=10**10, description="length of the run [simulator steps]")
    log_every: int = Field(default=250, ge=1, description="distance of metrics rows [simulator steps]")
    eval_every: int = Field(
        default=2_000, ge=0, description="distance of evaluations with checkpoints; 0: none [simulator steps]"
    )
    eval_episodes: int = Field(default=10, ge=1, description="episodes of an evaluation on the way [episodes]")
    final_episodes: int = Field(default=100, ge=1, description="episodes of the evaluation at the end [episodes]")
    checkpoint_minutes: float = Field(default=10.0, gt=0, description="longest time between checkpoints [minutes]")
    keep_checkpoints: int = Field(default=2, ge=2, description="newest checkpoints kept beside the best [count]")
    refused_limit: int = Field(
        default=10, ge=0, description="updates that are not finite, and so left out, before a run stops [updates]"
    )
    tensorboard: bool = Field(default=True, description="write TensorBoard events [true/false]")
    wandb: bool = Field(default=False, description="log to Weights & Biases; needs `pip install wandb` [true/false]")
    video: bool = Field(default=True, description="write a video of one evaluation episode [true/false]")


class Config(_Section):
    """A whole run."""

    preset: str = Field(
        default=DEFAULT_PRESET, pattern=_PRINTABLE, description="name of the preset this configuration started from"
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="seed of parameters, environments and replay")
    device: Literal["auto", "cpu", "gpu", "tpu"] = Field(default="auto", description="where the compiled step runs")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="compute dtype; auto: float32 on cpu, else bfloat16"
    )
    runs: str = Field(default="runs", description="folder that holds the run folders [path]")
    env: EnvConfig = Field(default_factory=EnvConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    behavior: BehaviorConfig = Field(default_factory=BehaviorConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    replay: ReplayConfig = Field(default_factory=ReplayConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)

    @model_validator(mode="after")
    def _replay_holds_a_batch(self) -> "Config":
        replay, num_envs = self.replay, self.env.num_envs
        per_env = replay.capacity // num_envs
        window = replay.batch_length + replay.context
        if per_env <= window:
            raise ValueError(
                f"replay.capacity={replay.capacity} over {num_envs} environments holds {per_env} steps each; "
                f"replay.batch_length={replay.batch_length} needs {window + 1}. "
                "Raise replay.capacity, or lower replay.batch_length"
            )
        available = (per_env - window + 1) * num_envs
        if replay.min_items > available:
            raise ValueError(
                f"replay.min_items={replay.min_items} can never be reached: replay.capacity={replay.capacity} offers "
                f"{available} start positions. Raise replay.capacity, or lower replay.min_items"
            )
        return self


def preset_names() -> list[str]:
    """Names of the presets in `configs/`."""
    return sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))


def load_config(preset: str = DEFAULT_PRESET, overrides: Mapping[str, Any] | None = None) -> Config:
    """Builds the configuration of a preset with dotted overrides such as {"env.task": "gym:Acrobot-v1"}.

    Raises:
      ConfigError: unknown preset or field, wrong type, value out of range.
    """
    if preset not in preset_names():
        raise ConfigError(f"unknown preset {preset!r}{_nearest(preset, preset_names())} Presets: {', '.join(preset_names())}")
    values = read_yaml(CONFIG_FOLDER / f"{preset}.yaml")
    values["preset"] = preset
    parse_config(values, source=f"preset {preset}")  # before the overrides: they need its sections to be mappings
    if "model.size" in (overrides or {}):
        # A size asked for by name replaces the preset's widths; widths asked for beside it still count.
        values["model"] = {name: width for name, width in values.get("model", {}).items() if name not in _WIDTHS}
    for name, value in (overrides or {}).items():
        _check_option(name)
        section = values
        *parents, leaf = name.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[leaf] = value
    return parse_config(values, source=f"preset {preset}")


def parse_config(values: Mapping[str, Any], source: str) -> Config:
    """Validates nested values; `source` names where they came from in the error.

    Raises:
      ConfigError: one line that names the field, the value, what was expected and the fix.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_describe(error)}") from None


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases: a few lines of them can stand for gigabytes, or contain themselves."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"write out *{event.anchor}: aliases are not read", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping without running any code in it."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except Exception as error:  # what PyYAML raises is open-ended: "!!bool x" a KeyError, "!!int" of nothing an IndexError
        raise ConfigError(f"{path} cannot be read as YAML: {brief(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}; a mapping of fields to values was expected")
    return values


def write_yaml(config: Config, path: Path) -> None:
    """Writes the resolved configuration, through a temporary file."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(yaml.safe_dump(config.model_dump(by_alias=True), sort_keys=False), encoding="utf-8")
    os.replace(temporary, path)


def parse_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """Reads `--field value` and `--field=value` pairs into dotted overrides.

    Raises:
      ConfigError: an unknown field, with the nearest name, or a field without a value.
    """
    overrides: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        if not word.startswith("--"):
            raise ConfigError(f"unexpected argument {word!r}; options are written --field value")
        name, equals, value = word[2:].partition("=")
        _check_option(name)
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise ConfigError(f"--{name} needs a value: {_field_help(name)}")
        overrides[name] = value
    return overrides


def field_names(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, pydantic field) of every leaf of the configuration."""
    for name, field in section.model_fields.items():
        dotted = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from field_names(field.annotation, dotted + ".")
        else:
            yield dotted, field


def _field_help(name: str) -> str:
    return dict(field_names())[name].description


def _check_option(name: str) -> None:
    names = [known for known, _ in field_names()]
    if name not in names:
        raise ConfigError(f"unknown option --{name}{_nearest(name, names)} `--help` lists all options")


def _nearest(name: str, known: Sequence[str]) -> str:
    """ "; did you mean 'x'?" for the closest name, matching a bare last part ("task") too."""
    by_leaf = [full for full in known if full.split(".")[-1] == name]
    close = by_leaf or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."


def _describe(error: ValidationError) -> str:
    """One line for the first thing that is wrong."""
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown field {shown(name)}{_nearest(name, [known for known, _ in field_names()])}{more}"
    message = problem["msg"].removeprefix("Value error, ")
    if not name or problem["type"] == "value_error":
        return f"{message}{more}"
    names = dict(field_names())
    unit = f" ({names[name].description})" if name in names else ""
    message = message[0].lower() + message[1:]
    return f"{name}={shown(problem['input'])}: {message}{unit}{more}"
