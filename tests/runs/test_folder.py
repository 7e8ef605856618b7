"""The folder of a run: its name."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from counting import tiny_config

from dreamer_jax.core.errors import StorageError
from dreamer_jax.runs import folder
from dreamer_jax.runs.folder import create_run, open_run


def test_runs_that_start_in_the_same_second_have_a_folder_each(tmp_path, monkeypatch):
    """Also where they start at the same moment: of eight no two have the same one, and each is whole."""
    monkeypatch.setattr(folder.time, "strftime", lambda form: "20260101T120000")
    configs = [tiny_config(tmp_path, train__frames=100 + i) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(create_run, configs))
    name = "cartpole-0-20260101T120000"
    assert {run.name for run in runs} == {name, *(f"{name}-{number}" for number in range(2, 9))}
    assert [open_run(run) for run in runs] == configs


@pytest.mark.parametrize("part", ["", "import_counting_five", "import_counting_five/cartpole-0-20260101T120000"])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, monkeypatch, part):
    monkeypatch.setattr(folder.time, "strftime", lambda form: "20260101T120000")
    runs = tmp_path / "runs"
    place = runs / part
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("mine")
    with pytest.raises(StorageError, match="cannot be written") as caught:
        create_run(tiny_config(runs))
    assert "choose another with --runs" in str(caught.value)
