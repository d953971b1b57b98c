"""Two processes train what one does; a killed run ends as one that was left in peace. Both in real processes."""

import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from attar.model.checkpoint import load
from processes import LIVES, run

SCRIPT = Path(__file__).with_name("processes.py")
# Many processes, of which the last may begin late on a busy machine.
pytestmark = pytest.mark.timeout(600)


def loaded(path):
    return load(path).model


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What `processes.py` leaves."""
    place = tmp_path_factory.mktemp("processes")
    command = [sys.executable, str(SCRIPT), str(place)]
    said = subprocess.run(
        command,
        env=tiny.surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout[-4000:]
    return place


@pytest.fixture(scope="module")
def two(done):
    return done / "two"


@pytest.fixture(scope="module")
def killed(done):
    return done / "killed"


@pytest.mark.parametrize("verb", LIVES)
def test_two_processes_train_the_model_that_one_trains(two, verb, tmp_path):
    run(verb, tmp_path / "one")
    one, both = loaded(tmp_path / "one"), loaded(two / verb)
    assert tiny.difference(one, both) < 2e-5
    started = {"finetune": tiny.model(), "pretrain": tiny.model(head="masked-lm")}.get(verb)
    assert started is None or tiny.difference(started, both) > 1e-3


def test_each_process_cached_its_own_share(two):
    assert (two / "caches.txt").read_text().split() == ["states-0-of-2.int8", "states-1-of-2.int8"]


def test_nothing_but_the_models_is_left(two):
    assert sorted(path.name for path in two.iterdir()) == ["caches.txt", *sorted(LIVES)]


@pytest.mark.parametrize("verb", LIVES)
def test_a_killed_run_ends_as_an_uninterrupted_one(killed, verb):
    assert tiny.identical(loaded(killed / f"{verb}-whole"), loaded(killed / f"{verb}-killed"))
    assert sorted(path.name for path in killed.glob(f".{verb}*")) == []
