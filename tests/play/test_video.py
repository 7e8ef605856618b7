"""Videos: the frames of an episode, files that can be read back, and failures that cost nothing else."""

import weakref

import imageio.v3 as iio
import numpy as np
import pytest
from counting import Counting

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import EnvError
from dreamer_jax.play import video
from dreamer_jax.play.policy import load_policy
from dreamer_jax.play.video import recorded_episode, write_episode, write_video


def record_episode(policy, env, seed) -> tuple[list[np.ndarray], int]:
    """All frames of an episode."""
    with recorded_episode(policy, env, seed) as (frames, fps):
        return list(frames), fps


@pytest.fixture(scope="module")
def policy(finished_run):
    return load_policy(finished_run)


def test_a_video_holds_one_frame_a_step_and_the_first(policy):
    frames, fps = record_episode(policy, policy.config.env, seed=0)
    assert (len(frames), fps, frames[0].shape) == (6, 20, (32, 48, 3))


def test_every_frame_is_drawn_where_the_record_is(policy):
    """The counting environment is 40 times as bright as it has steps; with processes, it is drawn in this one."""
    for processes in (False, True):
        frames, _ = record_episode(policy, policy.config.env.model_copy(update={"processes": processes}), seed=0)
        assert [frame.max() for frame in frames] == [0, 40, 80, 120, 160, 200]


def test_frames_are_copies(policy, monkeypatch):
    """An environment may draw into the same array again and again."""
    canvas = np.zeros((32, 48, 3), np.uint8)

    def render(self):
        canvas[:] = self.count
        return canvas

    monkeypatch.setattr(Counting, "render", render)
    frames, _ = record_episode(policy, policy.config.env, seed=0)
    assert [frame.max() for frame in frames] == list(range(6))


def test_an_environment_without_pictures_has_no_video(policy, said, tmp_path):
    env = EnvConfig(task="import:counting:six")
    with pytest.raises(EnvError, match="cannot render"):
        record_episode(policy, env, seed=0)
    write_episode(policy, env, 0, tmp_path / "x.mp4")
    assert said().startswith("no video: import:counting:six cannot render images; switch its video off: --eval.video false")
    assert said().count("\n") == 1
    assert not (tmp_path / "x.mp4").exists()


RENDERED = {  # what `render` returns at the third frame, and what is said of it
    "error": (None, "RuntimeError: no display here (test_video.py:"),
    "nothing": (lambda: None, "render returned NoneType; uint8[height, width, 3] was expected"),
    "grey": (lambda: np.zeros((8, 8), np.uint8), "render returned uint8[8, 8] from 0 to 0; uint8[height"),
    "fractions": (lambda: np.full((8, 8, 3), 0.5), "render returned float64[8, 8, 3] from 0.5 to 0.5; uint8[height"),
    "large": (lambda: np.full((8, 8, 3), 300), "render returned int64[8, 8, 3] from 300 to 300; uint8[height"),
    "a list": (lambda: [np.zeros((8, 8, 3), np.uint8)] * 2, "render returned list; uint8[height"),
    "another size": (lambda: np.zeros((6, 8, 3), np.uint8), "video frame is uint8[6, 8, 3]; expected uint8[H, W, 3], all of"),
}


@pytest.mark.parametrize("broken", RENDERED)
def test_a_video_that_fails_costs_nothing_else(policy, said, tmp_path, monkeypatch, broken):
    """What `render` raises or returns is the environment's own affair: one line says why there is no video, nor half of one."""
    draw, words = RENDERED[broken]

    def render(self):
        if self.count < 2:
            return np.zeros((8, 8, 3), np.uint8)
        if draw is None:
            raise RuntimeError("no display\nhere")
        return draw()

    monkeypatch.setattr(Counting, "render", render)
    write_episode(policy, policy.config.env, 0, tmp_path / "x.mp4")
    assert said().startswith(f"no video: {words}")
    assert said().count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_other_whole_numbers_are_colours_as_well(policy, monkeypatch):
    monkeypatch.setattr(Counting, "render", lambda self: np.full((8, 8, 3), 51 * self.count))
    frames, _ = record_episode(policy, policy.config.env, seed=0)
    assert [(frame.dtype, frame.max()) for frame in frames] == [(np.uint8, 51 * step) for step in range(6)]


def test_an_episode_is_drawn_while_it_is_written(policy, tmp_path, monkeypatch):
    """A frame is written, and given back, before the second after it is drawn."""
    drawn, alive = [], []

    def render(self):
        frame = np.full((32, 48, 3), 40 * self.count, np.uint8)
        alive.append(sum(one() is not None for one in drawn))
        return frame

    write = video.np.pad

    def pad(frame, *arguments, **options):
        drawn.append(weakref.ref(frame))
        return write(frame, *arguments, **options)

    monkeypatch.setattr(Counting, "render", render)
    monkeypatch.setattr(video.np, "pad", pad)
    write_episode(policy, policy.config.env, 0, tmp_path / "x.mp4")
    assert len(iio.imread(tmp_path / "x.mp4", plugin="pyav")) == 6
    assert len(drawn) == len(alive) == 6
    assert max(alive) <= 1


@pytest.mark.parametrize(("declared", "fps"), [(0.4, 1), (None, 30), (29.6, 30)])
def test_the_frame_rate_of_a_video_is_a_whole_number(policy, monkeypatch, declared, fps):
    monkeypatch.setitem(Counting.metadata, "render_fps", declared)
    assert record_episode(policy, policy.config.env, seed=0)[1] == fps


@pytest.mark.parametrize(("height", "width"), [(64, 64), (63, 81), (400, 600)])
def test_video_reads_back(tmp_path, caplog, height, width):
    frames = [np.full((height, width, 3), 20 * index, np.uint8) for index in range(12)]
    write_video(frames, tmp_path / "episode.mp4", fps=25)
    back = iio.imread(tmp_path / "episode.mp4", plugin="pyav")
    assert iio.immeta(tmp_path / "episode.mp4", plugin="pyav")["fps"] == 25
    assert len(back) == 12
    assert back[0].shape == (height + height % 2, width + width % 2, 3)
    for index, frame in enumerate(back):
        assert abs(frame.mean() - 20 * index) < 5
    assert not caplog.records


@pytest.mark.parametrize(
    "frames", [[], [np.zeros((4, 4, 3))], [np.zeros((4, 4), np.uint8)], [np.zeros((n, 4, 3), np.uint8) for n in (4, 6)]]
)
def test_video_refuses_what_is_no_picture(tmp_path, frames):
    with pytest.raises(EnvError, match="frame"):
        write_video(frames, tmp_path / "episode.mp4", fps=25)


def test_a_video_is_whole_or_not_there(tmp_path, monkeypatch):
    """What fails while frames are encoded leaves an older video as it was, and no half of a new one."""
    path, frames, pad = tmp_path / "episode.mp4", [np.zeros((4, 4, 3), np.uint8)] * 3, np.pad
    path.write_bytes(b"older")
    calls = iter(range(3))

    def fail(*arguments, **options):
        if next(calls) == 1:
            raise RuntimeError("out of luck")
        return pad(*arguments, **options)

    monkeypatch.setattr(video.np, "pad", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        write_video(frames, path, fps=25)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("episode.mp4", b"older")]
