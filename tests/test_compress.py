"""Laws of compression: budgets mean what they say, candidates fill them, the search spends and repeats nothing."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import tiny
from attar import compress, finetune, plan, pretrain, tokenizer
from attar.anatomy.resolve import resolve
from attar.compression import finalists, pipeline, shipping
from attar.compression.budget import CEILINGS, Budget, budget_of, seconds_of
from attar.compression.candidate import Architecture, Candidate, teacher_architecture
from attar.compression.candidate_costs import CandidateCosts, operations
from attar.compression.data import split
from attar.compression.export_costs import ExportCosts
from attar.compression.exports import Exports
from attar.compression.learning import Learning
from attar.compression.live_table import live_table
from attar.compression.outcome import Finalist, Outcome
from attar.compression.pruned import PrunedForms
from attar.compression.search import FACTOR, Clock, Search, Tried
from attar.compression.space import Space
from attar.compression.task_texts import TaskTexts
from attar.compression.vocabularies import Vocabularies
from attar.data.model_task import task_of
from attar.distillation.student import student
from attar.errors import ModelError, OutputError, PlanError, RecipeError
from attar.evaluation.counting import flops
from attar.evaluation.language_model import sliding_window_loss
from attar.exporting.onnx import export
from attar.maths.statistics import Interval
from attar.model.checkpoint import load
from attar.model.onnx import OnnxModel
from attar.pruning.fisher import SampledLikelihood
from attar.pruning.scores import taylor
from attar.report.formatting import plain_text
from attar.report.report import Report, Row
from attar.storage.locking import _held, locked

LIMITS = (*CEILINGS, "keep", "smaller", "faster")


# Budgets


@given(st.dictionaries(st.sampled_from(LIMITS), st.integers(1, 99), min_size=1))
def test_what_a_budget_says_is_read_as_that_budget(given_limits):
    found = Budget(**{name: n / 100 if name == "keep" else n + 1.0 for name, n in given_limits.items()})
    again = budget_of(str(found))
    assert again.given == pytest.approx(found.given)
    assert budget_of(**found.given).given == pytest.approx(found.given)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("10 MB, 5 ms, keep 98%", {"size": 10, "latency": 5, "keep": 0.98}),
        ("10mb,5MS", {"size": 10, "latency": 5}),
        ("2 MiB, 300 us", {"size": 2.097152, "latency": 0.3}),
        ("3M params, 2 GFLOPs", {"parameters": 3e6, "flops": 2e9}),
        ("300 MB memory, keep 0.9", {"memory": 300, "keep": 0.9}),
        ("7.5x fewer parameters, 9.4x faster", {"smaller": 7.5, "faster": 9.4}),
    ],
)
def test_units_are_those_that_people_write(text, limits):
    assert budget_of(text).given == pytest.approx(limits)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10 MB, 5 parsecs", "  10 MB, 5 parsecs\n         ^^^^^^^^^"),
        ("fast", "no number in 'fast'"),
        ("10", "no unit in '10'"),
        ("keep 120%", "1.2 (keep 120%)"),
        ("0 ms", "0 (0 ms)"),
        ("0.5x smaller", "0.5 (0.5x smaller)"),
        ("5 ms, 6 ms", "5 ms and 6 ms"),
        ("", "none"),
    ],
)
def test_a_budget_that_means_nothing_is_refused_where_it_stands(text, found):
    with pytest.raises(RecipeError) as caught:
        budget_of(text)
    assert found in caught.value.found


def test_a_limit_is_said_once():
    with pytest.raises(RecipeError, match="leave one of them out"):
        budget_of("5 ms", latency=6.0)


def test_factors_are_of_the_teacher():
    found = budget_of("2x smaller, 4x faster, 3 ms").against({"parameters": 1000.0, "latency": 8.0})
    assert found.given == {"parameters": 500.0, "latency": 2.0}


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("0", 0), (12.5, 12.5)]
)
def test_times_are_seconds(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["soon", "", "5 parsecs", "-3"])
def test_other_times_are_refused(text):
    with pytest.raises(RecipeError, match="30m"):
        seconds_of(text)


# Candidates


def costs(candidate):
    """Something that rises with every size, as real costs do."""
    a = candidate.architecture
    part = a.budget if a.way == "prune" else 1.0
    layer = 4 * a.hidden * a.hidden + 2 * a.hidden * a.ffn
    parameters = part * (a.layers * layer + a.embedding * (60 if candidate.vocabulary == "used" else 100))
    return {
        "parameters": parameters,
        "size": parameters * (1 if candidate.precision == "int8" else 4) / 1e6,
        "latency": parameters / 1e4,
    }


def space(budget, **changes):
    bound = resolve(tiny.model(hidden_size=64, num_hidden_layers=4, intermediate_size=128))
    options = {
        "ways": ("distil", "prune", "drop"),
        "axes": ("all", "heads, FFN"),
        "vocabularies": ("all", "used"),
        "precisions": ("fp32", "int8"),
    }
    return Space(bound, costs, budget_of(budget), **{**options, **changes})


@pytest.mark.parametrize("limit", ["40k params", "4 ms", "0.2 MB", "60k params, 4 ms"])
def test_a_suggested_candidate_fits_and_the_next_size_does_not(limit):
    import optuna

    found = space(limit)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    candidates = [found.suggest(study.ask()) for _ in range(60)]
    ways = {one.architecture.way for one in candidates if one is not None}
    assert ways == {"distil", "prune", "drop"}
    for one in candidates:
        if one is None:
            continue
        assert found.fits(one)
        a = one.architecture
        if a.way == "distil" and a.hidden < 64 and a.hidden > found.step:
            ratio, part = a.ffn / a.hidden, a.embedding / a.hidden
            larger = vars(a) | {"hidden": a.hidden + found.step}
            larger["ffn"], larger["embedding"] = (
                round(larger["hidden"] * ratio),
                round(larger["hidden"] * part),
            )
            assert costs(one.but(architecture=type(a)(**larger)))["parameters"] > costs(one)["parameters"]
            assert not found.fits(one.but(architecture=type(a)(**larger))) or part < 1


@pytest.mark.parametrize("ways", [("distil",), ("prune",), ("drop",), ("prune", "drop")])
def test_what_is_tried_first_comes_about_in_the_ways_that_are_asked_for(ways):
    import optuna

    found = space("60k params", ways=ways, axes=("all",) if "prune" in ways else ())
    first = [found.suggest(optuna.trial.FixedTrial(params)) for params in found.defaults()]
    assert {one.architecture.way for one in first} == set(ways)


def test_a_smaller_budget_has_a_smaller_candidate_of_the_same_proportions():
    found = space("60k params")
    one = found.largest_student(Candidate(found._dropped(4)), layers=3, size=16, ratio=2.0, part=1.0)
    less, more = found.scaled(one, 0.5), found.scaled(one, 1.3)
    assert costs(less)["parameters"] < costs(one)["parameters"] < costs(more)["parameters"]
    assert less.architecture.layers == more.architecture.layers == 3


def test_what_pruning_cannot_reach_is_no_candidate():
    """Under a third of the parameters there is nothing that may go."""

    def stubborn(candidate):
        if candidate.architecture.budget < 0.33:
            raise PlanError(expected="more", found="less", fix="more")
        return costs(candidate)

    whole = costs(Candidate(space("1 params")._dropped(4)))["parameters"]
    for part, possible in ((0.5, True), (0.2, False)):
        base = space(f"{part * whole} params")
        found = replace(base, costs=stubborn).largest_pruned(Candidate(base._dropped(4)), "heads, FFN")
        assert (found is not None) == possible
        assert found is None or found.architecture.budget == pytest.approx(part)


def test_a_free_cost_has_a_ceiling_that_is_searched_for():
    import optuna

    found = space("keep 90%", free="latency")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = [costs(one)["latency"] for _ in range(60) if (one := found.suggest(study.ask())) is not None]
    assert min(seen) < 0.2 * max(seen)


# The search


class Pretended:
    """Learning without models: errors fall with sizes and steps, and what is asked for is noted."""

    def __init__(self, die_at=None):
        self.calls, self.die_at = [], die_at
        self.record = {}
        self.texts = SimpleNamespace(loaded=SimpleNamespace(model=None))

    def _reach(self, architecture, steps):
        if self.die_at is not None and len(self.calls) == self.die_at:
            raise KeyboardInterrupt
        assert (architecture, steps) not in self.calls  # nothing is trained twice
        self.calls.append((architecture, steps))
        error = 1 / (architecture.hidden * architecture.layers) + 1 / (1 + steps)
        entry = {"metrics": {"kl": error, "agreement": 1 - error}, "seconds": 0.0}
        self.record[architecture, steps] = entry
        return SimpleNamespace(model=None, steps=steps, **entry)

    def trained(self, architecture, steps):
        return self._reach(architecture, steps)

    def known(self, architecture, steps):
        return self.record.get((architecture, steps))

    def steps_done(self, architecture, most):
        return max((n for one, n in self.record if one == architecture and n <= most), default=0)

    def pace(self, architecture):
        return 0.0


class Ticks(Clock):
    """A clock on which every look is a second."""

    def __init__(self, given, record=None):
        super().__init__(given, record)
        self.ticks = itertools.count()

    @property
    def used(self):
        return float(next(self.ticks))


def searching(place, learning):
    options = {"figure": lambda metrics: metrics["agreement"], "rungs": (0, 10, 30), "floor": None, "seed": 0}
    return Search(space("40k params"), learning, place, **options)


def test_few_candidates_learn_long_and_the_best_is_among_them(tmp_path):
    learning = Pretended()
    search = searching(tmp_path, learning)
    search.run(Ticks(200, tmp_path / "clock"), 200)
    reached = [sum(1 for _, steps in learning.calls if steps == rung) for rung in (0, 10, 30)]
    assert reached[0] > 3 * reached[2] > 0
    assert reached[0] > reached[1] > reached[2]
    best = search.finalists(1)[0]
    errors = [
        1 / (one.candidate.architecture.hidden * one.candidate.architecture.layers)
        for one in search.tried.values()
    ]
    own = best.candidate.architecture
    assert 1 / (own.hidden * own.layers) <= sorted(errors)[len(errors) // FACTOR]
    assert all(one.stopped for one in search.tried.values() if len(one.rungs) < 3)


def test_the_live_table_fits_80_columns_and_its_counts_are_those_of_the_search(tmp_path):
    search = searching(tmp_path, Pretended())
    search.run(Ticks(200, tmp_path / "clock"), 200)
    clock = Clock(1800, tmp_path / "time")
    lines = plain_text(live_table(search.tried, search.rungs, clock)(), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "30 minutes left" in " ".join(lines)
    reached = [sum(len(one.rungs) > n for one in search.tried.values()) for n in range(3)]
    assert "0: {}, 10: {}, 30: {}".format(*reached) in " ".join(lines)
    best = search.finalists(1)[0]
    assert f"{best.kept:.1%}" in lines[1]
    assert lines[1].split()[-1] == "finalist"
    one = next(one for one in search.tried.values() if len(one.rungs) == 1)
    one.stopped = ""
    table = live_table(search.tried, search.rungs, clock)()
    assert plain_text(table, 80).splitlines()[1].split()[-1] == "running"


def test_a_killed_search_goes_on_and_repeats_nothing(tmp_path):
    learning = Pretended(die_at=9)
    with pytest.raises(KeyboardInterrupt):
        searching(tmp_path, learning).run(Ticks(60, tmp_path / "clock"), 60)
    before = list(learning.calls)
    learning.die_at = None
    again = searching(tmp_path, learning)
    again.run(Ticks(60, tmp_path / "clock"), 60)
    assert learning.calls[: len(before)] == before
    known = {one.candidate.architecture for one in again.tried.values()}
    assert {architecture for architecture, _ in before} <= known


def test_other_ways_are_another_search_in_the_same_place(tmp_path):
    options = {"figure": lambda metrics: metrics["agreement"], "rungs": (0, 10), "floor": None, "seed": 0}
    for ways in (("distil", "drop"), ("drop",)):
        search = Search(space("40k params", ways=ways, axes=()), Pretended(), tmp_path, **options)
        search.run(Ticks(40, tmp_path / "clock"), 40)
        assert {one.candidate.architecture.way for one in search.tried.values()} <= set(ways)
        assert search.tried


def test_time_that_a_killed_sitting_used_counts(tmp_path):
    first = Clock(100, tmp_path / "clock")
    first._began -= 40
    first.keep()
    second = Clock(100, tmp_path / "clock")
    assert 59 < second.left < 61
    second.stop()
    assert Clock(100, tmp_path / "clock").left > 99


def test_a_candidate_that_time_cut_short_is_held_against_others_where_both_were(tmp_path):
    search = searching(tmp_path, Pretended())
    rungs = {"slow": [9.0, 2.0, 1.0], "late": [8.0, 1.5], "weak": [9.5]}
    search.tried = {n: Tried(name, {}, errors) for n, (name, errors) in enumerate(rungs.items())}
    assert [one.candidate for one in search.finalists(3)] == ["late", "slow", "weak"]


def test_random_search_trains_every_candidate_to_the_end(tmp_path):
    learning = Pretended()
    options = {"figure": lambda metrics: metrics["agreement"], "rungs": (0, 10), "floor": None, "seed": 0}
    search = Search(space("40k params"), learning, tmp_path, **options, blind=True)
    search.run(Ticks(60, tmp_path / "clock"), 60)
    reached = [one.steps for one in search.tried.values() if one.stopped != "no time for the next rung"]
    assert len(reached) > 3
    assert set(reached) == {10}


def test_a_neighbour_of_a_candidate_whose_cost_is_free_costs_a_fifth_more():
    found = space("keep 90%", free="latency")
    whole = found.largest_student(Candidate(found._dropped(4)), layers=3, size=16, ratio=2.0, part=1.0)
    less = found.scaled(whole, 0.5)
    more = found.scaled(less, 1.9)
    assert costs(less)["latency"] <= 0.5 * costs(whole)["latency"]
    assert costs(less)["latency"] < costs(more)["latency"] <= 1.9 * costs(less)["latency"]


# Scores without labels


def test_first_order_scores_without_labels_are_more_than_rounding_errors():
    model = tiny.model()
    dead = model.bert.encoder.layer[1]
    with torch.no_grad():
        dead.output.dense.weight[:, 7] = 0
    loss = SampledLikelihood(model, task=task_of(model)).eval()
    texts = tiny.batches(tiny.table(64), batch_size=16)
    scores = taylor(
        model, ("ffn",), texts.epoch(), lambda batch: torch.stack(list(loss(batch).values())).sum()
    )
    values = scores.layers[1]["ffn"]
    assert values[7] == 0
    others = torch.cat([values[:7], values[8:]])
    assert others.median() > 1e-5
    found = plan(
        model, budget=model.num_parameters() - 49, axes="f", method="taylor", loss="distill", texts=tiny.texts(64),
        tokenizer=tiny.tokenizer(),
    )  # fmt: skip
    assert 7 not in found.layers[1].ffn


def test_sampled_gradients_are_the_fisher_information():
    """Of a logistic model with one alpha: E[g^2] = p (1 - p) z^2, where z is the logit that alpha multiplies."""
    from attar.data.tasks import Task

    alpha, z = torch.ones(1, requires_grad=True), torch.tensor(1.3)
    model = torch.nn.Module()
    loss = SampledLikelihood(model, task=Task("single_label", ("a", "b")), seed=1)
    logits = torch.stack([torch.zeros(1), alpha * z], dim=1)
    draws = []
    for _ in range(4000):
        value = loss.of_choices(logits)
        draws.append(float(torch.autograd.grad(value, alpha, retain_graph=True)[0] ** 2))
    p = float(torch.sigmoid(z))
    expected = p * (1 - p) * float(z) ** 2
    assert sum(draws) / len(draws) == pytest.approx(expected, rel=0.1)


# From end to end


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A teacher that tells good from bad, and texts."""
    place = tmp_path_factory.mktemp("compress")
    rows = tiny.sentiment(260)
    model = tiny.model(hidden_size=64, num_hidden_layers=2, intermediate_size=128, initializer_range=0.05)
    finetune(
        model, rows, dev=rows, tokenizer=tiny.tokenizer(), out=place / "teacher", epochs=8, lr=1e-3, patience=None,
        precision="fp32",
    )  # fmt: skip
    return place / "teacher", rows


