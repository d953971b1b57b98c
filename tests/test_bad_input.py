"""Bad input ends in an error that says what was expected, what was found and what to do, and nothing is lost."""

import errno
import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
from datasets.exceptions import DatasetGenerationError
from transformers import BloomConfig, BloomForCausalLM

import tiny
from attar import distill, finetune
from attar.anatomy.resolve import family, resolve
from attar.data.batches import fitting
from attar.data.files import unreadable
from attar.data.model_task import task_of
from attar.data.streaming import StreamBatches
from attar.data.tables import read_table, read_texts
from attar.data.tasks import Task
from attar.errors import DataError, ModelError, OutputError, RecipeError
from attar.evaluation.prediction import predict
from attar.model.checkpoint import load
from attar.storage.writing import new_directory

BINARY = Task("single_label", ("bad", "good"))


def told(error):
    """Every message has its three parts."""
    assert all((error.value.expected, error.value.found, error.value.fix))
    assert str(error.value).splitlines()[0].startswith("expected ")
    assert "do this: " in str(error.value)
    return str(error.value)


def labelled(*labels):
    return [{"text": "a film", "label": label} for label in labels]


def csv(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_a_column_that_is_not_there_names_the_nearest(tmp_path):
    path = csv(tmp_path / "data.csv", "sentense,label\na,1\nb,0\n")
    with pytest.raises(DataError, match="column 'sentence' for the text") as error:
        read_table(path, columns={"text": "sentence"})
    assert "sentense" in told(error)
    assert "--columns text=sentense" in error.value.fix


def test_a_role_that_does_not_exist():
    with pytest.raises(DataError, match="text_pair") as error:
        read_table([{"a": "x"}], columns={"texts": "a"})
    told(error)


def test_labels_that_are_needed_and_not_there():
    with pytest.raises(DataError, match="'label' for the label") as error:
        read_table([{"text": "x"}], require_label=True)
    told(error)


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_empty_texts_are_counted_and_named(empty):
    with pytest.raises(DataError, match=r"2 of 4 rows with an empty text \(rows 2, 4\)") as error:
        read_table([{"text": t} for t in ("a", empty, "b", empty)])
    told(error)


@pytest.mark.parametrize("empty", ["", None])
def test_empty_labels_are_counted_and_named(empty):
    with pytest.raises(DataError, match=r"1 of 3 rows with an empty label \(rows 2\)") as error:
        read_table(labelled("a", empty, "b"))
    told(error)


def test_a_dataset_that_hides_its_labels():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    with pytest.raises(DataError, match="2 of 2 rows with an empty label"):
        read_table(Dataset.from_dict({"text": ["x", "y"], "label": [-1, -1]}, features=features))


def test_a_label_that_the_model_does_not_know():
    with pytest.raises(DataError, match="one of the model's labels: bad, good") as error:
        read_table(labelled("good", "middling"), task=BINARY)
    assert "'middling' in row 2" in told(error)


def test_a_class_number_out_of_range():
    with pytest.raises(DataError, match="5 in row 2"):
        read_table(labelled(1, 5), task=BINARY)


@pytest.mark.parametrize("value", ["many", None, float("nan"), "inf"])
def test_a_score_that_is_no_number(value):
    rows = [{"text": "a", "label": "0.5"}, {"text": "b", "label": None if value is None else str(value)}]
    with pytest.raises(DataError, match=r"in row 2|\(rows 2\)") as error:
        read_table(rows, task=Task("regression", ("score",)))
    told(error)


def test_one_class_only():
    with pytest.raises(DataError, match="only 'good' in all 3 rows") as error:
        read_table(labelled("good", "good", "good"))
    told(error)


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("data.csv", "cp949"), ("data.tsv", "cp949"), ("data.jsonl", "cp949"), ("data.txt", "utf-16")],
)
def test_another_encoding(tmp_path, name, encoding):
    text = '{"text": "영화"}\n' if name.endswith("jsonl") else "text\n영화\n"
    with pytest.raises(DataError, match="to be utf-8") as error:
        read_table(csv(tmp_path / name, text, encoding))
    assert "byte 0x" in told(error)


def test_another_encoding_of_plain_text(tmp_path):
    path = csv(tmp_path / "texts.txt", "영화\n", "cp949")
    with pytest.raises(DataError, match="to be utf-8") as error:
        read_texts(path)
    assert "byte 0x" in told(error)


@pytest.mark.parametrize("name", ["data.csv", "data.tsv", "data.txt", "data.jsonl", "data.parquet"])
def test_a_missing_and_an_empty_file(tmp_path, name):
    with pytest.raises(DataError, match="no such file") as error:
        read_table(tmp_path / name)
    told(error)
    (tmp_path / name).write_text("")
    with pytest.raises(DataError) as error:
        read_table(tmp_path / name)
    assert name in told(error)


@pytest.mark.parametrize("name", ["data.csv", "data.tsv"])
def test_a_header_without_rows(tmp_path, name):
    with pytest.raises(DataError, match="at least one row"):
        read_table(csv(tmp_path / name, "text\n"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.jsonl", '{"text": "a"\n'),
        ("data.parquet", "PAR1 nonsense"),
        ("data.csv", 'text\n"' + "a" * 200000),
    ],
)
def test_a_damaged_file(tmp_path, name, text):
    with pytest.raises(DataError) as error:
        read_table(csv(tmp_path / name, text))
    assert name in told(error)


def test_a_row_of_other_length_names_its_line(tmp_path):
    with pytest.raises(DataError, match="3 in line 3") as error:
        read_table(csv(tmp_path / "data.csv", "text,label\na,1\nb,c,0\n"))
    assert "2 fields (text, label)" in told(error)


