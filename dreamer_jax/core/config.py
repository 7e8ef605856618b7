"""A whole run's configuration: typed, frozen and validated sections. Imports no JAX.

Defaults are DreamerV3's (Hafner et al. 2023, "Mastering Diverse Domains through World Models", and its author's code). The
algorithm's sections are in `algorithm.py`; presets, files and the command line in `presets.py` and `options.py`.
"""

from typing import Any, Literal

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from dreamer_jax.core.algorithm import BehaviorConfig, LossConfig, ModelConfig, OptimizerConfig
from dreamer_jax.core.extensions import DOORS, Extension, options_classes
from dreamer_jax.core.section import AnyOptions, Names, Section, none_from_text, typed
from dreamer_jax.core.text import shown

DEFAULT_PRESET = "cartpole"
_PRINTABLE = r"^\P{C}+$"  # no control characters: tables show it


class EnvConfig(Section):
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
    kinds: Names = Field(
        default=(), description="imported kinds of observation, asked in this order before the built-in ones [names]"
    )
    options: SerializeAsAny[Section] = Field(
        default_factory=Section, validate_default=True, description="options of an imported family of environments [section]"
    )

    @field_validator("camera", mode="before")
    @classmethod
    def _none_can_be_typed(cls, value: Any) -> Any:
        return none_from_text(value)

    @field_validator("options", mode="before")
    @classmethod
    def _options_are_the_familys(cls, values: Any, info: ValidationInfo) -> Any:
        """Makes the options those of the task's family; of one that is not imported they stay as they are."""
        family = DOORS["family"].from_outside(info.data.get("task", "").partition(":")[0])
        return typed(family.Options if family else AnyOptions, values)

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


class ReplayConfig(Section):
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


class TrainConfig(Section):
    """How long a run lasts and what it leaves behind."""

    frames: int = Field(default=10_000, ge=1, le=10**10, description="length of the run [simulator steps]")
    log_every: int = Field(default=250, ge=1, description="distance of metrics rows [simulator steps]")
    checkpoint_minutes: float = Field(default=10.0, gt=0, description="longest time between checkpoints [minutes]")
    keep_checkpoints: int = Field(default=2, ge=2, description="newest checkpoints kept beside the best [count]")
    minutes: float | None = Field(
        default=None, gt=0, description="longest time of the run, earlier parts included; none: no limit [minutes]"
    )
    target_return: float | None = Field(
        default=None, description="mean of the last 10 training episodes that ends the run; none: no such end [return]"
    )
    init_from: str | None = Field(
        default=None, description="RUN or RUN:checkpoint whose agent the new run starts from; none: from scratch [path]"
    )
    init_parts: Literal["all", "world_model"] = Field(
        default="all", description="what of the agent of train.init_from is taken [choice]"
    )
    refused_limit: int = Field(
        default=10, ge=0, description="updates that are not finite, and so left out, before a run stops [updates]"
    )
    tensorboard: bool = Field(default=True, description="write TensorBoard events [true/false]")
    wandb: bool = Field(default=False, description="log to Weights & Biases; needs `pip install wandb` [true/false]")
    callbacks: Names = Field(default=(), description="imported callbacks beside the built-in ones, in this order [names]")

    @field_validator("minutes", "target_return", "init_from", mode="before")
    @classmethod
    def _none_can_be_typed(cls, value: Any) -> Any:
        return none_from_text(value)


class EvalConfig(Section):
    """Evaluations: short ones while a run trains, by which the best checkpoint is known, and a long one of the last agent."""

    every: int = Field(default=2_000, ge=0, description="distance of evaluations with checkpoints; 0: none [simulator steps]")
    episodes: int = Field(default=10, ge=1, description="episodes of an evaluation on the way [episodes]")
    final_episodes: int = Field(default=100, ge=1, description="episodes of the evaluation at the end [episodes]")
    video: bool = Field(default=True, description="write a video of one episode of the last agent [true/false]")
    dreams: bool = Field(
        default=True, description="with each evaluation show what the agent imagines beside what happened [true/false]"
    )


class Config(Section):
    """A whole run.

    `extensions` has a section for each imported extension that is chosen somewhere, of its own type. Sections of what is not
    imported stay as they were read: a report reads a run without importing anything.
    """

    imports: Names = Field(default=(), description="modules that register what else the configuration names [names]")
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
    eval: EvalConfig = Field(default_factory=EvalConfig)
    extensions: dict[str, SerializeAsAny[Section]] = Field(default_factory=dict, description="options of extensions")

    @field_validator("extensions", mode="before")
    @classmethod
    def _sections_are_typed(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        known = options_classes()
        return {name: typed(known.get(name, AnyOptions), options, name) for name, options in values.items()}

    @model_validator(mode="after")
    def _what_is_chosen_has_a_section(self) -> "Config":
        known = options_classes()
        defaults = {name: known[name]() for name in self.chosen() if name in known and known[name].model_fields}
        # A frozen model: nothing else is changed after its validation.
        object.__setattr__(self, "extensions", dict(sorted({**defaults, **self.extensions}.items())))
        return self

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

    def chosen(self) -> list[str]:
        """The names of the extensions that this run uses, families of environments apart."""
        return [self.model.representation, *self.loss.terms, *self.behavior.bonuses, *self.env.kinds, *self.train.callbacks]

    def options_of(self, extension: type[Extension]) -> Any:
        """The options of a registered extension, an object of its `Options`."""
        return typed(extension.Options, self.extensions.get(extension.name, {}))
