"""The modules of docs/extending.md, copied into a package outside this project: one of each door, in one run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import counting
import pytest
import yaml

PAGE = Path(__file__).resolve().parent.parent / "docs" / "extending.md"
BLOCK = re.compile(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MODULES = ("actions", "next_embed", "novelty", "tokens", "corridor", "best")
SMALL = {name: value for name, value in counting.TINY.items() if name not in ("device", "eval.dreams")}
CHOSEN = {
    "env.task": "corridor:3",
    "env.kinds": "tokens",
    "env.options.slip": 0.2,
    "env.num_envs": 2,
    "env.processes": True,
    "model.representation": "next_embed",
    "loss.terms": "inverse",
    "extensions.inverse.weight": 0.5,
    "behavior.bonuses": "novelty",
    "extensions.novelty.weight": 0.1,
    "train.callbacks": "best",
    "eval.every": 80,
    "train.frames": 120,
}


def _words(options: dict) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def _dreamer(folder: Path, *words: str) -> str:
    """What a command prints in a folder."""
    command = [sys.executable, "-m", "dreamer_jax", *words]
    result = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": ""}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the modules and the preset of the page."""
    folder = tmp_path_factory.mktemp("outside")
    for name, text in BLOCK.findall(PAGE.read_text()):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    assert {path.stem for path in (folder / "ideas").glob("*.py")} == {*MODULES, "token_layers"}
    return folder


@pytest.fixture(scope="module")
def run(outside: Path) -> Path:
    """A run with all of them."""
    imports = ",".join(f"ideas.{name}" for name in MODULES)
    _dreamer(outside, "train", "--import", imports, "--runs", "runs", "--device", "cpu", *_words(SMALL | CHOSEN))
    (folder,) = (outside / "runs" / "corridor_3").iterdir()
    return folder


def test_one_of_each_trains(run):
    """Losses and bonus are in the rows, the environment and its tokens were played, the callback wrote its file."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["kind"] == "train"]
    for name in ("loss/inverse", "loss/next_embed", "loss/novelty", "bonus/novelty"):
        assert all(isinstance(row[name], float) for row in trained)
    assert not any(name.startswith("loss/decoder") for row in trained for name in row)
    assert trained[-1]["loss/inverse"] != trained[0]["loss/inverse"]
    best = json.loads((run / "best.json").read_text())
    assert best["return"] == max(row["return_mean"] for row in rows if row["kind"] == "eval")


def test_a_run_remembers_what_it_imported_and_chose(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["imports"] == [f"ideas.{name}" for name in MODULES]
    assert config["extensions"] == {
        "inverse": {"weight": 0.5},
        "next_embed": {"weight": 1.0, "rate": 0.01},
        "novelty": {"weight": 0.1},
    }
    assert config["env"]["options"] == {"slip": 0.2}


def test_it_goes_on_and_is_evaluated(outside, run):
    """Resuming says what it imports before it does; the state of each extension comes back from the checkpoint."""
    printed = _dreamer(outside, "train", "--resume", str(run), "--train.frames", "150")
    assert printed.startswith(f"{run} imports ideas.actions, ideas.next_embed, ideas.novelty")
    assert printed.count(" imports ") == 1
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(row["frames"] for row in rows) >= 150
    assert "over 2 episodes" in _dreamer(outside, "evaluate", str(run), "--episodes", "2", "--no-video")


def test_a_report_imports_nothing(run, tmp_path):
    """From a folder where the modules cannot be found."""
    assert "corridor:3" in _dreamer(tmp_path, "report", str(run))


def test_options_of_extensions_are_in_the_help(outside):
    shown = _dreamer(outside, "train", "--import", "ideas.next_embed,ideas.corridor", "--help")
    assert "--extensions.next_embed.rate" in shown
    assert "step of the slow encoder to the encoder" in shown
    assert "--env.options.slip" in shown


def test_the_preset_of_the_page_describes_a_run(outside):
    """Its imports, environment and loss are those of the page."""
    shown = _dreamer(outside, "train", "--preset", "corridor.yaml", "--dry-run", "--device", "cpu")
    assert "corridor:5, 2 choices" in shown
    assert "tokens" in shown
