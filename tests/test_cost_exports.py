"""What candidates' exports cost is known before they are built: graphs of their sizes are those that they export to."""

from collections import Counter
from types import SimpleNamespace

import onnx_ir
import pytest
import torch

import tiny
from attar.anatomy.form import Form, LayerForm
from attar.anatomy.resolve import family as resolved
from attar.anatomy.resolve import resolve
from attar.compression.budget import budget_of
from attar.compression.candidate import Architecture, Candidate
from attar.compression.candidate_costs import operations
from attar.compression.export_costs import ExportCosts, PredictedLatency
from attar.compression.space import Space
from attar.distillation.student import student
from attar.exporting import int8
from attar.exporting.comparison import quiet
from attar.exporting.onnx import trace
from attar.model.onnx import OnnxModel
from attar.model.slim import class_for, config_for

SLIDING = {"num_hidden_layers": 3, "layer_types": ["full_attention", *["sliding_attention"] * 2]}
# Exports of an ALBERT have matrices of up to 8192 numbers once a layer, larger ones once.
ALBERT = {"hidden_size": 96, "intermediate_size": 104}
PRUNED = Architecture("prune", 2, 24, 4, 40, 24, "all", 0.5)
# Family and sizes of a teacher, a candidate, and its form where it is pruned.
CANDIDATES = {
    "pruned": (
        "bert",
        {},
        PRUNED,
        Form(21, 21, tiny.VOCAB, (LayerForm(3, 5, 5, 30), LayerForm(2, 6, 4, 31))),
    ),
    "student": ("distilbert", {}, Architecture("distil", 3, 32, 4, 72, 16), None),
    "pruned albert": ("albert", ALBERT, PRUNED, Form(93, 15, tiny.VOCAB, (LayerForm(4, 25, 24, 99),) * 3)),
    "shorter albert": (
        "albert",
        {**ALBERT, "num_hidden_layers": 6},
        Architecture("drop", 3, 96, 4, 104, 16),
        None,
    ),
    "pruned modernbert": (
        "modernbert",
        SLIDING,
        PRUNED,
        Form(21, 21, tiny.VOCAB, (LayerForm(3, 6, 6, 30), LayerForm(2, 6, 5, 20), LayerForm(4, 6, 6, 31))),
    ),
    "modernbert student": ("modernbert", SLIDING, Architecture("distil", 3, 32, 4, 72, 32), None),
    "gpt2 student": ("gpt2", {}, Architecture("distil", 3, 32, 4, 72, 32), None),
    "llama student": (
        "llama",
        {"num_attention_heads": 6, "num_key_value_heads": 2},
        Architecture("distil", 3, 48, 6, 72, 48),
        None,
    ),
    "opt student": ("opt", {}, Architecture("distil", 2, 32, 4, 72, 32), None),
    # Of an output matrix that is the embedding, too, a transposed copy is kept up to 8192 numbers.
    "shorter qwen3": ("qwen3", {"hidden_size": 128}, Architecture("drop", 1, 128, 4, 40, 128), None),
    "one layer of modernbert": ("modernbert", SLIDING, Architecture("drop", 1, 24, 4, 40, 24), None),
}


def costs_of(family, teacher, place, form=None):
    bound = resolve(teacher)
    tokenizer = tiny.decoder_tokenizer() if bound.anatomy.causal else tiny.tokenizer(family)
    learning = SimpleNamespace(
        bound=bound,
        texts=SimpleNamespace(loaded=SimpleNamespace(model=teacher, tokenizer=tokenizer)),
        form=lambda a: form if a.way == "prune" else a.student_form(bound, bound.shape.vocab),
    )
    return ExportCosts(learning, place / "times.json", length=16, batch=1, threads=1)


def operators(graph):
    """How often each operator is in a graph with constants of each shape; heads of two layers may be one constant."""
    constants = {
        node: [x for x in node.inputs if x is not None and x.const_value is not None]
        for node in graph
        if node.op_type != "Concat"
    }
    return Counter(
        (node.op_type, *(tuple(x.const_value.shape) for x in few)) for node, few in constants.items()
    )