@pytest.fixture
def seconds(monkeypatch):
    """A clock of looks and a pace that is given: no test waits for the time."""
    monkeypatch.setattr(pipeline, "Clock", Ticks)
    monkeypatch.setattr(Learning, "pace", lambda self, architecture: 0.2)
    monkeypatch.setattr(Learning, "probed", lambda self, learner, batches: 0.2)
    monkeypatch.setattr(finalists.Finalists, "ending", 5.0)
    monkeypatch.setattr(finalists, "FINALISTS", 1)


def test_a_compressed_model_is_within_its_budget_and_loads_for_a_stranger(teacher, seconds, tmp_path):
    model, rows = teacher
    options = {
        "data": rows,
        "to": "2.2x smaller",
        "precision": "fp32",
        "formats": ["fp32"],
        "work": tmp_path / "work",
    }
    report = compress(model, time=40, out=tmp_path / "small", **options)
    whole = AutoModelForSequenceClassification.from_pretrained(model).num_parameters()
    small = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small")
    assert small.num_parameters() <= whole / 2.2
    assert report.settings["fits"]
    assert report.settings["measured"]["parameters"] == small.num_parameters()
    assert report.settings["measured"]["latency"] == pytest.approx(1e3 * report.student.p50)
    assert report.settings["measured"]["speedup"] == report.student.speedup.value
    inputs = AutoTokenizer.from_pretrained(tmp_path / "small")(
        ["a good film", "a bad plot"], return_tensors="pt"
    )
    ours = small.eval()(**inputs).logits.detach().numpy()
    assert abs(OnnxModel(tmp_path / "small" / "onnx")(inputs) - ours).max() < 1e-3
    assert report.student.metrics["agreement"] > 0.8
    again = Report.from_json((tmp_path / "small" / "report.json").read_text())
    assert again.frontier == report.frontier
    states = [point.state for point in report.frontier.points]
    assert states.count("chosen") == 1
    assert "teacher" in states


