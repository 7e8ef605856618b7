"""The page: its numbers against hand arithmetic, and that it is safe to open."""

import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from run_folders import make_run

from dreamer_jax.cli import report as command
from dreamer_jax.report.page import write_report
from dreamer_jax.report.summary import read_runs

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "report.py"


class _Page(HTMLParser):
    """Tables as rows of cells, every element that was opened, and the text outside of tables."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self.texts, self._cell = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._cell = []
        elif tag == "small" and self._cell is not None:
            self._cell.append(" | ")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append("".join(self._cell))
            self._cell = None

    def handle_data(self, data):
        (self.texts if self._cell is None else self._cell).append(data)


def report(tmp_path, *, threshold=None):
    """Writes the report of the runs in tmp_path / "runs" -> (its page, its text)."""
    found = [path.parent for path in sorted((tmp_path / "runs").rglob("config.yaml"))]
    runs, damaged = read_runs(found)
    path = write_report(runs, damaged, tmp_path / "out", threshold, resamples=50)
    text = path.read_text()
    return _Page(text), text


@pytest.fixture
def walker(tmp_path):
    """Two seeds of two tasks, 50,000 frames; a third seed of walker_walk is unfinished at frame 30,000."""
    made = {
        "dmc:walker_walk": [(0, 200.0, 400.0, 500.0), (1, 300.0, 600.0, 700.0)],
        "dmc:cheetah_run": [(0, 10.0, 100.0, 300.0), (1, 20.0, 200.0, 100.0)],
    }
    for task, seeds in made.items():
        for seed, first, second, evaluation in seeds:
            make_run(
                tmp_path / "runs" / task[4:] / str(seed),
                [(25_000, first), (50_000, second)],
                evaluation,
                evals=[(25_000, first)],
                seed=seed,
                env__task=task,
            )
    make_run(tmp_path / "runs" / "walker_walk" / "2", [(25_000, 1.0), (30_000, 1.0)], seed=2, env__task="dmc:walker_walk")
    return tmp_path


def test_final_scores_by_hand(walker):
    """Published values are copied by hand from the released scores at 50,000 frames."""
    page, text = report(walker)
    heads = next(row for row in page.rows if "DreamerV3" in row)
    row = dict(zip(heads, next(row for row in page.rows if row[:3] == ["dmc:walker_walk", "dmc_proprio_cpu", "3"])))
    assert row["frames"] == "50,000 | evaluation: 50,000"
    assert row["ours"] == "500.0 ± 141.4 | 0: 400.0, 1: 600.0"  # std over n - 1: 100 * sqrt(2)
    assert row["ours, deterministic"] == "600.0 ± 141.4 | 0: 500.0, 1: 700.0"
    assert row["ours, sampled"] == "590.0 ± 141.4 | 0: 490.0, 1: 690.0"
    assert (row["DreamerV3"], row["D4PG"]) == ("213.4", "57.2")
    kinds = next(row for row in page.rows if "TRAINING returns" in row)
    assert kinds == ["", "TRAINING returns", "EVALUATION returns"]
    spans = [attributes.get("colspan") for tag, attributes in page.tags if tag == "th"][:3]
    assert spans == ["4", "3", "6"]  # ours, DreamerV3, PPO; ours twice, D4PG, DMPO, MPO, DDPG
    assert heads[4:7] == ["ours", "DreamerV3", "PPO"]
    assert "not that far: seed 2 (at frame 30,000)" in text


def test_aggregates_by_hand(walker):
    """Seeds x tasks are 400 100, 600 200: the two in the middle have mean 300; means over seeds 500 and 150."""
    page, text = report(walker)
    rows = {(row[0], row[1].split(" in ")[0]): row for row in page.rows if len(row) == 7}
    ours = rows["ours: dmc_proprio_cpu", "TRAINING"]
    assert ours[1:4] == ["TRAINING in the bin that ends at 50,000 frames", "2", "2"]
    assert [cell.split(" ")[0] for cell in ours[4:]] == ["0.300", "0.325", "0.325"]
    for cell in ours[4:]:
        point, low, high = (float(number) for number in re.findall(r"\d\.\d+", cell))
        assert low <= point <= high
    assert rows["ours: dmc_proprio_cpu", "EVALUATION, deterministic, of the last agent"][6].startswith("0.400 [")
    # DreamerV3 at 50,000 frames: walker_walk 213.4, cheetah_run 196.2. No interval, no median.
    assert rows["published: DreamerV3", "TRAINING"][2:] == ["2", "", "", "", "0.205"]
    assert "return / 1000" in text


def test_every_run_is_listed_with_its_protocol(walker):
    (walker / "runs" / "broken").mkdir()
    (walker / "runs" / "broken" / "config.yaml").write_text("nope: 1\n")
    page, text = report(walker, threshold=150)
    assert "5 runs on 2 tasks, 4 finished, 1 unfinished, 1 that cannot be read" in text
    runs = [row for row in page.rows if row[0].startswith("dmc:") and str(walker) in row[-1]]
    assert len(runs) == 5
    unfinished = next(row for row in runs if row[3] == "unfinished")
    assert unfinished[2:8] == ["2", "unfinished", "30,000 | of 50,000", "5.0", "1.0", "\N{EN DASH}"]
    assert any("broken" in paragraph and "nope" in paragraph for paragraph in page.texts)
    protocol = [row for row in page.rows if row[-1] == "(1)"]
    assert protocol[0][:8] == ["dmc:cheetah_run", "dmc_proprio_cpu", "0", "custom", "1", "2", "128", "4 x 64"]
    assert protocol[0][8:] == ["50,000", "25,000", "12,500", "cpu, 2 cores", "auto", "0123456789", "(1)"]
    assert "(1) python 3.11.7, jax 0.10.2" in text


def test_figures_and_summaries_are_beside_the_page(walker):
    page, _ = report(walker)
    assert {path.name for path in (walker / "out").iterdir()} == {
        "report.html",
        "dmc_walker_walk-state.png",
        "dmc_cheetah_run-state.png",
        *(f"dmc_walker_walk-dmc_proprio_cpu-seed{seed}.json" for seed in (0, 1, 2)),
        *(f"dmc_cheetah_run-dmc_proprio_cpu-seed{seed}.json" for seed in (0, 1)),
    }
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    shown = {base64.b64decode(image.removeprefix("data:image/png;base64,")) for image in images}
    assert shown == {path.read_bytes() for path in (walker / "out").glob("*.png")}
    assert all(image.startswith(b"\x89PNG") for image in shown)
    summary = json.loads((walker / "out" / "dmc_walker_walk-dmc_proprio_cpu-seed2.json").read_text())
    assert (summary["finished"], summary["frames"], summary["sampled"]) == (False, 30_000, None)


def test_names_from_run_folders_are_escaped_and_nothing_is_loaded(tmp_path):
    evil = '<script src="http://x.test/a.js">$\\frac$</script>"\'&'
    run = make_run(tmp_path / "runs" / "<b>bold", [(500, 1.0), (1000, 2.0)], 3.0, preset="cartpole", env__task=f"gym:{evil}")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("preset: cartpole", f"preset: {json.dumps(evil)}"))
    environment = {"versions": {evil: evil}, "device": evil, "cores": evil, "git_commit": evil}
    (run / "environment.json").write_text(json.dumps(environment))
    broken = tmp_path / "runs" / "<i>broken"
    broken.mkdir()
    (broken / "config.yaml").write_text(f"{json.dumps(evil)}: 1\n")
    page, text = report(tmp_path)
    layout = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "h3",
        "p",
        "ul",
        "li",
        "b",
        "div",
        "span",
        "small",
        "wbr",
    }
    figures = {"figure", "img", "figcaption", "table", "thead", "tbody", "tr", "th", "td"}
    assert {tag for tag, _ in page.tags} <= layout | figures
    for tag, attributes in page.tags:
        assert set(attributes) <= {"class", "colspan", "src", "alt", "lang", "charset", "name", "content"}
        assert "http" not in attributes.get("src", "")
        assert tag != "b" or attributes == {}
    assert "<script" not in text
    assert "<b>bold" not in text
    assert "<i>" not in text
    assert not re.search(r"url\(|@import|(src|href)\s*=\s*[\"']?(https?:)?//", re.sub(r"base64,[^\"]*", "", text))
    assert any(evil in cell for row in page.rows for cell in row)  # shown, as text
    assert {path.parent for path in (tmp_path / "out").rglob("*")} == {tmp_path / "out"}


def test_a_task_without_published_curves_says_so(tmp_path):
    make_run(tmp_path / "runs" / "a", [(50_000, 5.0)], 6.0, env__task="dmc:humanoid_walk")
    make_run(tmp_path / "runs" / "b", [(1_000, 5.0)], 6.0, preset="cartpole")
    page, text = report(tmp_path)
    assert text.count("No published curves for this task.") == 2
    assert "Published curves go on" not in text
    assert "Published:" not in text
    heads = next(row for row in page.rows if "DreamerV3" in row)
    row = dict(zip(heads, next(row for row in page.rows if row[:2] == ["dmc:humanoid_walk", "dmc_proprio_cpu"])))
    assert (row["ours"], row["DreamerV3"]) == ("5.0 | 0: 5.0", "\N{EN DASH}")
    assert "at least two tasks" in text


def test_a_published_mean_stands_only_where_all_our_tasks_have_one(tmp_path):
    """humanoid_walk has no curve of any method; D4PG and others have no bin that ends at 25,000 frames."""
    make_run(tmp_path / "runs" / "a", [(25_000, 5.0)], 6.0, env__task="dmc:walker_walk")
    make_run(tmp_path / "runs" / "b", [(25_000, 5.0)], 6.0, env__task="dmc:walker_run")
    page, text = report(tmp_path)
    published = [row[0] for row in page.rows if row[0].startswith("published: ")]
    assert published == ["published: DreamerV3", "published: PPO"]
    assert "no published mean of all 2 tasks at 25,000 frames: D4PG, DMPO, MPO, DDPG." in text
    make_run(tmp_path / "runs" / "c", [(25_000, 5.0)], 6.0, env__task="dmc:humanoid_walk")
    page, text = report(tmp_path)
    assert not [row for row in page.rows if row[0].startswith("published: ")]
    assert "no published mean of all 3 tasks at 25,000 frames: DreamerV3, PPO, D4PG, DMPO, MPO, DDPG." in text


def test_two_protocols_are_two_aggregates_beside_one_of_each_published_method(walker):
    for task in ("walker_walk", "cheetah_run"):
        folder = walker / "runs" / task / "other"
        make_run(folder, [(50_000, 50.0)], 60.0, env__task=f"dmc:{task}", replay__train_ratio=64)
    page, text = report(walker)
    methods = [row[0] for row in page.rows if len(row) == 7 and row[1].startswith("TRAINING")]
    ours = [f"ours: dmc_proprio_cpu (replay.train_ratio={ratio})" for ratio in (128, 64)]
    assert methods == [*ours, "published: DreamerV3", "published: PPO"]
    row = next(row for row in page.rows if row[0] == ours[1])
    assert row[3:] == ["1", "0.050", "0.050", "0.050"]
    assert f"{ours[1].removeprefix('ours: ')}: No interval" in text


def test_a_report_of_runs_that_have_not_begun(tmp_path):
    make_run(tmp_path / "runs" / "a", [], env__task="dmc:walker_walk")
    page, _ = report(tmp_path)
    assert any("no full bin" in row for row in page.rows)


def test_other_published_figures_appear_once_a_run_is_that_long(tmp_path):
    make_run(tmp_path / "runs" / "a", [(475_000, 5.0)], 6.0, env__task="dmc:walker_walk")
    assert "MR.Q" not in report(tmp_path)[1]
    make_run(tmp_path / "runs" / "b", [(500_000, 5.0)], 6.0, env__task="dmc:walker_walk", seed=1)
    text = report(tmp_path)[1]
    assert "at 500,000 frames, mean / median of returns: MR.Q 846 / 912 (evaluation)" in text
    assert "818" not in text  # that is vision's


def test_the_command(walker, capsys):
    command.main([str(walker / "runs"), "--threshold", "100"])
    printed = capsys.readouterr().out
    assert printed.count("\n") == 2 + 5
    assert "solved at" in printed
    assert not (walker / "out").exists()
    command.main([str(walker / "runs" / "walker_walk" / "0"), "--output", str(walker / "out")])
    assert f"wrote {walker / 'out' / 'report.html'}" in capsys.readouterr().out


def test_missing_rliable_ends_the_script_before_anything_is_done(walker):
    """None in sys.modules hides an installed package."""
    code = f"import sys, runpy; sys.modules['rliable'] = None; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    arguments = [str(walker / "runs"), "--output", str(walker / "out")]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == 'error: the report needs the rliable package: pip install "dreamer_jax[report]"\n'
    assert not (walker / "out").exists()