@pytest.fixture(scope="module", params=CANDIDATES)
def made(request, tmp_path_factory):
    """Graphs of sizes beside those of a model of these sizes."""
    family, changes, architecture, form = CANDIDATES[request.param]
    place = tmp_path_factory.mktemp("made")
    head = "causal-lm" if resolved(family).causal else "sequence-classification"
    teacher = tiny.model(family, head, **changes)
    costs = costs_of(family, teacher, place, form)
    if architecture.way == "prune":
        config = config_for(teacher.config, form)
        model = class_for(teacher, config)(config)
    else:
        sizes = {
            name: getattr(architecture, name) for name in ("layers", "hidden", "heads", "ffn", "embedding")
        }
        model = student(teacher, init="layers" if architecture.way == "drop" else "random", **sizes).model
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    with quiet():
        fp32 = trace(model.eval(), costs.loaded.tokenizer, max_length=16)
        real = {"fp32": fp32, "int8": int8.quantize(fp32, model, "int8")}
    return SimpleNamespace(costs=costs, architecture=architecture, real=real, place=place)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_graph_of_a_form_is_the_one_that_a_model_of_it_exports_to(made, precision):
    costs, architecture = made.costs, made.architecture
    form, config = costs.learning.form(architecture), costs.config(architecture)
    ours, theirs = costs.program(Candidate(architecture, "all", precision), form), made.real[precision]
    assert operators(ours.graph) == operators(theirs.graph)
    weights = [sum(x.const_value.nbytes for x in one.graph.initializers.values()) for one in (ours, theirs)]
    assert weights[0] == pytest.approx(weights[1], abs=500)
    onnx_ir.save(theirs, made.place / "theirs.onnx")
    said = costs.bytes(Candidate(architecture, "all", precision), form) - len(config.to_json_string())
    # What is left is names and shapes of values.
    assert said == pytest.approx(
        (made.place / "theirs.onnx").stat().st_size, abs=1000 * (1 + len(form.layers))
    )
    onnx_ir.save(ours, made.place / "ours.onnx")
    assert said == pytest.approx((made.place / "ours.onnx").stat().st_size, abs=100 * (1 + len(form.layers)))
    given = costs.loaded.tokenizer(["a good film"], return_tensors="np")
    logits = OnnxModel(made.place / "ours.onnx")(given)
    tokens = given["input_ids"].shape[1]
    assert logits.shape == ((1, tokens, tiny.VOCAB) if costs.learning.bound.anatomy.causal else (1, 2))


@pytest.mark.parametrize("made", ["pruned", "modernbert student", "llama student"], indirect=True)
def test_nothing_is_timed_twice(made, monkeypatch):
    candidate, form = Candidate(made.architecture), made.costs.learning.form(made.architecture)
    first = made.costs.seconds(candidate, form)
    assert first > 0
    again = ExportCosts(made.costs.learning, made.costs.file, **made.costs.call)
    monkeypatch.setattr(again, "times_reference", None)
    second = again.seconds(candidate, form)
    # As many times as long as a reference that each run times anew.
    assert second / again.reference_seconds == pytest.approx(first / made.costs.reference_seconds)


def test_layers_that_share_weights_in_groups_are_not_guessed_at(tmp_path):
    teacher = tiny.model("albert", num_hidden_groups=2)
    candidate = Candidate(PRUNED)
    costs = costs_of("albert", teacher, tmp_path, Form(21, 15, tiny.VOCAB, (LayerForm(3, 5, 4, 30),) * 2))
    assert costs.seconds(candidate, costs.learning.form(candidate.architecture)) is None


def test_what_was_timed_corrects_what_is_predicted_of_others_like_it():
    def of(hidden, layers=4):
        return Form(hidden, hidden, 1000, (LayerForm(4, hidden // 4, hidden // 4, 2 * hidden),) * layers)

    def operations(form):
        return len(form.layers) * form.hidden**2

    def true(form):
        return 1e-9 * operations(form) + 1e-6 * form.hidden  # narrow models take longer for what they do

    found = PredictedLatency(operations)
    found.learn(of(512), "fp32", true(of(512)))
    assert found(of(512), "fp32") == true(of(512))
    far = abs(found(of(128), "fp32") / true(of(128)) - 1)
    found.learn(of(112), "fp32", true(of(112)))
    found.learn(of(112), "int8", 1.0)
    assert abs(found(of(128), "fp32") / true(of(128)) - 1) < far / 4
    assert found(of(512), "fp32") == true(of(512))


def test_logits_of_all_tokens_take_time_and_rows_of_an_embedding_do_not():
    few, many = (Form(64, 64, vocab, (LayerForm(4, 16, 16, 128),)) for vocab in (1_000, 50_000))
    for rows in (False, True):
        found = PredictedLatency(lambda form: operations(form, 16), rows=rows)
        found.learn(few, "fp32", 1.0)
        assert found.knows(many, "fp32") != rows
        assert (found(many, "fp32") > 2) == rows


def test_a_candidate_fills_the_budget_as_it_is_measured():
    """Predictions are half of what is true until a candidate was measured."""
    known = set()

    def costs(candidate):
        true = candidate.architecture.hidden * candidate.architecture.layers / 10
        return {"latency": true if known else true / 2}

    def measure(candidate):
        if candidate in known:
            return False
        known.add(candidate)
        return True

    bound = resolve(tiny.model(hidden_size=128, num_hidden_layers=4))
    space = Space(bound, costs, budget_of("20 ms"), ("distil",), (), ("all",), ("fp32",), measure=measure)
    found = space.largest_student(Candidate(space._dropped(4)), layers=4, size=16, ratio=2.0, part=1.0)
    assert 0.8 * 20 < costs(found)["latency"] <= 20
    assert len(known) <= 3