def test_two_runs_do_not_share_a_work_directory(teacher, tmp_path):
    model, rows = teacher
    options = {"to": "2x smaller", "time": 0, "work": tmp_path / "work", "precision": "fp32"}
    with locked(tmp_path / "work"):
        _held.set(frozenset())  # what another process would ask with: this one may pass its own lock
        with pytest.raises(OutputError, match="one run at a time"):
            compress(model, data=rows, out=tmp_path / "small", **options)
    assert not (tmp_path / "small").exists()


def test_a_budget_that_nothing_meets_says_the_smallest(teacher, seconds, tmp_path):
    model, rows = teacher
    with pytest.raises(RecipeError) as caught:
        compress(
            model,
            data=rows,
            to="10 params",
            time=0,
            out=tmp_path / "small",
            formats=["fp32"],
            precision="fp32",
        )
    assert "at least" in caught.value.expected
    assert not (tmp_path / "small").exists()


def test_a_budget_above_the_model_needs_nothing(teacher, seconds, tmp_path):
    model, rows = teacher
    with pytest.raises(RecipeError, match="nothing to do"):
        compress(
            model, data=rows, to="1000 MB", time=0, out=tmp_path / "small", formats=["fp32"], precision="fp32"
        )


def test_a_teacher_at_chance_is_refused(tmp_path):
    model = tiny.model(hidden_size=64)
    rows = tiny.sentiment(100).map(lambda row: {"label": "LABEL_1" if row["label"] == "good" else "LABEL_0"})
    with pytest.raises(ModelError, match="most frequent label"):
        compress(model, tokenizer=tiny.tokenizer(), data=rows, to="2x smaller", out=tmp_path / "small")
    assert not (tmp_path / "small").exists()


