"""Laws of probing: off is off, one at a time or many, nothing stays behind, and only what the texts show is claimed."""

import copy
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import attar
import slims
import tiny
from attar.anatomy.families import ENCODERS
from attar.anatomy.form import form_of
from attar.anatomy.resolve import resolve
from attar.cli import app
from attar.data.model_task import task_of
from attar.data.tasks import Task
from attar.errors import DataError, ModelError
from attar.evaluation.prediction import predict
from attar.pruning import switching
from attar.pruning.ablation import probe
from attar.pruning.apply import masked
from attar.pruning.probing import heat, notes, passes
from attar.pruning.switching import Part, logits_without, parts_of
from attar.pruning.units import Kept, everything
from attar.report.heatmap import heatmap_text
from attar.report.page import render
from attar.report.report import Report

GUIDE = Path(__file__).parent.parent / "docs" / "guide-probe.md"
SLIM = [family for family in ENCODERS if family not in {"xlm-roberta", "camembert"}]


def without(model, family, **options):
    """Logits by part, those of the whole model as None, on 11 texts in batches of 4."""
    parts = parts_of(model)
    logits = logits_without(resolve(model), batches(family), parts, **options)
    return dict(zip((None, *parts), logits, strict=True))


def batches(family="bert", rows=11, **options):
    return tiny.batches(tiny.table(rows, **options), family, batch_size=4)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-4)


def kept_without(model, part):
    """What stays when a head goes (from every layer where they are one), or a layer."""
    whole = everything(form_of(model.config))
    layers = list(whole.layers)
    for n, layer in enumerate(whole.layers):
        if part.kind == "head" and part.layer in {None, n + 1}:
            heads = tuple(h for h in layer.heads if h != part.head - 1)
            layers[n] = type(layer)(n, heads, layer.key, layer.value, layer.ffn)
    if part.kind == "layer":
        del layers[part.layer - 1]
    return Kept(whole.hidden, whole.embedding, whole.vocab, tuple(layers))


def zeroed(model, part):
    """A copy whose sublayer ends in a matrix and a bias of zeros."""
    changed = copy.deepcopy(model)
    bound = resolve(changed)
    path = bound.anatomy.attention_out if part.kind == "attention" else bound.anatomy.ffn_out
    for parameter in bound.at(path, (part.layer or 1) - 1).parameters():
        parameter.data.zero_()
    return changed


def state(model):
    """All that a probe might leave behind."""
    modules = dict(model.named_modules())
    hooks = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in modules.items()}
    return hooks, [name for name, m in modules.items() if "forward" in vars(m)], model.training


def models():
    stock = [(family, "stock") for family in ENCODERS]
    return stock + [(family, "slim") for family in SLIM]


@pytest.mark.parametrize(("family", "kind"), models())
def test_off_is_what_pruning_masks(family, kind):
    model = slims.model(family) if kind == "stock" else slims.slim(family)
    found, table = without(model, family), batches(family)
    close(found.pop(None), predict(model, table))
    assert len(found) == len(parts_of(model)) == len({part.name for part in found})
    for part, logits in found.items():
        if part.kind in {"attention", "ffn"}:
            close(logits, predict(zeroed(model, part), table))
        elif part.kind == "head" or part.layer is not None:
            with masked(model, kept_without(model, part)):
                close(logits, predict(model, table))


def test_the_layer_of_an_albert_is_one_run_fewer():
    model = slims.model("albert", num_hidden_layers=3)
    found = without(model, "albert")
    assert [part.kind for part in found if part] == [*["head"] * 4, "attention", "ffn", "layer"]
    shorter = copy.deepcopy(model)
    shorter.config.num_hidden_layers = 2
    close(found[Part("layer", None)], predict(shorter, batches("albert")))


@pytest.mark.parametrize("family", ENCODERS)
def test_many_at_a_time_are_as_one_at_a_time(family):
    model = slims.model(family, num_hidden_layers=3, layer_types=None)
    together, alone = without(model, family), without(model, family, tokens=1)
    for part, logits in together.items():
        close(logits, alone[part])


def test_parts_of_a_layer_run_the_layers_from_there_on_alone():
    model = tiny.model(num_hidden_layers=3)
    runs = [0, 0, 0]
    for n, layer in enumerate(model.bert.encoder.layer):
        layer.output.register_forward_hook(lambda *_, n=n: runs.__setitem__(n, runs[n] + 1))
    without(model, "bert", tokens=1)
    each = 3 * (4 + 3)  # of one layer: three batches, 4 heads, attention, FFN, the layer
    assert runs == [3 + each, 3 + 2 * each, 3 + 3 * each]
    assert passes(model) == pytest.approx(1 + 7 * (1 + 2 / 3 + 1 / 3))


def test_a_head_that_nothing_reads_is_worth_nothing():
    model = copy.deepcopy(tiny.model())
    model.bert.encoder.layer[1].attention.output.dense.weight.data[:, 6:12] = 0
    found = probe(model, batches(rows=40), task_of(model.config))
    head = next(w for w in found.parts if w.part == Part("head", 2, 2))
    assert head.change.value == 0
    assert head.change.low == pytest.approx(-head.change.high)
    assert head.kl < 1e-9
    assert not head.better
    assert not head.worse
    assert all(w.kl > 1e-6 for w in found.parts if w.part != head.part)