def test_two_columns_of_one_name(tmp_path):
    with pytest.raises(DataError, match="'text' twice"):
        read_table(csv(tmp_path / "data.csv", "text,text\na,b\n"))


def test_a_kind_of_file_that_is_not_read(tmp_path):
    with pytest.raises(DataError, match=r"\.csv, \.tsv, \.json, \.jsonl, \.parquet, \.txt or \.conll"):
        read_table(csv(tmp_path / "data.xlsx", "x"))


def test_texts_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_texts(tmp_path / "no.txt")
    with pytest.raises(DataError, match="no such file"):
        read_texts("no.txt")
    with pytest.raises(DataError, match="at least one line"):
        read_texts(csv(tmp_path / "empty.txt", "\n \n"))


def test_a_stream_of_nothing_ends():
    nothing = IterableDataset.from_generator(lambda: iter([{"text": "x"}])).filter(
        lambda row: row["text"] != "x"
    )
    with pytest.raises(DataError, match="empty stream"):
        next(StreamBatches(nothing, tiny.tokenizer(), steps=2).epoch(0))


def test_models_that_are_not_there(tmp_path):
    with pytest.raises(ModelError, match="no such directory") as error:
        load(tmp_path / "no")
    told(error)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config\.json in"):
        load(tmp_path / "empty")
    with pytest.raises(ModelError, match="transformers can load at some/name"):
        load("some/name")
    with pytest.raises(ModelError, match="a tokenizer beside"):
        load(tiny.model())
    with pytest.raises(ModelError):
        load(csv(tmp_path / "file", "x"))


@pytest.mark.parametrize("part", [0.0, 0.5, 0.98])
def test_a_truncated_weight_file(tmp_path, part):
    path = tiny.saved(tmp_path / "model") / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(ModelError, match="transformers can load") as error:
        load(path.parent)
    told(error)


def test_a_truncated_pickle(tmp_path):
    place = tiny.saved(tmp_path / "model")
    (place / "model.safetensors").unlink()
    (place / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00")
    with pytest.raises(ModelError):
        load(place)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file(tmp_path, name):
    place = tiny.saved(tmp_path / "model")
    (place / name).unlink()
    with pytest.raises(ModelError, match=name):
        load(place)


def test_a_truncated_config(tmp_path):
    place = tiny.saved(tmp_path / "model")
    csv(place / "config.json", (place / "config.json").read_text()[:80])
    with pytest.raises(ModelError, match="transformers can load"):
        load(place)


def change(place, **values):
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, **values}))
    return place


def test_a_config_of_another_shape(tmp_path):
    with pytest.raises(ModelError, match="transformers can load"):
        load(change(tiny.saved(tmp_path / "model"), hidden_size=12))


def test_layers_that_the_weights_do_not_have_are_not_made_up(tmp_path):
    place = change(tiny.saved(tmp_path / "model"), num_hidden_layers=3)
    for fresh in (False, True):
        with pytest.raises(ModelError, match=r"layer\.2"):
            load(place, fresh_head=fresh)


def test_a_head_that_was_never_trained_is_only_loaded_to_be_trained(tmp_path):
    place = tiny.saved(tmp_path / "model", head="base")
    with pytest.raises(ModelError, match="classifier"):
        load(place, head="sequence-classification")
    assert load(place, head="sequence-classification", fresh_head=True).model.config.num_labels == 2
    place = tiny.saved(tmp_path / "language", head="masked-lm")  # which has no pooler, and needs none
    assert load(place, head="base").model.config.hidden_size == 24


def test_a_head_of_other_outputs_is_begun_anew_and_nothing_else_is(tmp_path):
    place = tiny.saved(tmp_path / "model")
    again = load(place, head="sequence-classification", fresh_head=True, num_labels=5).model
    assert again.classifier.out_features == 5
    assert tiny.difference(again.base_model, load(place).model.base_model) == 0
    with pytest.raises(ModelError):
        load(place, head="sequence-classification", num_labels=5)
    with pytest.raises(ModelError, match="intermediate"):
        load(place, head="sequence-classification", fresh_head=True, num_labels=5, intermediate_size=41)


def test_labels_that_nobody_asks_for_are_no_error():
    task = Task("single_label", ("no", "yes"))
    rows = labelled("maybe", "yes")
    with pytest.raises(DataError, match="maybe"):
        read_table(rows, task=task)
    assert read_table(rows, task=task, labels=False)[0].column_names == ["text"]


def test_texts_are_cut_to_the_positions_that_a_model_has(tmp_path):
    for name in ("bert", "roberta"):
        model = tiny.model(name)
        longest = fitting(500, model)
        assert longest == {"bert": 80, "roberta": 79}[name]
        ids = torch.full((1, longest), 7)
        assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.isfinite().all()


def test_a_family_nobody_knows(tmp_path):
    with pytest.raises(ModelError, match="transformers can load"):
        load(change(tiny.saved(tmp_path / "model"), model_type="bertt"))
    with pytest.raises(ModelError, match=r"nearest: 'bert'"):
        family("bertt")
    with pytest.raises(ModelError, match='"add a family"'):
        resolve(BloomForCausalLM(BloomConfig(hidden_size=8, n_layer=1, n_head=2, vocab_size=20)))


def test_a_problem_type_nobody_knows(tmp_path):
    config = tiny.config()
    config.problem_type = "ranking"
    with pytest.raises(ModelError, match="regression"):
        task_of(config)


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
