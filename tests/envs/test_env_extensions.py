"""Families of environments and kinds of observation that come from other modules."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from pydantic import Field

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import ConfigError, EnvError
from dreamer_jax.core.extensions import DOORS, ObservationNetwork, register
from dreamer_jax.core.section import Section
from dreamer_jax.core.spaces import ObsSpec
from dreamer_jax.envs import make_env
from dreamer_jax.envs.families.base import Family
from dreamer_jax.envs.spaces import EnvSpaces, spaces_of
from dreamer_jax.envs.tasks import make_simulator

LETTERS = "abcdefgh"


class Talking(gymnasium.Env):
    """Says a word of as many letters as steps have been taken."""

    action_space = spaces.Discrete(2)

    def __init__(self, name: str = "any", volume: int = 0, render_mode: str | None = None):
        self.observation_space = spaces.Dict(word=spaces.Text(4, charset=LETTERS), volume=spaces.Box(0, 99, ()))
        self.name, self.volume, self.render_mode = name, volume, render_mode
        self.said: Any = None

    def _observation(self):
        word = LETTERS[: self.count] if self.said is None else self.said
        return {"word": word, "volume": np.float32(self.volume)}

    def reset(self, *, seed=None, options=None):
        self.count = 1
        return self._observation(), {}

    def step(self, action):
        self.count += 1
        return self._observation(), 1.0, False, False, {}


class Letters(ObservationNetwork):
    """Words as indices of their letters from 1 on, 0 behind their end."""

    @classmethod
    def spec(cls, space):
        return ObsSpec(cls.name, (4,), classes=9, storage="int32") if isinstance(space, spaces.Text) else None

    @classmethod
    def convert(cls, value, spec):
        if not isinstance(value, str):
            raise ValueError("it is no text")
        if value == "long":
            return np.zeros(5, np.int32)
        indices = [LETTERS.index(letter) + 1 for letter in value]
        return np.array(indices + [0] * (4 - len(indices)), np.int32)


class Talkers(Family):
    form = "talking:<name>"

    class Options(Section):
        volume: int = Field(default=3, ge=0, description="of the voice [decibels]")

    def make(self, name, config, render):
        return Talking(name, self.options.volume, "rgb_array" if render else None)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    """Both are known during a test, and not after it."""
    register("letters")(Letters)
    register("talking")(Talkers)
    yield
    for door, name in (("observation", "letters"), ("family", "talking")):
        DOORS[door]._classes.pop(name, None)


def talking() -> gymnasium.Env:
    return Talking()


def config(**options: Any) -> EnvConfig:
    return EnvConfig.model_validate({"task": "talking:ann", "kinds": ("letters",), **options})


# Families


def test_a_family_makes_what_follows_its_name():
    env = make_simulator(config(task="talking:ann:b", options={"volume": 7}), render=True)
    assert isinstance(env, Talking)
    assert (env.name, env.volume, env.render_mode) == ("ann:b", 7, "rgb_array")
    assert make_simulator(config()).get_wrapper_attr("volume") == 3


def test_a_task_of_no_family_lists_the_forms_of_all():
    forms = (
        "gym:<registered id>, gym:<module>:<registered id>, dmc:<domain>_<task>, atari:<game>, "
        "import:<package.module>:<function> or talking:<name>"
    )
    for task in ("talk:ann", "talking:", "talking", "import:math"):
        with pytest.raises(EnvError) as error:
            make_env(EnvConfig(task=task))
        assert str(error.value) == f"env.task={task!r} is not a task. Write {forms}"


def test_without_others_the_forms_are_those_of_the_project():
    DOORS["family"]._classes.pop("talking")
    with pytest.raises(EnvError, match=r"Write gym:<registered id>, .*, atari:<game> or import:<package.module>:<function>$"):
        make_env(EnvConfig(task="talking:ann"))


def test_a_family_can_repeat_actions_itself(monkeypatch):
    action = np.float32([1, 0])
    for itself, expected in ((False, 3.0), (True, 1.0)):
        monkeypatch.setattr(Talkers, "repeats_actions", itself)
        env = make_env(config(action_repeat=3))
        env.reset()
        assert env.step(action)[1] == expected


# Kinds of observation


def test_an_imported_kind_is_asked_first():
    env = make_env(config(options={"volume": 5}))
    specs = env.get_wrapper_attr("obs_specs")
    assert specs == {"volume": ObsSpec("vector", ()), "word": ObsSpec("letters", (4,), classes=9, storage="int32")}
    assert specs["word"].dtype == np.int32
    observation, _ = env.reset()
    np.testing.assert_array_equal(observation["word"], [1, 0, 0, 0])
    np.testing.assert_array_equal(env.step(np.float32([1, 0]))[0]["word"], [1, 2, 0, 0])
    assert observation["volume"] == 5
    assert env.observation_space.contains(observation)


def test_a_kind_takes_spaces_that_a_built_in_one_would(monkeypatch):
    """In the order in which they are named."""

    class Halves(ObservationNetwork):
        @classmethod
        def spec(cls, space):
            return ObsSpec(cls.name, (1,), storage="float16")

        @classmethod
        def convert(cls, value, spec):
            return np.zeros(1, np.float16)

    register("halves")(Halves)
    try:
        kinds = {key: spec.kind for key, spec in make_env(config(kinds="letters,halves")).get_wrapper_attr("obs_specs").items()}
        assert kinds == {"volume": "halves", "word": "letters"}
        kinds = {key: spec.kind for key, spec in make_env(config(kinds="halves,letters")).get_wrapper_attr("obs_specs").items()}
        assert kinds == {"volume": "halves", "word": "halves"}
    finally:
        DOORS["observation"]._classes.pop("halves")


def test_without_the_kind_its_space_is_refused():
    with pytest.raises(EnvError, match="observation key 'word' has space Text"):
        make_env(config(kinds=()))
    with pytest.raises(ConfigError, match=r"env.kinds='leters' is not the name of a kind .*; did you mean 'letters'"):
        make_env(config(kinds=("leters",)))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (5, r"observation key 'word' is int 5, which kind 'letters' cannot convert \(it is no text\); the space promised Text"),
        ("xyz", r"cannot convert \(substring not found\)"),
        (
            "long",
            r"is str 'long', of which kind 'letters' makes an array of int32 \[5\]; an array of int32 \[4\] was",
        ),
    ],
)
def test_what_a_kind_cannot_convert_is_one_line(said, message):
    env = make_env(config())
    env.reset()
    env.unwrapped.said = said  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(EnvError, match=f"^talking:ann at step 1 of the episode: .*{message}") as error:
        env.step(np.float32([1, 0]))
    assert len(str(error.value).splitlines()) == 1


def test_numbers_that_are_not_finite_are_refused(monkeypatch):
    monkeypatch.setattr(Letters, "spec", classmethod(lambda cls, space: ObsSpec(cls.name, (2,), storage="float32")))
    monkeypatch.setattr(Letters, "convert", classmethod(lambda cls, value, spec: np.float32([0, np.inf])))
    with pytest.raises(EnvError, match=r"is inf at index \[1\]"):
        make_env(config()).reset()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (lambda cls, space: "words", "spec returned words; None or an ObsSpec of kind 'letters' was expected"),
        (lambda cls, space: ObsSpec("vector", (2,)), "spec returned ObsSpec.*; None or an ObsSpec of kind 'letters'"),
        (lambda cls, space: space.nothing, "spec raised AttributeError"),
        (lambda cls, space: ObsSpec(cls.name, (2,)), "spec raised EnvError: storage=''"),
    ],
)
def test_a_kind_that_says_something_else_is_refused(spec, message, monkeypatch):
    monkeypatch.setattr(Letters, "spec", classmethod(spec))
    with pytest.raises(EnvError, match=f"^talking:ann: observation key '(word|volume)', kind 'letters': {message}"):
        make_env(config())


@pytest.mark.parametrize("storage", ["", "object", "bfloat16", "str", "complex64", ">i4", "nonsense", "longdouble", "M8[s]"])
def test_dtypes_that_numpy_cannot_save_are_refused(storage):
    with pytest.raises(EnvError, match=f"^storage='{storage.replace('[', '.')[:8]}.*' of observations of kind 'tokens'"):
        ObsSpec("tokens", (2,), storage=storage)


def test_built_in_kinds_have_their_own_dtype():
    with pytest.raises(EnvError, match="storage='int8' of observations of kind 'image', which are uint8; leave it out"):
        ObsSpec("image", (8, 8, 3), storage="int8")


def test_spaces_of_a_kind_are_kept():
    """A space that only the kind knows is kept as its text; the kind alone converts."""
    before = spaces_of(make_env(config()))
    values = before.as_json()
    assert values is not None
    after = EnvSpaces.from_json(values, "talking:ann", ("letters",))
    assert after.specs == before.specs
    shown = {"word": "bad", "volume": np.float32(1)}
    np.testing.assert_array_equal(after.observation(shown)["word"], before.observation(shown)["word"])
    for observation in ({"volume": 1.0}, {**shown, "word": 3}):
        with pytest.raises(EnvError) as one:
            before.observation(observation)
        with pytest.raises(EnvError) as two:
            after.observation(observation)
        assert str(one.value) == str(two.value)
    with pytest.raises(ValueError, match="has space Text"):
        EnvSpaces.from_json(values, "talking:ann")


# Processes


def test_processes_import_what_the_run_has_imported(tmp_path):
    """Their environments need the family and the kind. In a process of its own: nothing else imports the module."""
    (tmp_path / "spoken.py").write_text(
        "from test_env_extensions import Letters, Talkers\n"
        "from dreamer_jax.core.extensions import register\n"
        "register('letters')(type('Mine', (Letters,), {'__module__': __name__}))\n"
        "register('talking')(type('Ours', (Talkers,), {'__module__': __name__, 'Options': Talkers.Options}))\n"
    )
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import numpy as np\n"
        "from dreamer_jax.core.config import EnvConfig\n"
        "from dreamer_jax.core.extensions import import_extensions\n"
        "from dreamer_jax.envs import make_vector_env\n"
        "if __name__ == '__main__':\n"
        "    import_extensions(['spoken'])\n"
        "    config = EnvConfig(task='talking:ann', kinds=('letters',), processes=True)\n"
        "    envs = make_vector_env(config, [1, 2])\n"
        "    print(envs.reset().obs['word'].tolist(), envs.step(np.eye(2, dtype=np.float32)).obs['word'].tolist())\n"
        "    envs.close()\n"
    )
    here = __file__.rpartition("/")[0]
    command = [sys.executable, "-c", code, str(tmp_path), here]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout == "[[1, 0, 0, 0], [1, 0, 0, 0]] [[1, 2, 0, 0], [1, 2, 0, 0]]\n", result.stderr
