"""One run at a time writes an output, in real processes; and what stands in the way of writing is told apart."""

import errno
import fcntl
import logging
import os
import subprocess
import sys
from inspect import signature

import pytest
import torch
from typer.testing import CliRunner

import tiny
from attar.cli import app
from attar.errors import AttarError, OutputError
from attar.options.registry import VERBS
from attar.storage.locking import RANKS, locked
from attar.storage.writing import (
    check_directory,
    make_directory,
    new_directory,
    new_file,
    save_tensors,
    write_atomic,
)

WRITING = sorted(name for name, verb in VERBS.items() if "out" in signature(verb).parameters)
HOLDER = """
import sys
from attar.storage.locking import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that writes `out` until it is told to end, or killed."""
    command = [sys.executable, "-c", HOLDER, tmp_path / "out"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, env=tiny.surroundings(), **pipes)
    assert process.stdout.readline() == b"locked\n"
    yield process
    process.kill()
    process.communicate()


def call(name, out, **given):
    """A verb with whatever it must be given, which is not there where it is not in `given`."""
    verb = VERBS[name]
    parameters = [item for item in signature(verb).parameters.values() if item.kind is not item.VAR_KEYWORD]
    required = [item.name for item in parameters if item.default is item.empty]
    return verb(**{name: given.get(name, "nowhere") for name in required} | {"out": out})


def test_every_output_is_given_by_name():
    for name in WRITING:
        out = signature(VERBS[name]).parameters["out"]
        assert out.kind is out.KEYWORD_ONLY


def test_every_verb_is_refused_at_once_what_another_process_writes(tmp_path, holder, monkeypatch):
    for name in WRITING:
        with pytest.raises(OutputError, match="one run at a time") as error:
            call(name, tmp_path / "out")
        assert str(tmp_path / "out") in error.value.expected
        assert f"process {holder.pid} on " in error.value.found
    monkeypatch.chdir(tmp_path)
    (tmp_path / "same").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for other in ("out", "link", tmp_path / "out" / "x" / "..", tmp_path / "same" / "out"):
        with pytest.raises(OutputError, match="one run at a time"), locked(other):
            pass
    for command in ("finetune nowhere --data nowhere.csv", "run tinybert4", "prune nowhere --budget 0.5"):
        said = CliRunner().invoke(app, [*command.split(), "--out", "out"])
        assert said.exit_code == 1
        assert "one run at a time" in said.stderr
    with locked(tmp_path / "out2"), locked("out.v2"):  # which are others
        pass


def test_the_next_one_may_write_when_it_has_ended(tmp_path, holder):
    holder.communicate()
    assert holder.returncode == 0
    assert not list(tmp_path.iterdir())
    with locked(tmp_path / "out"):
        pass


def test_a_killed_process_has_no_lock(tmp_path, holder):
    holder.kill()
    holder.communicate()
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]
    with locked(tmp_path / "out"):
        (tmp_path / "out").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("rank", RANKS)
def test_of_the_processes_of_one_run_the_main_one_has_the_lock(tmp_path, holder, monkeypatch, rank):
    monkeypatch.setenv(rank, "1")
    with locked(tmp_path / "out"):
        pass
    monkeypatch.setenv(rank, "0")
    with pytest.raises(OutputError, match="one run at a time"), locked(tmp_path / "out"):
        pass


def test_a_verb_may_call_another_for_the_same_output(tmp_path):
    with locked(tmp_path / "out"), locked(tmp_path / "out"):
        pass
    with locked(tmp_path / "out"):
        pass


def test_a_file_that_its_holder_removes_meanwhile_is_no_lock(tmp_path, monkeypatch):
    inner, file = fcntl.flock, tmp_path / ".out.lock"

    def late(opened, how):
        if how & fcntl.LOCK_EX:
            monkeypatch.setattr(fcntl, "flock", inner)
            file.unlink()
        inner(opened, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path / "out"), file.open() as again, pytest.raises(BlockingIOError):
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not list(tmp_path.iterdir())


def test_without_locks_it_goes_on_and_says_so(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    caplog.set_level(logging.INFO, logger="attar")
    with locked(tmp_path / "out"):
        pass
    assert "no lock on" in caplog.text
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_beside_a_directory_it_is_locked_itself(tmp_path, monkeypatch):
    inner = os.open

    def refused(path, flags, *more, **options):
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "")
        return inner(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(OutputError, match="no permission to write at") as error, locked(tmp_path / "out"):
        pass
    assert "a place that is yours" in error.value.fix
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"):
        opened = inner(tmp_path / "out", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(opened)


@pytest.mark.parametrize("name", WRITING)
def test_a_verb_that_fails_leaves_no_lock_and_no_directories(tmp_path, name):
    with pytest.raises(AttarError):
        call(name, tmp_path / "deep" / "er" / "out")
    assert not list(tmp_path.iterdir())


# What stands in the way


@pytest.mark.parametrize("write", [write_atomic, save_tensors], ids=["text", "tensors"])
def test_a_full_disk_is_told_from_all_else(tmp_path, write):
    path = tmp_path / "file"
    (tmp_path / ".file.part").symlink_to("/dev/full")  # every write to which finds the disk full
    given = (path, "x") if write is write_atomic else ({"x": torch.zeros(9)}, path)
    with pytest.raises(OutputError, match="No space left on device") as error:
        write(*given)
    assert error.value.fix.startswith("free space")
    assert not list(tmp_path.iterdir())


CAUSES = [
    (errno.ENOSPC, "No space left", "free space"),
    (errno.EDQUOT, "uota", "free space"),
    (errno.EACCES, "no permission to write at", "a place that is yours"),
    (errno.EPERM, "no permission to write at", "a place that is yours"),
    (errno.EROFS, "read-only", "name another place"),
    (errno.ENOENT, "no directory", "make it"),
    (errno.EIO, "Input/output error", "name another place"),
]


@pytest.mark.parametrize(("number", "found", "fix"), CAUSES)
def test_each_cause_is_named_with_what_helps(tmp_path, number, found, fix):
    with pytest.raises(OutputError) as error, new_file(tmp_path / "a" / "b.json"):
        raise OSError(number, os.strerror(number))
    assert found in error.value.found
    assert fix in error.value.fix
    assert ("free space" in error.value.fix) == (fix == "free space")


def test_a_file_in_the_way_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")

    def directory(place):
        with new_directory(place):
            pass

    def verb(place):
        call("finetune", place)

    for work in (directory, make_directory, verb, lambda place: write_atomic(place / "a.json", "")):
        with pytest.raises(OutputError, match=f"a file where a directory has to be: {file}\n") as error:
            work(file / "out" / "deep")
        assert "free space" not in error.value.fix
    for work in (make_directory, check_directory):
        with pytest.raises(OutputError, match=f"a file where a directory has to be: {file}\n"):
            work(file)
    assert file.read_text() == "mine"
    with pytest.raises(OutputError, match="a directory of that name"):
        write_atomic(tmp_path, "")
    with pytest.raises(OutputError, match="File name too long"):
        call("finetune", tmp_path / ("x" * 300))


def test_a_file_is_no_place_for_a_report(tmp_path):
    (tmp_path / "file").write_text("mine")
    for name in ("compare", "probe", "run", "export"):
        with pytest.raises(OutputError, match="a file where a directory has to be"):
            call(name, tmp_path / "file", recipe="demo-quick")
    with pytest.raises(OutputError, match="a directory"):
        VERBS["plan"](tiny.model(), budget=0.5, out=tmp_path, overwrite=True)