# Language models


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A causal teacher that has learned to repeat sentences, its byte-level tokenizer, and texts."""
    place = tmp_path_factory.mktemp("decoder")
    lines = [f"{row['text']}." for row in tiny.sentiment(200)]
    words = tokenizer(lines, out=place / "tokenizer", style="decoder", vocab=400)
    sizes = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 64, "initializer_range": 0.05}
    marks = {"bos_token_id": words.eos_token_id, "eos_token_id": words.eos_token_id}
    model = tiny.model("gpt2", "causal-lm", **sizes, **marks, vocab_size=len(words), pad_token_id=None)
    options = {"max_length": 32, "batch_size": 8, "precision": "fp32"}
    pretrain(model, lines, dev=lines[:20], tokenizer=words, out=place / "gpt", epochs=6, lr=3e-3, **options)
    return place / "gpt", lines


def test_a_causal_model_is_compressed_by_the_same_search(decoder, seconds, tmp_path):
    model, lines = decoder
    report = compress(
        model,
        texts=lines[:120],
        to="1.6x smaller",
        time=25,
        ways=["distil"],
        out=tmp_path / "small",
        formats=["fp32"],
        max_length=32,
        length=16,
        precision="fp32",
    )
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "small").eval()
    words = AutoTokenizer.from_pretrained(tmp_path / "small")
    whole = AutoModelForCausalLM.from_pretrained(model)
    assert report.settings["fits"]
    assert small.num_parameters() <= whole.num_parameters() / 1.6
    assert report.settings["measured"]["parameters"] == small.num_parameters()
    ours, theirs = (row.metrics["bits_per_byte"] for row in (report.student, report.teacher))
    assert report.student.retained.value == pytest.approx(theirs / ours)
    inputs = words(["the film was very good."], return_tensors="pt")
    logits = small(**inputs).logits.detach().numpy()
    assert abs(OnnxModel(tmp_path / "small" / "onnx")(inputs) - logits).max() < 1e-3
    again = sliding_window_loss(small, lines[:120], words, max_length=32)
    assert again.metrics["bits_per_byte"] < 2 * theirs


def test_a_trimmed_causal_model_gives_the_logits_of_the_tokens_that_stay(decoder):
    loaded = load(decoder[0])
    kept = [
        n for n in range(loaded.model.config.vocab_size) if n % 7 or n in loaded.tokenizer.all_special_ids
    ]
    rows = shipping.trimmed(loaded.model, loaded.tokenizer, kept)[0]
    ids = torch.arange(12)[None]
    whole = loaded.model(input_ids=torch.tensor(kept)[ids]).logits[..., kept]
    assert torch.allclose(rows(input_ids=ids).logits, whole, atol=1e-6)
    assert rows.get_output_embeddings().weight is rows.get_input_embeddings().weight


def test_operations_by_which_latency_is_predicted_are_those_that_torch_counts():
    model = tiny.model("gpt2", "causal-lm")
    bound = resolve(model)
    form = teacher_architecture(bound).student_form(bound, bound.shape.vocab)
    assert 2 * operations(form, 20) == pytest.approx(flops(model, 1, 20))


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "gpt_neox"])
def test_sizes_of_a_causal_student_are_ones_that_its_family_has(family):
    wide = {"n_embd": 64} if family == "gpt2" else {"hidden_size": 64}
    heads = {"num_attention_heads": 4} if family == "gpt_neox" else {}
    bound = resolve(tiny.model(family, "causal-lm", **wide, **heads, num_hidden_layers=3))
    found = Space(bound, costs, budget_of("60k params"), ("distil",), (), ("all",), ("fp32",))
    for size, layers in itertools.product((16, 32, 64), (1, 2)):
        one = found.largest_student(
            Candidate(found._dropped(1)), layers=layers, size=size, ratio=2.0, part=1.0
        )
        a = one.architecture
        student(bound.model, layers=a.layers, hidden=a.hidden, heads=a.heads, ffn=a.ffn, init="random")


@pytest.mark.parametrize(
    ("given", "found"),
    [({"data": [{"text": "a"}]}, "data"), ({"ways": ["prune"]}, "decoders are not pruned")],
)
def test_what_does_not_apply_to_a_causal_model_is_refused(decoder, tmp_path, given, found):
    model, lines = decoder
    with pytest.raises(RecipeError) as caught:
        compress(model, texts=lines, to="2x smaller", out=tmp_path / "small", **given)
    assert found in caught.value.found
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("embedding", [64, 16])
def test_operations_of_a_candidate_are_those_of_its_student(embedding):
    """A budget in operations is heeded before anything is built."""
    teacher = tiny.model(hidden_size=64, num_hidden_layers=4, intermediate_size=128)
    bound = resolve(teacher)
    learning = SimpleNamespace(
        bound=bound,
        texts=SimpleNamespace(loaded=SimpleNamespace(model=teacher)),
        form=lambda a: a.student_form(bound, bound.shape.vocab),
    )
    options = {"exact": (), "vocabularies": {"all": bound.shape.vocab}, "tokenizer_bytes": {"all": 0}}
    costs_of = CandidateCosts(
        learning, ExportCosts(learning, Path("none"), length=32, batch=2, threads=1), **options
    )
    costs_of.latency.learn(learning.form(teacher_architecture(bound)), "fp32", 1.0)
    sizes = {"layers": 2, "hidden": 32, "heads": 4, "ffn": 48, "embedding": min(embedding, 32)}
    counted = flops(student(teacher, init="random", **sizes).model, 2, 32)
    found = costs_of(Candidate(Architecture("distil", **sizes)))["flops"]
    assert found == pytest.approx(counted, rel=1e-3 if embedding == 64 else 0.02)


def test_scores_of_some_axes_are_those_of_all_that_are_there(tmp_path):
    """One pass of gradients ranks the units of every set of axes."""
    model = tiny.model()
    texts = SimpleNamespace(
        loaded=SimpleNamespace(model=model),
        task=task_of(model),
        batches=lambda table: tiny.batches(tiny.table(64), batch_size=16),
        tables=SimpleNamespace(train=None),
    )
    forms = PrunedForms(texts, tmp_path, learned=False, precision="fp32", seed=0)
    found, alone = forms.scores("heads, FFN"), forms._measured(("heads", "ffn"))
    assert found.shared == {}
    for ours, theirs in zip(found.layers, alone.layers, strict=True):
        assert ours.keys() == theirs.keys() == {"heads", "ffn"}
        assert all(torch.allclose(ours[axis], theirs[axis], rtol=1e-4) for axis in ours)


def test_int8_with_fixed_scales_is_another_export_and_the_better_one_counts(teacher, tmp_path, monkeypatch):
    """Calibrated on training texts; what is within the budget counts before what is near to the teacher."""
    model, rows = teacher
    loaded = load(model)
    task = task_of(loaded.model)
    tables = split(
        task, data=rows, texts=None, dev=rows, test=rows, columns=None, sample_by="line", seed=0, rows=40
    )
    texts = TaskTexts(loaded, tables, max_length=16, stride=8, seed=0)
    options = {"length": 16, "batch": 1, "threads": 1, "max_drop": 1.0}
    candidate = Candidate(teacher_architecture(resolve(loaded.model)), "all", "int8")
    found = shipping.ship(
        loaded.model, loaded.tokenizer, candidate, tmp_path / "static", texts, **options, static=True
    )
    assert json.loads((tmp_path / "static" / "export.json").read_text())["precision"] == "int8-static"
    assert found.metrics["agreement"] > 0.8
    near = replace(found, costs={"latency": 3.0, "speedup": 1.0}, metrics={"agreement": 0.99})
    cheap = replace(found, costs={"latency": 1.0, "speedup": 3.0}, metrics={"agreement": 0.9})
    for limit, best in ((2.0, cheap), (4.0, near), (0.5, cheap)):
        assert min(near, cheap, key=judging(Budget(latency=limit)).rank) is best


def judging(budget):
    """Exports that are only judged, beside a teacher of 1000 parameters."""
    options = {"bound": None, "place": None, "vocabularies": None, "call": {}, "training": True}
    found = Exports(None, budget=budget, **options)
    found.teacher["fp32"] = shipping.Shipped(Path("teacher"), {"parameters": 1000.0}, {})
    return found


def test_a_multiple_of_the_teachers_speed_is_that_of_both_timed_in_turns():
    """On a machine that is half as fast as when the teacher alone was timed, 4x faster is still that."""
    exports = judging(Budget(faster=4.0, smaller=2.0))
    costs = {"parameters": 400.0, "latency": 10.0, "speedup": 4.2}
    assert exports.over(costs) == {}
    assert exports.over({**costs, "speedup": 3.2}) == {"latency": pytest.approx(4 / 3.2)}
    assert exports.over({**costs, "parameters": 600.0}) == {"parameters": pytest.approx(1.2)}
    both = judging(Budget(faster=4.0, latency=8.0))
    assert both.over(costs) == {"latency": pytest.approx(10 / 8)}


def test_an_export_is_timed_in_turns_with_the_teachers(teacher, tmp_path, monkeypatch):
    """A call of each in every round; a round's ratio does not change where the whole machine slows down."""
    loaded = load(teacher[0])
    export(loaded.model, tmp_path / "whole", tokenizer=loaded.tokenizer, max_length=16)
    rounds = []

    def interleaved(calls, *, repeats, clock):
        rounds.append((set(calls), [call() for call in calls.values()]))
        slower = np.linspace(1.0, 3.0, repeats)
        return {"export": 0.002 * slower, "teacher": 0.01 * slower}

    monkeypatch.setattr(shipping, "interleaved", interleaved)
    texts, call = SimpleNamespace(loaded=loaded), {"length": 16, "batch": 1, "threads": 1}
    found = shipping.speed(lambda: "called", tmp_path / "whole", texts, **call)
    assert found["speedup"] == pytest.approx(5)
    assert rounds[0][0] == {"export", "teacher"}
    assert rounds[0][1][0] == "called"
    assert rounds[0][1][1].shape == (1, 2)


