"""Runs that cannot go on end in an error that says what to do, and nothing that was there is lost."""

import errno

import numpy as np
import pytest
import torch
from bad import labelled, told
from datasets import Dataset
from datasets.exceptions import DatasetGenerationError

import tiny
from attar import distill, finetune
from attar.data.files import unreadable
from attar.errors import DataError, ModelError, OutputError, RecipeError
from attar.evaluation.prediction import predict
from attar.storage.writing import new_directory

OPTIONS = {"epochs": 1, "lr": 1e-3, "batch_size": 8, "max_length": 16, "precision": "fp32"}


def tune(out, model=None, data=None, **options):
    return finetune(
        model or tiny.model(),
        data or tiny.table(24),
        out=out,
        tokenizer=tiny.tokenizer(),
        **{**OPTIONS, **options},
    )


def distil(out, **options):
    given = {
        "student": {"layers": 1, "init": "layers"},
        "data": tiny.table(24),
        "intermediate": {"epochs": 1},
        "prediction": {"epochs": 1},
    }
    teacher = options.pop("teacher", None) or tiny.model()
    return distill(
        teacher, out=out, tokenizer=tiny.tokenizer(), precision="fp32", max_length=16, **{**given, **options}
    )


@pytest.mark.parametrize("run", [tune, distil])
def test_an_output_that_holds_something_else_is_left_alone(tmp_path, run):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="new or empty") as error:
            run(out, overwrite=overwrite)
        told(error)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "thesis.txt"]
    with pytest.raises(OutputError, match="a file"):
        run(out / "thesis.txt")


def test_a_model_of_other_labels_than_the_table(tmp_path):
    data = Dataset.from_list(labelled("a", "b", "c") * 8)
    with pytest.raises(ModelError, match="a model of 3 outputs") as error:
        tune(tmp_path / "out", data=data)
    told(error)


def test_too_few_rows_to_hold_some_out(tmp_path):
    with pytest.raises(DataError, match="at least 10 rows"):
        tune(tmp_path / "out", data=tiny.table(6))


def test_nothing_to_learn_from(tmp_path):
    with pytest.raises(DataError, match="neither data nor texts") as error:
        distil(tmp_path / "out", data=None)
    told(error)


def test_a_teacher_without_a_task(tmp_path):
    with pytest.raises(ModelError, match="fine-tuned teacher") as error:
        distill(
            tiny.model(head="masked-lm"), tokenizer=tiny.tokenizer(), texts=tiny.texts(), out=tmp_path / "out"
        )
    told(error)


def test_a_student_with_another_tokenizer(tmp_path):
    place = tiny.saved(tmp_path / "student")
    from transformers import BertTokenizer

    BertTokenizer(vocab={p: i for i, p in enumerate(reversed(tiny.VOCABULARY))}).save_pretrained(place)
    with pytest.raises(ModelError, match="same tokenizer") as error:
        distil(tmp_path / "out", student=place)
    told(error)
    assert not (tmp_path / "out").exists()


def test_an_option_that_is_misspelled_names_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match="layers") as error:
        distil(tmp_path / "out", student={"layer": 1})
    told(error)


def test_nothing_to_compare(tmp_path):
    with pytest.raises(RecipeError, match="something to compare"):
        distil(tmp_path / "out", attention="none", hidden=False, embedding=False)


@pytest.mark.parametrize("run", [tune, distil])
def test_ctrl_c_leaves_no_output_and_what_to_go_on_from(tmp_path, run, monkeypatch):
    from attar.training import loop as train

    inner, steps = train._step, []

    def interrupted(*arguments):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return inner(*arguments)

    monkeypatch.setattr(train, "_step", interrupted)
    options = {"epochs": 3} if run is tune else {"intermediate": {"epochs": 3, "batch_size": 8}}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == [".out.work"]
    assert list((tmp_path / ".out.work").glob("*/state/step.json"))
    monkeypatch.undo()
    run(tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    Exception("I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
]


@pytest.mark.parametrize("error", FULL, ids=["python", "safetensors", "torch"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, error):
    with pytest.raises(OutputError, match="free space") as caught, new_directory(tmp_path / "out") as place:  # noqa: PT012
        (place / "config.json").write_text("{}")
        raise error
    told(caught)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_while_texts_are_copied_is_no_fault_of_the_file():
    error = DatasetGenerationError("An error occurred while generating the dataset")
    error.__cause__ = FULL[0]
    assert "free space" in unreadable("texts.txt", error).fix


def test_a_full_disk_while_the_best_epoch_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", lambda *_a, **_o: (_ for _ in ()).throw(FULL[2]))
    with pytest.raises(OutputError, match="free space"):
        tune(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    for run in (tune, distil):
        with pytest.raises(OutputError, match="to write"):
            run(tmp_path / "file" / "out")


def test_a_figure_that_cannot_be_had_does_not_cost_the_student(tmp_path):
    # A teacher that is always wrong on the dev table: nothing can be retained of it.
    teacher, texts = tiny.model(), tiny.texts(12, seed=4)
    logits = predict(teacher, tiny.batches(texts))
    teacher.classifier.bias.data[1] -= float(np.median(logits[:, 1] - logits[:, 0]))
    wrong = (1 - predict(teacher, tiny.batches(texts)).argmax(-1)).tolist()
    report = distil(tmp_path / "out", teacher=teacher, dev=Dataset.from_dict({"text": texts, "label": wrong}))
    assert report.rows[0].metrics["accuracy"] == 0
    assert report.rows[1].retained is None
    assert (tmp_path / "out" / "model.safetensors").is_file()
