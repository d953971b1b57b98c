"""One model to prune: its texts, what forms of it cost, how its units are chosen, and the plans that come of it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from datasets import Dataset
from transformers import PreTrainedModel

from attar.anatomy.form import Form, form_of
from attar.anatomy.resolve import family
from attar.data.batches import Batches, encode, fitting, positions
from attar.data.masking import MaskedBatches
from attar.data.model_task import embedding_task_of, task_of
from attar.data.tasks import Task
from attar.errors import DataError, ModelError, PlanError
from attar.model.checkpoint import Loaded, digest
from attar.model.embedding import SentenceEncoder
from attar.progress import say
from attar.pruning.alphas import alphas_for
from attar.pruning.apply import apply
from attar.pruning.cost import Operations, Parameters, cost_model
from attar.pruning.latency import Latency
from attar.pruning.plan import Plan
from attar.pruning.plan_parts import LayerPlan, ModelCost
from attar.pruning.published_shapes import published
from attar.pruning.reconstruction import TOKENS
from attar.pruning.round import ALPHAS, LOOKS, Way, axes_of
from attar.pruning.rounds import Loss, Pruned, Recovery, fitted, recover, rounds
from attar.pruning.scores import magnitude
from attar.pruning.selection import best, smallest
from attar.pruning.units import Kept, everything
from attar.pruning.vocabulary import config_ids, trim
from attar.report.report import Point
from attar.training.loop import Source, processes

CostName = Literal["params", "flops", "latency"]
Rounding = int | Literal["auto"] | None
# Axes whose sizes are rounded; heads are whole as they are.
ROUNDED = ("hidden", "embedding", "key", "value", "ffn")


@dataclass
class Pruner:
    """One model to prune: its texts, what forms of it cost, and how its units are chosen.

    Raises:
        DataError: a method that looks at texts, and there are none, or no labels for loss="task".
        ModelError: loss="mlm" without that head.
        PlanError: a table of latencies of another model or machine.
    """

    loaded: Loaded
    way: Way
    cost: CostName = "params"
    loss: Loss = "distill"
    length: int = 128
    max_length: int = 128
    batch_size: int = 32
    texts: Dataset | None = None
    table: Latency | str | Path | None = None
    rounding: Rounding = None

    def __post_init__(self) -> None:
        self.model, self.tokenizer = self.loaded.model, self.loaded.tokenizer
        self.form = form_of(self.model.config)
        self.task = classification_task(self.model)
        self.length = min(self.length, positions(self.model))
        if self.way.method in LOOKS and self.texts is None:
            raise DataError(
                expected=f"texts: {self.way.method} looks at what the model does with them",
                found="none",
                fix="pass texts=… (one a line) or data=…, or choose method='magnitude', which needs none",
            )
        if self.way.method in (*ALPHAS, "taylor"):
            self.check(self.loss)
        self.latency = self._latency()
        self.costs = cost_model(self.cost, self.model, length=self.length, table=self.latency)
        self.way = replace(self.way, rounding=self._steps())

    def batches(self, loss: Loss, alike: bool = False, /) -> Source:
        """The texts, as a loss wants them; of several processes each gets its own, or all the same ones where `alike`.

        Those that are alike are looked at and not learned from: some of many are enough.

        Raises:
            ModelError, DataError: a loss that the model has no head for, or no labels.
        """
        assert self.texts is not None
        self.check(loss)
        table = self.texts
        if loss != "task" and "label" in table.column_names:
            table = table.remove_columns("label")
        rank, world = (0, 1) if alike else processes()
        if alike and len(table) > TOKENS:  # at least as many tokens as are looked at
            table = table.shuffle(seed=self.way.seed).select(range(TOKENS))
        # Only an embedding model has a prompt before its texts.
        encoded = embedding_task_of(self.model).encode if isinstance(self.model, SentenceEncoder) else encode
        dealt = Batches(
            encoded(table, self.tokenizer, max_length=fitting(self.max_length, self.model)),
            self.tokenizer,
            batch_size=self.batch_size,
            shuffle=True,
            seed=self.way.seed,
            rank=rank,
            world=world,
        )
        said = set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}
        if said.issuperset(dealt.token_ids.tolist()):
            raise DataError(
                expected="texts with tokens",
                found=f"none in any of {len(table)} but special ones",
                fix="check the texts, and that tokenizer and texts are of one language",
            )
        return MaskedBatches(dealt, self.tokenizer, seed=self.way.seed) if loss == "mlm" else dealt

    def check(self, loss: Loss) -> None:
        """Refuse a loss that the model or the texts are not for."""
        if loss == "mlm" and not type(self.model).__name__.endswith(("ForMaskedLM", "ForPreTraining")):
            raise ModelError(
                expected="a masked-language-model head, for loss='mlm'",
                found=type(self.model).__name__,
                fix="give it one (attar pretrain), or loss='distill', which needs no head",
            )
        labelled = self.texts is not None and "label" in self.texts.column_names
        if loss == "task" and (self.task is None or not labelled):
            raise DataError(
                expected="a fine-tuned classifier and labels, for loss='task'",
                found=type(self.model).__name__ if self.task is None else "texts without labels",
                fix="name the label column, or loss='distill', which needs no labels",
            )

    def widen(self, budget: float) -> None:
        """Let all axes be cut where those that may be do not reach a budget."""
        scores = alphas_for(self.model, self.way.axes).scores()
        least = self.costs(smallest(self.form, scores, steps=self.way.rounding))
        every = axes_of(self.model, "all")
        if least > self.goal(budget) and every != self.way.axes:
            say(
                f"{' and '.join(self.way.axes)} reach {least / self.costs(self.form):.1%} of the cost at least: "
                f"{', '.join(every)} may be cut"
            )
            self.way = replace(self.way, axes=every)

    def goal(self, budget: float) -> float:
        """A budget in the unit of the cost; up to 1 it is a part of what the model costs."""
        return budget * self.costs(self.form) if budget <= 1 else budget

    def describe(self, form: Form) -> ModelCost:
        """What a form costs."""
        parameters = Parameters(self.model)(form)
        return ModelCost(
            parameters=parameters,
            flops=Operations(self.model, self.length)(form),
            bytes=4 * parameters,
            latency=None if self.latency is None else self.latency(form),
        )

    def plan(self, kept: Kept, method: str, budget: float) -> Plan:
        """A plan that keeps these units."""
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
            after=self.describe(kept.form),
            stock=kept.form.stock(anatomy),
        )

    def rounds(self, budget: float, count: int, recovery: Recovery | None, place: Path) -> Pruned:
        """Rounds of pruning down to a budget."""
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
            place=self._own(place),
        )

    def published(self, name: str) -> Plan:
        """The plan of a published shape; units stay by their magnitude."""
        form = published(name, self.form)
        scores = magnitude(self.model, axes_of(self.model, "all"))
        sizes = [
            getattr(form if layer is None else form.layers[layer], axis) for axis, layer, _ in scores.groups()
        ]
        return self.plan(best(self.form, scores, sizes), f"shape {name}", 1.0)

    def vocabulary(self, min_count: int = 1) -> Plan:
        """The plan that drops the tokens that the texts do not use, or use less than `min_count` times."""
        if self.texts is None:
            raise DataError(
                expected="the texts whose tokens stay", found="none", fix="pass texts=… or data=…"
            )
        columns = [self.texts[name] for name in ("text", "text_pair") if name in self.texts.column_names]
        words = [text for column in columns for text in column]
        kept = trim(self.tokenizer, words, min_count=min_count).kept
        config_ids(self.model.config, kept)  # refuses what the model could not follow
        return self.plan(replace(everything(self.form), vocab=kept), "vocabulary", 1.0)

    def given(self, plan: Plan | str | Path) -> Plan:
        """A plan that was made before; a person may have edited what stays, so what it costs is counted anew.

        Raises:
            PlanError: it is for another model, or says nonsense.
        """
        planned = plan if isinstance(plan, Plan) else Plan.read(plan)
        ours = digest(self.model)
        if planned.digest != ours or planned.source != self.form:
            raise PlanError(
                expected=f"the model that the plan was made for: {planned.model}, digest {planned.digest}",
                found=f"{self.loaded.name}, digest {ours}",
                fix="name that model, or make a plan for this one",
            )
        return self.plan(planned.kept, planned.method, planned.budget)

    def cut(
        self, planned: Plan, recovery: Recovery, place: Path
    ) -> tuple[PreTrainedModel, dict[str, tuple[Point, ...]]]:
        """The smaller model that a plan says, recovered where there are texts, and its training curves."""
        whole = len(planned.vocab) == self.form.vocab
        ids = {} if whole else config_ids(self.model.config, planned.vocab)
        small = apply(self.model, planned.kept, **ids)
        trains = recovery.loss is not None and recovery.steps > 0
        if self.texts is None or not (trains or recovery.reconstruct):
            return small, {}
        if not whole:
            say("neither fitted nor recovered: model and smaller model have other token numbers")
            return small, {}
        teacher, kept = self.model, planned.kept
        if recovery.reconstruct:
            fitted(small, teacher, kept, self.batches)
        if recovery.loss is None or not trains:
            return small, {}
        batches = self.batches(recovery.loss)
        here = self._own(place) / f"cut-{digest(small, vars(recovery), *batches.content)}"
        here.mkdir(parents=True, exist_ok=True)
        curve = recover(small, recovery, batches, teacher=teacher, kept=kept, task=self.task, place=here)
        return small.eval(), {"recover": curve}

    def _own(self, place: Path) -> Path:
        """Where a run of these batches and this cost may go on from."""
        return place / digest(self.cost, self.length, self.batch_size)

    def _latency(self) -> Latency | None:
        table = self.table
        if isinstance(table, Latency):
            table.check(self.model, length=self.length)
            return table
        # A file that is not there yet is where a table that has to be measured is kept.
        if table is not None and (self.cost != "latency" or Path(table).is_file()):
            return Latency.read(table, self.model, length=self.length)
        if self.cost != "latency":
            return None
        say("timing layers of many sizes on this machine")
        measured = Latency.measure(self.model, length=self.length)
        if table is not None:
            say(f"times are kept in {measured.write(table)}")
        return measured

    def _steps(self) -> dict[str, int] | None:
        """What sizes shall be multiples of."""
        if self.rounding == "auto" or (self.rounding is None and self.cost == "latency"):
            if self.latency is None:
                raise PlanError(
                    expected="a latency table, for rounding='auto'",
                    found="none",
                    fix="pass cost='latency' or table=…, or a number, such as 8",
                )
            steps = {axis: self.latency.step(axis) for axis in ROUNDED}
        elif self.rounding is None:
            return None
        else:
            steps = dict.fromkeys(ROUNDED, int(self.rounding))
        # A dimension inside a head is there once a head: 32 heads of 8 are as wide as 8 of 32.
        first = self.form.layers[0]
        largest = {"key": first.key, "value": first.value}
        return {axis: min(step, largest.get(axis, step)) for axis, step in steps.items()}


def classification_task(model: PreTrainedModel) -> Task | None:
    """The task of a classifier; None for models of other heads."""
    return task_of(model.config) if type(model).__name__.endswith("ForSequenceClassification") else None