def test_what_the_page_shows_was_timed_at_one_time():
    """What the report did not time keeps its ratio to the teacher, and so do predictions and a limit that is one."""
    whole, part = (Candidate(Architecture("drop", layers, 64, 4, 128, 64)) for layers in (2, 1))
    common = {"size": 4.0, "parameters": 100.0}
    made = {
        name: shipping.Shipped(Path(name), {**common, "latency": ms, "speedup": ratio}, {"agreement": 0.9})
        for name, ms, ratio in (
            ("fp32", 8.0, 1.0), ("int8", 4.0, 2.0), ("small", 2.0, 4.0), ("other", 5.0, 1.6),
        )
    }  # fmt: skip
    tried = Tried(part, {**common, "latency": 2.2}, [0.1], 10, 0.9)
    outcome = Outcome(
        budget=Budget(latency=1.6),
        kept=lambda metrics: metrics["agreement"],
        main="agreement",
        teacher={name: made[name] for name in ("fp32", "int8")},
        tried=[Tried(whole, {**common, "latency": 8.0}, [0.1]), tried],
        chosen=tried,
        final=Finalist(tried, made["small"]),
        neighbours=[],
        baselines={"other": made["other"]},
    )
    rows = {
        "teacher": Row("teacher", "teacher", p50=0.016, speedup=Interval(1.0, 1.0, 1.0)),
        "small": Row("small", "student", p50=0.0032, speedup=Interval(5.0, 4.9, 5.1)),
        "other": Row("other", "baseline", p50=0.012, speedup=Interval(1.5, 1.4, 1.6)),
    }
    now = outcome.timed_in_turns(Budget(faster=5.0), rows)
    assert now.final.shipped.costs == {**common, "latency": pytest.approx(3.2), "speedup": 5.0}
    shown = {point.name: 1e3 * point.latency for point in now.frontier().points}
    measured = {"teacher, fp32": 16.0, "teacher, int8": 8.0, "other": 12.0, str(part): 3.2}
    assert shown == pytest.approx({**measured, str(whole): 16.0})
    assert now.frontier().limits["latency"] == pytest.approx(0.0032)
    notes = now.notes({"latency": 1.25}, Report("a report"))
    assert notes == ["latency is 25% over its limit: 3.2 ms, 5x faster than the model"]


