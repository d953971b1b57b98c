"""Laws of progress: what long work shows on a terminal and in a log, and that other libraries keep silent."""

import io
import logging
import re
import sys

import pytest
from datasets import Dataset
from datasets.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from huggingface_hub.utils.tqdm import progress_bar_states
from rich.console import Console
from transformers import AutoModel
from transformers.utils import logging as models

import attar
import tiny
from attar import progress
from attar.errors import ModelError
from attar.options.registry import VERBS


@pytest.fixture
def clock(monkeypatch):
    """A clock that only goes on when it is told to."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def shown(work, clock, *, terminal=False, **options):
    """What a console shows of work whose steps take a number of seconds each."""
    file = io.StringIO()
    progress.attach(Console(file=file, force_terminal=terminal, width=100, color_system=None))
    try:
        for seconds in progress.track(work, "learn", **options):
            clock.now += seconds if isinstance(seconds, float) else 1
    finally:
        progress.attach(None)
    return file.getvalue()


def test_a_log_has_a_line_every_thirty_seconds_and_one_at_the_end(clock):
    assert shown([4.0] * 20, clock).splitlines() == [
        "  learn: 8 of 20, 4 seconds each, 48 seconds left",
        "· about 36 seconds left: 9 steps at 4 seconds each",
        "  learn: 16 of 20, 4 seconds each, 16 seconds left",
        "  learn: 20 done in 80 seconds",
    ]


def test_short_work_leaves_no_line_in_a_log(clock):
    assert shown([0.1] * 20, clock) == ""


def test_long_work_says_once_how_long_it_will_take(clock):
    lines = [line for line in shown([2.0] * 311, clock).splitlines() if "left:" in line]
    assert lines == ["· about 10 minutes left: 300 steps at 2 seconds each"]


def test_work_that_resumes_counts_from_where_it_was(clock):
    steps = range(9601, 9701)
    lines = shown(steps, clock, total=11240, done=lambda step: step).splitlines()
    assert lines[0] == "· about 27 minutes left: 1,629 steps at 1 a second"
    assert lines[1] == "  learn: 9,630 of 11,240, 1 a second, 27 minutes left"
    bar = shown(steps, clock, terminal=True, total=11240, done=lambda step: step)
    counts = [int(count) for count in re.findall(r"(\d+)/11240", bar)]
    assert counts[-1] == 9700
    assert all(count == 0 or count >= 9600 for count in counts)


def test_inside_a_library_nothing_is_shown(capfd):
    assert list(progress.track([1, 2], "learn")) == [1, 2]
    progress.say("a line")
    assert capfd.readouterr() == ("", "")


def pictured(clock, *, terminal):
    """What a console shows of a picture whose number goes from 1 to 3."""
    file, numbers = io.StringIO(), []
    progress.attach(Console(file=file, force_terminal=terminal, width=40, color_system=None))
    try:
        with progress.picture(lambda: f"number {len(numbers)}"):
            for number in progress.track([1, 2, 3], "count"):
                numbers.append(number)
                clock.now += 40
                progress.say(f"said {number}")
    finally:
        progress.attach(None)
    return file.getvalue()


def test_a_picture_stays_at_its_last_state_with_what_was_said_gone(clock):
    shown = pictured(clock, terminal=True)
    assert shown.rindex("number 3") > shown.find("said 3")
    assert "━" not in shown  # no bar in it
    assert not re.search(r"· said", shown[shown.rindex("number 3") :])


def test_in_a_log_there_is_no_picture_and_every_line(clock):
    shown = pictured(clock, terminal=False)
    assert "number" not in shown
    assert [f"· said {n}" in shown.splitlines() for n in (1, 2, 3)] == [True] * 3
    assert "  count: 2 of 3, 40 seconds each, 40 seconds left" in shown.splitlines()


def state():
    levels = [logging.getLogger(name).level for name in ("transformers", "accelerate")]
    return models.is_progress_bar_enabled(), are_progress_bars_disabled(), dict(progress_bar_states), levels


@pytest.fixture
def loud(tmp_path, monkeypatch):
    """Work of other libraries that draws bars where nobody says otherwise."""
    tiny.saved(tmp_path / "model", head="base")

    def work(*_):
        AutoModel.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "again")
        Dataset.from_dict({"x": [1, 2, 3]}).map(lambda row: {"y": row["x"]})

    before = state()
    # The environment has the last word about these; here nobody has said anything.
    monkeypatch.setattr(sys.modules["datasets.utils.tqdm"], "HF_DATASETS_DISABLE_PROGRESS_BARS", None)
    monkeypatch.setattr(sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", None)
    models.enable_progress_bar()
    enable_progress_bars()
    yield work
    (models.enable_progress_bar if before[0] else models.disable_progress_bar)()
    (disable_progress_bars if before[1] else enable_progress_bars)()
    progress_bar_states.clear()
    progress_bar_states.update(before[2])


def test_other_libraries_bars_are_off_while_attar_works_and_back_afterwards(loud, capfd):
    loud()
    drawn = capfd.readouterr().err
    assert all(bar in drawn for bar in ("Loading weights", "Writing model shards", "Map"))
    before = state()
    with progress.quiet_libraries():
        loud()
        with progress.quiet_libraries():
            loud()
        loud()
    assert capfd.readouterr().err == ""
    assert state() == before
    with pytest.raises(KeyError), progress.quiet_libraries():
        raise KeyError
    assert state() == before
    loud()
    drawn = capfd.readouterr().err
    assert all(bar in drawn for bar in ("Loading weights", "Writing model shards", "Map"))


def test_a_users_own_choice_is_kept():
    before = state()
    models.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.INFO)
    mine = state()
    with progress.quiet_libraries():
        assert logging.getLogger("transformers").level == logging.INFO
    assert state() == mine
    logging.getLogger("transformers").setLevel(before[3][0])
    if before[0]:
        models.enable_progress_bar()


def test_every_verb_is_quiet(loud, capfd, monkeypatch):
    monkeypatch.setattr("attar.report.anatomy.anatomy", loud)
    VERBS["anatomy"]("model")
    assert capfd.readouterr().err == ""


def distilled(verb, place, student):
    """A student of a saved teacher, after an epoch."""
    if verb == "distill_lm":
        teacher = tiny.saved(place / "teacher", head="masked-lm")
        options = {"epochs": 1, "batch_size": 8, "max_length": 16}
        return attar.distill_lm(teacher, tiny.texts(40), student=student, out=place / "out", **options)
    table = tiny.table(16, 0)
    options = {"intermediate": None, "prediction": {"epochs": 1, "batch_size": 8}}
    teacher = tiny.saved(place / "teacher")
    return attar.distill(teacher, data=table, dev=table, student=student, out=place / "out", **options)


@pytest.mark.parametrize("verb", ["distill", "distill_lm"])
@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ({"layers": 3}, "layers 3 (teacher 2)"),
        ({"hidden": 32}, "hidden 32 (teacher 24)"),
        ({"hidden": 32, "ffn": 41}, "hidden 32 (teacher 24), ffn 41 (teacher 40)"),
    ],
)
def test_a_student_of_more_layers_or_wider_ones_than_its_teacher_is_refused(tmp_path, verb, sizes, found):
    with pytest.raises(ModelError, match="a student of at most the teacher's") as error:
        distilled(verb, tmp_path, {**sizes, "init": "random"})
    assert error.value.found == found
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["distill", "distill_lm"])
def test_a_larger_student_that_exists_is_said_and_reported(tmp_path, caplog, verb):
    caplog.set_level(logging.INFO, logger="attar")
    head = "masked-lm" if verb == "distill_lm" else "sequence-classification"
    sizes = {"num_hidden_layers": 6, "hidden_size": 48, "intermediate_size": 96}
    larger = tiny.saved(tmp_path / "larger", head=head, **sizes)
    report = distilled(verb, tmp_path, larger)
    layers, parameters = report.notes[-2:]
    assert "layers 6 (teacher 2), hidden 48 (teacher 24), ffn 96 (teacher 40)" in layers
    ours, theirs = (f"{row.parameters:,}" for row in (report.student, report.teacher))
    assert parameters == f"the student has {ours} parameters, more than the teacher's {theirs}"
    assert all(note in caplog.text for note in (layers, parameters))


def test_a_teacher_that_stores_its_layers_once_may_have_a_student_of_more_parameters(tmp_path):
    teacher, table = tiny.model("albert", num_hidden_layers=4), tiny.table(16, 0)
    report = attar.distill(
        teacher,
        tokenizer=tiny.tokenizer("albert"),
        data=table,
        dev=table,
        student={"hidden": 20, "heads": 2, "ffn": 40, "init": "random"},
        intermediate=None,
        prediction={"epochs": 1, "batch_size": 8},
        out=tmp_path / "out",
    )
    assert report.student.parameters > report.teacher.parameters
    assert [note.split(", more")[0] for note in report.notes[1:]] == [
        f"the student has {report.student.parameters:,} parameters"
    ]
