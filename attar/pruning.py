"""`plan` and `prune`: which units of a model can go within a budget, and the smaller model without them."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset
from transformers import PreTrainedModel

from attar import work
from attar.anatomy.form import Form, form_of
from attar.anatomy.resolve import family
from attar.errors import DataError, ModelError, PlanError
from attar.measure.compare import Opened, measure
from attar.measure.report import Point, Report, Row
from attar.model.checkpoint import Loaded, check_free, digest, load, save, versions
from attar.model.data import Batches, encode, fitting, positions
from attar.model.masking import MaskedBatches
from attar.model.tables import Columns, read_table, read_texts
from attar.model.tasks import Task
from attar.progress import say
from attar.prune.apply import apply
from attar.prune.cost import Operations, Parameters, cost_model
from attar.prune.latency import Latency
from attar.prune.plan import Cost, LayerPlan, Plan
from attar.prune.published import published
from attar.prune.run import Loss, Recovery, recover, rounds
from attar.prune.scores import magnitude
from attar.prune.search import ALPHAS, LOOKS, Method, Way, axes_of
from attar.prune.select import best
from attar.prune.units import Kept, everything
from attar.prune.vocabulary import config_ids, restrict, trim
from attar.train import Precision, Source, is_main, processes

Model = str | Path | PreTrainedModel
CostName = Literal["params", "flops", "latency"]
Table = str | Path | Dataset
# What a published shape and a trimmed vocabulary are called in a plan.
SHAPE, VOCABULARY = "shape", "vocabulary"


@dataclass
class Pruning:
    """One model to prune: its texts, what forms of it cost, and how its units are chosen."""

    loaded: Loaded
    way: Way
    cost: CostName
    loss: Loss
    length: int
    max_length: int
    batch_size: int
    texts: Dataset | None
    table: Latency | None

    def __post_init__(self) -> None:
        self.model, self.tokenizer = self.loaded.model, self.loaded.tokenizer
        self.form = form_of(self.model.config)
        self.task = _task(self.model)
        self.length = min(self.length, positions(self.model))
        if self.cost == "latency" and self.table is None:
            say("timing layers of many sizes on this machine")
            self.table = Latency.measure(self.model, length=self.length)
        self.costs = cost_model(self.cost, self.model, length=self.length, table=self.table)
        needed = self.way.method in LOOKS
        if needed and self.texts is None:
            raise DataError(
                expected=f"texts: {self.way.method} looks at what the model does with them",
                found="none",
                fix="pass texts=… (one a line) or data=…, or choose method='magnitude', which needs none",
            )

    def batches(self, loss: Loss) -> Source:
        """The texts, as a loss wants them.

        Raises:
            ModelError, DataError: a loss that the model has no head for, or no labels.
        """
        assert self.texts is not None
        self.check(loss)
        table = self.texts
        if loss != "task" and "label" in table.column_names:
            table = table.remove_columns("label")
        rank, world = processes()
        encoded = encode(table, self.tokenizer, max_length=fitting(self.max_length, self.model))
        dealt = Batches(
            encoded,
            self.tokenizer,
            batch_size=self.batch_size,
            shuffle=True,
            seed=self.way.seed,
            rank=rank,
            world=world,
        )
        if not dealt.content[0].sum():
            raise DataError(expected="texts with tokens", found="none in any of them", fix="check the texts")
        return MaskedBatches(dealt, self.tokenizer, seed=self.way.seed) if loss == "mlm" else dealt

    def check(self, loss: Loss) -> None:
        """Refuse a loss that the model or the texts are not for."""
        if loss == "mlm" and not type(self.model).__name__.endswith(("ForMaskedLM", "ForPreTraining")):
            raise ModelError(
                expected="a masked-language-model head, for loss='mlm'",
                found=type(self.model).__name__,
                fix="give it one (attar pretrain), or loss='distill', which needs no head",
            )
        if loss == "task" and (self.task is None or "label" not in (self.texts or _NONE).column_names):
            raise DataError(
                expected="a fine-tuned classifier and labels, for loss='task'",
                found=type(self.model).__name__ if self.task is None else "texts without labels",
                fix="name the label column, or loss='distill', which needs no labels",
            )

    def goal(self, budget: float) -> float:
        """A budget in the unit of the cost; up to 1 it is a part of what the model costs."""
        if not budget > 0:
            raise PlanError(
                expected="a budget above 0", found=str(budget), fix="give a part of the model, such as 0.6"
            )
        return budget * self.costs(self.form) if budget <= 1 else budget

    def describe(self, form: Form) -> Cost:
        """What a form costs."""
        parameters = Parameters(self.model)(form)
        return Cost(
            parameters=parameters,
            flops=Operations(self.model, self.length)(form),
            bytes=4 * parameters,
            latency=None if self.table is None else self.table(form),
        )

    def plan(self, kept: Kept, method: str, budget: float) -> Plan:
        """A plan that keeps these units."""
        form = kept.form
        anatomy = family(self.model.config.model_type)
        return Plan(
            model=self.loaded.name,
            digest=digest(self.model),
            family=anatomy.name,
            method=method,
            budget=budget,
            cost=self.cost,
            length=self.length,
            hidden=kept.hidden,
            embedding=kept.embedding,
            vocab=kept.vocab,
            layers=tuple(LayerPlan(**vars(layer)) for layer in kept.layers),
            sizes={**vars(self.form), "layers": [vars(layer) for layer in self.form.layers]},
            before=self.describe(self.form),
            after=self.describe(form),
            stock=form.stock(anatomy),
        )

    def rounds(self, budget: float, count: int, recovery: Recovery | None, place: Path) -> Any:
        """Rounds of pruning down to a budget."""
        if self.way.method in (*ALPHAS, "taylor"):
            self.check(self.loss)
        if recovery is not None and recovery.loss is not None and self.texts is not None:
            self.check(recovery.loss)
        return rounds(
            self.model,
            self.way,
            self.costs,
            self.goal(budget),
            count=count,
            loss=self.loss,
            task=self.task,
            batches=self.batches if self.texts is not None else None,
            recovery=recovery,
            place=place,
        )


_NONE = Dataset.from_dict({})


def plan(
    model: Model,
    *,
    budget: float | None = None,
    axes: str | Sequence[str] = "all",
    method: Method | Literal["vocabulary"] = "schubert",
    shape: str | None = None,
    data: Table | None = None,
    texts: Any = None,
    columns: Columns | None = None,
    tokenizer: Any = None,
    cost: CostName = "params",
    loss: Loss = "distill",
    rounds: int = 1,
    steps: int = 100,
    lr: float = 0.01,
    gamma: float | None = None,
    rounding: int | Literal["auto"] | None = None,
    length: int = 128,
    max_length: int = 128,
    batch_size: int = 32,
    seed: int = 0,
    precision: Precision = "auto",
    table: Latency | str | Path | None = None,
) -> Plan:
    """Find which units of a model can go within a budget; nothing is touched.

    Args:
        model: a directory, a hub name, or a model (then with its `tokenizer`).
        budget: what the smaller model may cost: up to 1 a part of the model's cost, else a number of parameters or
            operations. Not for `shape`, nor for method="vocabulary", which keeps what the texts use.
        axes: what may be cut: "all" (hidden, heads, key, value, ffn), "h", "f", "a" (schuBERT's variants), or a list.
        method: see `Way`; "vocabulary" drops tokens that the texts do not use.
        shape: a shape that the paper published for BERT-base, "schubert-99m" to "schubert-33m"; units by magnitude.
        data, texts: a table, or plain texts, that the model is looked at with; "task" needs labels.
        cost: "params", "flops" (of one text of `length` tokens), or "latency", measured on this machine.
        loss: that teaches alphas: "distill" (stay close to the model; any text), "mlm" (for a masked language model),
            "task" (needs labels).
        rounds: of learning and cutting; more than one are recovered in between as `prune` does.
        steps, lr, gamma: of learning alphas, see `learn_alphas`.
        rounding: sizes are multiples of this; "auto" as the latency table advises, which is the default for latency.
        table: a latency table that was measured before (`attar.prune.latency.Latency`), or its file.

    Raises:
        PlanError: a budget that cannot be met, an axis or a shape that the model does not have.
        ModelError, DataError, TrainingError: see the functions that this one calls.
    """
    loaded = load(model, tokenizer=tokenizer)
    read = _texts(data, texts, columns, _task(loaded.model), labels=loss == "task")
    looks = shape is None and method != VOCABULARY
    way = Way(
        method if looks else "magnitude",  # type: ignore[arg-type]
        axes_of(loaded.model, axes),
        steps,
        lr,
        gamma,
        None,
        seed,
        precision,
    )
    options = (cost, loss, length, max_length, batch_size, read, _latency(table, loaded.model, length))
    found = _rounded(Pruning(loaded, way, *options), rounding)
    if shape is not None:
        return found.plan(_published(found, shape), f"{SHAPE} {shape}", 1.0)
    if method == VOCABULARY:
        return found.plan(_vocabulary(found), VOCABULARY, 1.0)
    if budget is None:
        raise PlanError(expected="a budget", found="none", fix="pass budget=0.6, or shape=…")
    recovery = Recovery(loss, precision=precision, seed=seed) if rounds > 1 else None
    with tempfile.TemporaryDirectory() as place:
        made = found.rounds(budget, rounds, recovery, Path(place))
    return found.plan(made.kept, method, budget)


def prune(
    model: Model,
    plan: Plan | str | Path | None = None,
    *,
    out: str | Path,
    budget: float | None = None,
    axes: str | Sequence[str] = "all",
    method: Method | Literal["vocabulary"] = "schubert",
    shape: str | None = None,
    data: Table | None = None,
    texts: Any = None,
    dev: Table | None = None,
    columns: Columns | None = None,
    tokenizer: Any = None,
    cost: CostName = "params",
    loss: Loss = "distill",
    rounds: int = 1,
    steps: int = 100,
    lr: float = 0.01,
    gamma: float | None = None,
    recover: Loss | None = "distill",
    recover_steps: int = 200,
    recover_lr: float = 5e-5,
    rounding: int | Literal["auto"] | None = None,
    length: int = 128,
    max_length: int = 128,
    batch_size: int = 32,
    seed: int = 0,
    precision: Precision = "auto",
    table: Latency | str | Path | None = None,
    overwrite: bool = False,
) -> Report:
    """Cut a model for real, by a plan or down to a budget, and recover what it lost.

    Args:
        plan: a plan, or its file; else one is found from the options that `attar.plan` has, in `rounds` rounds of
            learning, cutting and recovering, with what was learned folded into the weights (2005.06628, algorithm 1).
        out: the directory to write; it appears whole, after it was loaded again and compared, with `plan.json` in it.
        dev: what the report measures on: against labels where it has them, else as agreement with the model before.
        recover: after each cut, `recover_steps` steps of staying close to the model before ("distill"), or of the loss
            "task" or "mlm"; None for none. Without texts there is none.

    Returns:
        A report with the model before and after, their shapes, and the training curves.

    Raises:
        PlanError: a plan for another model, and as `attar.plan`. OutputError: `out` is taken.
    """
    check_free(out, overwrite=overwrite)
    loaded = load(model, tokenizer=tokenizer)
    labels = "task" in {loss, recover}
    read = _texts(data, texts, columns, _task(loaded.model), labels=labels)
    looks = plan is None and shape is None and method != VOCABULARY
    way = Way(
        method if looks else "magnitude",  # type: ignore[arg-type]
        axes_of(loaded.model, axes),
        steps,
        lr,
        gamma,
        None,
        seed,
        precision,
    )
    options = (cost, loss, length, max_length, batch_size, read, _latency(table, loaded.model, length))
    found = _rounded(Pruning(loaded, way, *options), rounding)
    recovery = Recovery(recover, recover_steps, recover_lr, precision, seed)
    with work.space(out) as place:
        if looks:
            if budget is None:
                raise PlanError(
                    expected="a plan, a shape or a budget", found="none", fix="pass budget=0.6, or a plan"
                )
            made = found.rounds(budget, rounds, recovery, place)
            small, curves, planned = made.model, made.curves, found.plan(made.kept, method, budget)
        else:
            planned = _given(found, plan, shape)
            small, curves = _cut(found, planned, recovery, place)
        kept = loaded.tokenizer
        if len(planned.vocab) < found.form.vocab:
            kept = restrict(loaded.tokenizer, planned.vocab)
        lineage = {
            "stage": "prune",
            "parent": loaded.name,
            "options": {"method": planned.method, "budget": planned.budget, "axes": way.axes, "seed": seed},
            "kept_hidden": list(planned.hidden),
        }
        if is_main():
            files = {"plan.json": planned.to_json()}
            save(small, kept, out, lineage=lineage, files=files, overwrite=overwrite)
        rows = _rows(found, small, kept, dev, columns, out)
    return Report(
        f"{loaded.name} pruned to {planned.after.parameters / planned.before.parameters:.0%}",
        "accuracy",
        rows,
        curves,
        settings=lineage["options"],  # type: ignore[arg-type]
        versions=versions(),
    )


def _task(model: PreTrainedModel) -> Task | None:
    return Task.of(model.config) if type(model).__name__.endswith("ForSequenceClassification") else None


def _texts(
    data: Any, texts: Any, columns: Columns | None, task: Task | None, *, labels: bool
) -> Dataset | None:
    if data is not None:
        return read_table(data, columns=columns, task=task, labels=labels)[0]
    return None if texts is None else read_texts(texts)


def _latency(table: Any, model: PreTrainedModel, length: int) -> Latency | None:
    return table if table is None or isinstance(table, Latency) else Latency.read(table, model, length=length)


def _rounded(found: Pruning, rounding: int | str | None) -> Pruning:
    """The pruning with the steps that its sizes shall be multiples of."""
    axes = ("hidden", "embedding", "key", "value", "ffn")
    if rounding == "auto" or (rounding is None and found.cost == "latency"):
        if found.table is None:
            raise PlanError(
                expected="a latency table, for rounding='auto'",
                found="none",
                fix="pass cost='latency' or table=…, or a number, such as 8",
            )
        steps = {axis: found.table.step(axis) for axis in axes}
    elif isinstance(rounding, int):
        steps = dict.fromkeys(axes, rounding)
    else:
        return found
    # A dimension inside a head is there once a head: 32 heads of 8 are as wide as 8 of 32.
    largest = {"key": found.form.layers[0].key, "value": found.form.layers[0].value}
    steps = {axis: min(step, largest.get(axis, step)) for axis, step in steps.items()}
    found.way = replace(found.way, rounding=steps)
    return found


def _published(found: Pruning, name: str) -> Kept:
    form = published(name, found.form)
    axes = axes_of(found.model, "all")
    scores = magnitude(found.model, axes)
    sizes = [
        getattr(form if layer is None else form.layers[layer], axis) for axis, layer, _ in scores.groups()
    ]
    return best(found.form, scores, sizes)


def _vocabulary(found: Pruning) -> Kept:
    if found.texts is None:
        raise DataError(expected="the texts whose tokens stay", found="none", fix="pass texts=… or data=…")
    columns = [found.texts[name] for name in ("text", "text_pair") if name in found.texts.column_names]
    kept = trim(found.tokenizer, [text for column in columns for text in column]).kept
    config_ids(found.model.config, kept)  # refuses what the model could not follow
    return replace(everything(found.form), vocab=kept)


def _given(found: Pruning, plan: Plan | str | Path | None, shape: str | None) -> Plan:
    """The plan that was given, or the one that needs no learning."""
    if plan is None:
        kept = _vocabulary(found) if shape is None else _published(found, shape)
        return found.plan(kept, VOCABULARY if shape is None else f"{SHAPE} {shape}", 1.0)
    planned = plan if isinstance(plan, Plan) else Plan.read(plan)
    if planned.digest != digest(found.model):
        raise PlanError(
            expected=f"the model that the plan was made for: {planned.model}, digest {planned.digest}",
            found=f"{found.loaded.name}, digest {digest(found.model)}",
            fix="name that model, or make a plan for this one",
        )
    # A person may have edited what stays; what it costs is counted anew.
    return found.plan(planned.kept, planned.method, planned.budget)


def _cut(
    found: Pruning, planned: Plan, recovery: Recovery, place: Path
) -> tuple[PreTrainedModel, dict[str, tuple[Point, ...]]]:
    small = apply(found.model, planned.kept)
    whole = len(planned.vocab) == found.form.vocab
    if not whole:
        for name, value in config_ids(found.model.config, planned.vocab).items():
            setattr(small.config, name, value)
    if recovery.loss is None or found.texts is None or not whole:
        return small, {}
    found.check(recovery.loss)
    batches = found.batches(recovery.loss)
    here = place / f"cut-{digest(small, vars(recovery), *batches.content)}"
    here.mkdir(exist_ok=True)
    curve = recover(
        small, recovery, batches, teacher=found.model, kept=planned.kept, task=found.task, place=here
    )
    return small.eval(), {"recover": curve}


def _rows(
    found: Pruning, small: PreTrainedModel, tokenizer: Any, dev: Any, columns: Columns | None, out: Any
) -> tuple[Row, ...]:
    """The model before and after, with what it does on the dev table where it is a classifier and there is one."""
    name, task = Path(out).name, found.task
    pair = ((found.model, found.tokenizer, "before"), (small, tokenizer, name))
    if task is None or dev is None:
        before, after = (model.num_parameters() for model, _, _ in pair)
        return (
            Row("before", "teacher", parameters=before),
            Row(name, "student", parameters=after, directory=str(out)),
        )
    opened = [
        Opened(label, "torch fp32", model, tokens, task, model.num_parameters(), None, None)
        for model, tokens, label in pair
    ]
    table = read_table(dev, columns=columns, task=task)[0]
    length = fitting(found.max_length, found.model)
    rows = measure([("teacher", opened[0]), ("student", opened[1])], table, max_length=length)[0]
    return (rows[0], replace(rows[1], directory=str(out)))
