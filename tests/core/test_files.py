"""Files are whole or not there; a folder has one holder."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dreamer_jax.core.errors import RunError, StorageError
from dreamer_jax.core.files import (
    atomic_write,
    check_writable,
    disk_errors_named,
    locked,
    make_folder,
    read_arrays,
    read_json,
    write_arrays,
    write_json,
    write_text,
)


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(TypeError), atomic_write(path) as file:
        file.write([])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_at_once_do_not_mix(tmp_path):
    """The one that ends last is read; a name shared by both would hold the bytes of both."""
    path = tmp_path / "file"
    with atomic_write(path) as one:
        one.write(b"one")
        with atomic_write(path) as two:
            two.write(b"two, longer")
        assert path.read_bytes() == b"two, longer"
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_file_and_folder_are_synced_before_it_returns(tmp_path, monkeypatch):
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.path.realpath(f"/proc/self/fd/{number}")) or sync(number))
    write_text(tmp_path / "file", "text")
    half, folder = synced
    assert half.startswith(str(tmp_path / "file."))
    assert folder == str(tmp_path)


def test_files_have_the_permissions_of_any_new_file(tmp_path):
    write_text(tmp_path / "one", "")
    (tmp_path / "two").touch()
    assert (tmp_path / "one").stat().st_mode == (tmp_path / "two").stat().st_mode


def test_json_and_arrays_are_read_as_they_were_written(tmp_path):
    write_json(tmp_path / "file.json", {"a": [1, 2.5, None]})
    assert read_json(tmp_path / "file.json") == {"a": [1, 2.5, None]}
    assert read_json(tmp_path / "none.json") is None
    arrays = {"a/b": np.arange(6).reshape(2, 3), "c": np.float32(1)}
    write_arrays(tmp_path / "file.npz", arrays)
    for name, values in read_arrays(tmp_path / "file.npz").items():
        np.testing.assert_array_equal(values, arrays[name])


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000])
def test_json_that_is_no_mapping_is_refused(tmp_path, text):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(RunError, match=r"file\.json (cannot be read as JSON|holds list; a mapping was expected)"):
        read_json(tmp_path / "file.json")


HOLD = """
import sys
from pathlib import Path
from dreamer_jax.core.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_has_one_holder_and_goes_with_it(tmp_path):
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"{tmp_path} is in use by process {holder.pid} on ") as refused, locked(path):
            pass
        assert "wait until it ends, or stop it" in str(refused.value)
        holder.kill()
    with locked(path) as number:
        assert path.read_text().startswith(f"process {os.getpid()} on ")
        os.fstat(number)


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file/folder cannot be made: Not a directory"):
        make_folder(tmp_path / "file" / "folder")
    with pytest.raises(StorageError, match="file cannot be written: Not a directory"):
        check_writable(tmp_path / "file")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "some/file"), StorageError, "^some/file cannot be written: No space"),
        (OSError(errno.EIO, "Input/output error"), StorageError, "^here cannot be written: Input/output error; make room$"),
        (OSError(errno.EMFILE, "Too many open files"), OSError, "Too many open files"),
    ],
)
def test_errors_of_the_disk_are_named_and_others_come_through(error, kind, message):
    with pytest.raises(kind, match=message), disk_errors_named(Path("here"), "make room"):
        raise error