@pytest.mark.parametrize("family", ["bert", "albert", "modernbert"])
def test_the_model_is_as_before(family, monkeypatch):
    model = tiny.model(family).train()
    before, weights = state(model), copy.deepcopy(model.state_dict())
    probe(model, batches(family), task_of(model.config), resamples=50)
    assert state(model) == before
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    calls = iter(range(10))

    def breaks(*given):
        if next(calls) == 6:
            raise KeyboardInterrupt
        return real(*given)

    real = switching.call
    monkeypatch.setattr(switching, "call", breaks)
    with pytest.raises(KeyboardInterrupt):
        probe(model, batches(family), task_of(model.config), tokens=1)
    assert state(model) == before


def test_a_forward_of_the_modules_own_is_put_back():
    model = tiny.model()
    layer = model.bert.encoder.layer[0]
    own = layer.forward = layer.forward
    without(model, "bert")
    assert vars(layer)["forward"] is own


def test_what_does_harm_is_named_and_nothing_that_may_be_chance():
    model, rows = tiny.model(), tiny.table(60)
    table = tiny.batches(rows, batch_size=16)
    harm = max(probe(model, table, task_of(model.config), resamples=50).parts, key=lambda w: w.kl).part
    parts = parts_of(model)
    said = logits_without(resolve(model), table, parts)
    truth = said[1 + parts.index(harm)].argmax(-1)
    table = tiny.batches(rows.remove_columns("label").add_column("label", truth.tolist()), batch_size=16)
    found = probe(model, table, task_of(model.config))
    assert found.better[0].part == harm
    assert found.better[0].value == 1
    for worth in found.parts:
        assert worth.change.value == pytest.approx(worth.value - found.baseline.value)
        assert worth.better <= (worth.change.low > 0)
    assert f"better without: {harm.name} (+" in notes(found, runs=2)[0]
    assert any("by chance" in note for note in notes(found, runs=2))
    assert found.by_chance == pytest.approx(0.35)


def test_without_labels_it_is_agreement():
    model = tiny.model()
    rows = tiny.table(20).remove_columns("label")
    found = probe(model, tiny.batches(rows), task_of(model.config))
    assert found.main == "agreement"
    assert found.baseline.value == 1
    assert not found.better
    assert all(w.change.value <= 0 <= w.kl for w in found.parts)
    assert any("no labels" in note for note in notes(found, runs=2))
    assert "agreement with the whole model" in heat(found).title


@pytest.mark.parametrize(
    ("kind", "labels", "main"), [("regression", 1, "spearman"), ("multi_label", 3, "micro_f1")]
)
def test_scores_and_labels(kind, labels, main):
    model = tiny.model(num_labels=labels)
    Task(kind, tuple("abc"[:labels])).configure(model.config)
    table = batches(rows=40, kind=kind)
    found = probe(model, table, task_of(model.config), resamples=100)
    assert found.main == main
    sure = [w.change for w in found.parts if not w.change.missing]
    assert len(sure) > len(found.parts) / 2
    assert all(change.low <= change.value <= change.high for change in sure)
    assert ("points" in heat(found).title) == (kind == "multi_label")
    assert np.isnan(found.parts[0].kl) == (kind == "regression")


def test_one_score_for_all_texts_has_no_correlation():
    model = tiny.model(num_labels=1)
    torch.nn.init.zeros_(model.classifier.weight)
    found = probe(model, batches(rows=20, kind="regression"), task_of(model.config), resamples=20)
    assert np.isnan(found.baseline.value)
    assert heat(found).values[0][0] is None
    assert "14 of 14 parts" in notes(found, runs=2)[-1]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    where = tmp_path_factory.mktemp("probe")
    tiny.saved(where / "teacher")
    tiny.table(30).to_csv(where / "dev.csv")
    return where


def test_the_report_shows_every_part(place):
    report = attar.probe(place / "teacher", place / "dev.csv", max_rows=24)
    assert report.heat.rows == ("layer 1", "layer 2")
    assert report.heat.columns == ("1", "2", "3", "4", "attn", "ffn", "layer")
    assert all(value is not None for row in report.heat.values for value in row)
    assert report.settings["texts"] == 24
    assert Report.from_json(report.to_json()).heat == report.heat
    assert "What each part is worth" in render(report)
    assert heatmap_text(report.heat).row_count == 2
    loaded = tiny.model(), tiny.tokenizer()
    again = attar.probe(loaded[0], str(place / "dev.csv"), tokenizer=loaded[1], max_rows=24)
    assert again.heat == report.heat


def test_layers_of_unequal_heads_leave_cells_empty():
    model = slims.slim("bert")
    found = probe(model, batches(), task_of(model.config), resamples=20)
    assert [value is None for value in heat(found).values[1]] == [False, False, True, False, False, False]


def test_a_model_without_a_task_is_refused(place, tmp_path):
    tiny.saved(tmp_path / "base", head="masked-lm")
    with pytest.raises(ModelError, match="ForMaskedLM"):
        attar.probe(tmp_path / "base", place / "dev.csv")
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match="exported from"):
        attar.probe(tmp_path / "model.onnx", place / "dev.csv")
    groups = tiny.model("albert", num_hidden_groups=2)
    with pytest.raises(ModelError, match="albert_layer_groups"):
        probe(groups, batches("albert"), task_of(groups.config))


def test_one_text_is_too_few(place):
    with pytest.raises(DataError, match="two texts"):
        attar.probe(place / "teacher", place / "dev.csv", max_rows=1)


def test_the_guide_runs(place, monkeypatch):
    monkeypatch.chdir(place)
    text = GUIDE.read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(block, GUIDE.name, "exec"), {})
    commands = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
    assert commands
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "attar"
        shown = CliRunner().invoke(app, words[1:], env={"COLUMNS": "80"})
        assert shown.exit_code == 0, shown.output
        assert "better without" in shown.output
        assert max(map(len, shown.stdout.splitlines())) <= 80
    assert (place / "out" / "probe" / "report.html").is_file()
