"""Kept compiled programs: where they are, how much of them, and what happens to a torn one."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import pytest

from dreamer_jax.agent import compiled
from dreamer_jax.agent.compiled import keep_compiled_programs, remove_oldest, remove_torn


def program(folder: Path, name: str, used: int, size: int = 100) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-cache"
    path.write_bytes(bytes(size))
    os.utime(path, (used, used))
    return path


def test_what_was_used_longest_ago_is_deleted(tmp_path):
    """Over all kinds of processors."""
    old, new, older = program(tmp_path / "a", "x", 20), program(tmp_path / "b", "y", 30), program(tmp_path / "b", "z", 10)
    remove_oldest(tmp_path, 300)
    assert old.exists()
    assert older.exists()
    remove_oldest(tmp_path, 299)
    assert (old.exists(), new.exists(), older.exists()) == (True, True, False)
    remove_oldest(tmp_path, 0)
    assert not list(tmp_path.rglob("*-cache"))


def test_what_is_not_whole_is_deleted_once(tmp_path):
    whole = zlib.compress(os.urandom(10_000))
    for name, content in {"whole": whole, "torn": whole[:5000], "empty": b"", "zstd": b"\x28\xb5\x2f\xfd" + bytes(9)}.items():
        (tmp_path / f"{name}-cache").write_bytes(content)
    remove_torn(tmp_path)
    assert [path.name for path in tmp_path.glob("*-cache")] == ["whole-cache"]
    old = tmp_path / "old-cache"
    old.write_bytes(b"")
    os.utime(old, (1, 1))  # older than the last look
    (tmp_path / "new-cache").write_bytes(b"")
    remove_torn(tmp_path)
    assert {path.name for path in tmp_path.glob("*-cache")} == {"whole-cache", "old-cache"}


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """No folder of the user's own, and a home; JAX's setting is put back."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def test_programs_are_kept_in_the_home_folder(kept, monkeypatch, said):
    big = program(kept / ".cache" / "dreamer_jax" / "other", "x", 10)
    monkeypatch.setattr(compiled, "MOST_BYTES", 50)
    keep_compiled_programs()
    folder = Path(jax.config.jax_compilation_cache_dir)
    assert folder.parent == kept / ".cache" / "dreamer_jax"
    assert not big.exists()
    assert said() == ""


def test_without_a_place_to_keep_them_one_line_says_so(kept, monkeypatch, said):
    before = jax.config.jax_compilation_cache_dir
    (kept / ".cache").write_text("a file, as unwritable as a read-only home")
    keep_compiled_programs()
    assert said().startswith(f"compiled programs are not kept ({kept}/.cache/dreamer_jax/")
    assert said().count("\n") == 1
    monkeypatch.setenv("HOME", "~")  # what "~" then is expanded to: nothing
    keep_compiled_programs()
    assert "there is no home folder" in said().splitlines()[1]
    assert jax.config.jax_compilation_cache_dir == before


SCRIPT = """
import sys, warnings
warnings.simplefilter("error")
import jax, jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
from dreamer_jax.agent.compiled import keep_compiled_programs
keep_compiled_programs()
print(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3))).shape)
"""


def test_jax_writes_a_torn_program_anew(tmp_path):
    """JAX itself warns of it at every start, and leaves it as it is."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "(3, 3)\n"), done.stderr
        programs = list(tmp_path.glob("dreamer_jax/*/*-cache"))
        assert programs
        assert all(path.stat().st_size > 100 for path in programs)
        for path in programs:
            path.write_bytes(path.read_bytes()[:50])