def test_fixed_scales_are_measured_of_a_family_whose_attention_is_not_fused(tmp_path, monkeypatch):
    """ModernBERT's are exported, and one of both int8 exports is taken by what was measured of them."""
    loaded = load(tiny.model("modernbert"), tokenizer=tiny.tokenizer("modernbert"))
    bound, rows = resolve(loaded.model), tiny.table(40)
    given = {"data": rows, "texts": None, "dev": rows, "test": rows, "columns": None, "sample_by": "line"}
    tables = split(task_of(loaded.model), **given, seed=0)
    texts = TaskTexts(loaded, tables, max_length=16, stride=8, seed=0)
    call = {"length": 16, "batch": 1, "threads": 1}
    vocabularies = Vocabularies(texts, bound, tmp_path)
    exports = Exports(texts, bound, tmp_path, Budget(size=0.001), vocabularies, call, training=True)
    exports.of_teacher(["fp32"])
    made = student(loaded.model, layers=1, init="layers").model
    sizes = {name: getattr(bound.shape, name) for name in ("hidden", "heads", "ffn", "embedding")}
    candidate = Candidate(Architecture("drop", 1, **sizes), "all", "int8")
    monkeypatch.setattr(Exports, "rank", lambda self, one: -one.costs["size"])
    found = exports.made(made, candidate)
    places = sorted((tmp_path / "exports").glob("drop-*-int8-0*.json"))
    assert [json.loads((place.with_suffix("") / "export.json").read_text())["precision"] for place in places] == [
        "int8-static", "int8",
    ]  # fmt: skip
    assert found.costs["size"] == max(json.loads(place.read_text())["costs"]["size"] for place in places)
