"""The work of `attar.compress`: measure the teacher, search, train the winner, export it, measure what is shipped."""

import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from transformers import PreTrainedModel

from attar.anatomy.resolve import resolve
from attar.compression.budget import CEILINGS, SAID, Budget, budget_of, seconds_of
from attar.compression.candidate import Architecture, Candidate, teacher_architecture
from attar.compression.candidate_costs import CandidateCosts
from attar.compression.data import BATCH, SHORT, Texts
from attar.compression.export_costs import ExportCosts
from attar.compression.last_training import LastTraining
from attar.compression.learning import EPOCHS, FINE, Learning
from attar.compression.live_table import live_table
from attar.compression.outcome import Finalist, Outcome, in_precision
from attar.compression.pruned import STEPS, PrunedForms
from attar.compression.reading import read_for
from attar.compression.search import FACTOR, Clock, Search, Tried, announce, distance
from attar.compression.shipping import Shipped, clock_of, ship, tokenizer_bytes, trimmed
from attar.compression.space import Space
from attar.data.batches import positions
from attar.data.columns import Columns
from attar.errors import ExportError, ModelError, RecipeError
from attar.model.checkpoint import digest, load, save
from attar.model.onnx import require
from attar.options.base import Options
from attar.progress import picture, say
from attar.pruning.vocabulary import config_ids, restrict, trim
from attar.report.report import Report, Role
from attar.storage.locking import locked
from attar.storage.writing import check_free, make_directory, new_directory, write_atomic
from attar.training import resuming
from attar.training.loop import Precision

# Parts of the time: for the search; for learning what may be pruned.
SEARCHING, SCORING = 0.25, 0.05
# The first rung takes about this part of the search.
FIRST_RUNG = 1 / 16
RUNGS = 3
# Parts of the time: after which no other finalist is exported; that exporting one may take; that labels may be tried.
BEFORE_FINAL, EXPORTING, UNDISTILLED = 0.6, 0.03, 0.08
# With a floor, the winner gets this part of the time; a smaller neighbour, or a larger one where it missed, the rest.
FIRST_ATTEMPT = 0.55
# Seconds of a search without training, finalists that are exported before one is trained, and what int8 may cost.
UNTRAINED, FINALISTS, DROP = 20.0, 3, 0.01
# Candidates that are tried without training in any case: a student, two kinds of pruning, dropped layers.
LEAST = 4
# Calls of each model that the report times, and seconds of its intervals and drawings.
CALLS, DRAWING = 100, 4.0
# Budgets beside the one that was given, of which the report says what they would buy and cost.
NEIGHBOURS = (1.2, 0.8)
# Part of the time that is left which one of them may take.
BESIDE = 0.05


def compress(
    model: str | Path | PreTrainedModel,
    *,
    out: str | Path,
    texts: Any,
    data: Any,
    dev: Any,
    test: Any,
    columns: Columns | None,
    tokenizer: Any,
    options: Options,
    precision: Precision,
    overwrite: bool,
    blind: bool = False,
) -> Report:
    """Find the best model that fits a budget; see `attar.compress`.

    Args:
        blind: search at random, which the search is held against.
    """
    o = options
    limits = {name: getattr(o, name) for name in (*CEILINGS, "keep")}
    budget, seconds = budget_of(o.to, **limits), seconds_of(o.time)
    require("onnx", "onnxscript", "onnxruntime")
    check_free(out, overwrite=overwrite)
    clock = Clock(seconds)
    loaded = load(model, tokenizer=tokenizer)
    given = {"data": data, "texts": texts, "dev": dev, "test": test, "columns": columns}
    read = read_for(loaded, o, **given)
    with _work(out, o.work) as place:
        home = place / read.key[:16]
        home.mkdir(parents=True, exist_ok=True)
        clock.resume(home / f"seconds-{digest(budget.given, seconds)[:8]}")
        report = Compression(read, home, o, budget, clock, precision, blind).run(
            Path(out), overwrite=overwrite
        )
        clock.stop()
        return report


@contextmanager
def _work(out: str | Path, work: str | Path | None) -> Iterator[Path]:
    if work is None:
        with resuming.work_directory(out) as place:
            yield place
    else:
        with locked(work):
            make_directory(Path(work))
            yield Path(work)


@dataclass
class Compression:
    """One teacher, one budget.

    Attributes:
        texts: the tables, as the teacher reads them.
        place: keeps what was tried.
        options: of `attar.compress`.
        budget: as it was given; what is measured is held against it by `over`.
        clock: the time.
    """

    texts: Texts
    place: Path
    options: Options
    budget: Budget
    clock: Clock
    precision: Precision
    blind: bool = False

    def __post_init__(self) -> None:
        self.bound = resolve(self.texts.loaded.model)
        lengths = self.texts.lengths()
        asked = self.options.length
        wanted = int(np.quantile(lengths, 0.95)) if asked == "auto" else int(asked)
        self.length = min(wanted, positions(self.texts.loaded.model))
        self.call = {"length": self.length, "batch": self.options.batch, "threads": self.options.threads}
        self.training = self.clock.given > 0
        # What predicted costs are held against; multiples of what the teacher takes are numbers once it is measured.
        self.limits = self.budget
        self.exporting = 0.0

    def run(self, out: Path, *, overwrite: bool) -> Report:
        """Everything, from the teacher to the report."""
        self.texts.check_teacher()
        self._say_if_few()
        teacher = self.teacher_exports()
        learning, space = self.prepared(teacher)
        search = self.search(learning, space)
        if not self.training:  # few are measured in the end, and are worth more text
            learning = learning.on_more_text(self.place / "fine", FINE)
        finalist = self.verified(learning, space, search)
        neighbours = self.neighbours(learning, space, finalist.tried) if self.training else []
        final = self.final(learning, space, finalist)
        outcome = Outcome(
            self.limits,
            self.texts.kept,
            self.texts.main,
            teacher,
            tuple(search.tried.values()),
            finalist.tried,
            final,
            neighbours,
            self.baselines(learning, search, final),
        )
        return self.written(out, learning, outcome, overwrite=overwrite)

    def teacher_exports(self) -> dict[str, Shipped]:
        """The teacher as it is, in each precision: what all is held against."""
        found = {"fp32": self.teacher_in("fp32")}
        self.teacher_export = found["fp32"].directory
        found |= {name: self.teacher_in(name) for name in self.options.formats if name != "fp32"}
        self.teacher_parameters = found["fp32"].costs["parameters"]
        self.teacher_latency = sum(made.costs["latency"] for made in found.values()) / 1e3
        return found

    def teacher_in(self, precision: Literal["fp32", "int8"]) -> Shipped:
        """The teacher's export in a precision."""
        candidate = Candidate(teacher_architecture(self.bound), "all", precision)
        return self.shipped(self.texts.loaded.model, candidate)

    @property
    def ending(self) -> float:
        """Seconds that the end takes: an export, and all models on the test table; from what both took before."""
        # The teacher reads the test table, in int8 in about half the time; what is small reads it in no time.
        models = 1.2 + (0.5 * (len(self.options.formats) - 1) if self.clock.given > SHORT else 0.0)
        reading = models * len(self.texts.tables.test) / self.rate
        return self.exporting + DRAWING + reading + CALLS * self.teacher_latency

    def prepared(self, exports: Mapping[str, Shipped]) -> tuple[Learning, Space]:
        """What candidates learn from, and which there are."""
        o, texts = self.options, self.texts
        teacher = exports["fp32"]
        self.limits = self.budget.against(teacher.costs)
        rate = self.rate = texts.rate()
        affordable = int(texts.teaching * self.clock.given * rate) if self.training else 0
        table = texts.table(self.place, affordable) if self.training else texts.tables.train
        # A step backward takes about two forward.
        alphas = 3 * STEPS * BATCH / rate
        pruned = PrunedForms(
            texts,
            self.place / "scores",
            learned=self.training and alphas < SCORING * self.clock.given,
            precision=self.precision,
            seed=o.seed,
        )
        learning = Learning(texts, table, self.place, pruned, precision=self.precision, seed=o.seed)
        sizes, files = {}, {}
        for name in ("all", "used"):
            kept = self.tokens(name)
            if kept is None:
                continue
            sizes[name] = len(kept)
            with tempfile.TemporaryDirectory() as directory:
                files[name] = tokenizer_bytes(self.tokenizer(name), Path(directory))
        wanted = {"auto": ("all", "used"), "all": ("all",), "used": ("used",)}[o.vocabulary]
        free = None
        if self.budget.keep is not None:
            free = next((name for name in ("latency", "size") if getattr(self.limits, name) is None), None)
        costs = CandidateCosts(
            learning,
            ExportCosts(learning, self.place.parent / "call-times.json", **self.call),
            exact={*self.limits.limited, free or ""},
            vocabularies=sizes,
            tokenizer_bytes=files,
        )
        for name, made in exports.items():
            form = costs.form(Candidate(teacher_architecture(self.bound)))
            costs.latency.learn(form, name, teacher.costs["latency"] / made.costs["speedup"] / 1e3)
        axes = pruned.axes() if "prune" in o.ways else ()
        ways = tuple(way for way in o.ways if way != "prune" or axes)
        space = Space(
            self.bound,
            costs,
            self.limits,
            ways,
            axes,
            [name for name in wanted if name in sizes],
            o.formats,
            free,
            costs.measure,
        )
        self._check(space, teacher)
        return learning, space

    def _check(self, space: Space, teacher: Shipped) -> None:
        """Refuse a budget that nothing can meet, or that needs nothing."""
        smallest = space.smallest()
        space.measure(smallest)
        if over := space.broken(space.costs(smallest)):
            costs = space.costs(smallest)
            said = ", ".join(f"{SAID[name](float(f'{costs[name]:.3g}'))}" for name in over)
            raise RecipeError(
                expected=f"a budget that some model can meet: at least {said} ({smallest})",
                found=str(self.budget),
                fix="raise that limit",
            )
        if space.free is None and not space.broken(teacher.costs):
            said = ", ".join(SAID[name](float(f"{teacher.costs[name]:.3g}")) for name in self.limits.limited)
            raise RecipeError(
                expected=f"a budget below what the model costs as it is: {said}",
                found=str(self.budget),
                fix="there is nothing to do; attar export writes it in fp32 and int8, or give a smaller budget",
            )

    def _say_if_few(self) -> None:
        """Say how many test texts the floor asks for, where there are fewer."""
        keep, rows = self.budget.keep, len(self.texts.tables.test)
        if keep is not None and keep < 1 and self.texts.task is not None:
            needed = math.ceil(
                1.96**2 * keep / (1 - keep)
            )  # the 95% interval of a part reaches down to 2 keep - 1
            if rows < needed:
                say(
                    f"{rows} test texts are few to tell whether {keep:.1%} is kept: about {needed:,} would do"
                )

    def tokens(self, name: str) -> tuple[int, ...] | None:
        """The token numbers of a vocabulary; None where the tokenizer or the family cannot be trimmed."""
        if name == "all":
            return tuple(range(self.bound.shape.vocab))
        file = self.place / "vocabulary.json"
        if not file.is_file():
            try:
                kept: list[int] | None = list(trim(self.texts.loaded.tokenizer, self.texts.words()).kept)
                config_ids(self.texts.loaded.model.config, kept or [])
            except ModelError as error:
                say(f"the vocabulary stays whole: expected {error.expected}, found {error.found}")
                kept = None
            write_atomic(file, json.dumps(kept))
        found = json.loads(file.read_text())
        return None if found is None else tuple(found)

    def tokenizer(self, name: str) -> Any:
        """The tokenizer of a vocabulary."""
        kept = self.tokens(name)
        whole = self.texts.loaded.tokenizer
        return whole if name == "all" or kept is None else restrict(whole, kept)

    def search(self, learning: Learning, space: Space) -> Search:
        """Try candidates for a part of the time."""
        seconds = SEARCHING * self.clock.left if self.training else UNTRAINED
        rungs = [0]
        if self.training:
            first = next(
                found
                for params in space.defaults()
                if (found := space.suggest(optuna.trial.FixedTrial(params))) is not None
            )
            pace = learning.pace(first.architecture)
            steps = 2 ** max(3, round(math.log2(max(1.0, FIRST_RUNG * seconds / pace))))
            rungs += [steps * FACTOR**n for n in range(RUNGS - 1)]
            announce(rungs, seconds, pace)
        search = Search(
            space,
            learning,
            self.place / "studies",
            figure=self.texts.kept,
            rungs=rungs,
            floor=self.budget.keep,
            seed=self.options.seed,
            blind=self.blind,
        )
        with picture(live_table(search.tried, rungs, self.clock)):
            search.run(self.clock, self.clock.used + seconds, 1 if self.training else LEAST)
        if not search.finalists(1):
            raise RecipeError(
                expected=f"a candidate among {', '.join(space.ways)} that fits {self.budget}",
                found="none",
                fix="allow other ways (ways, --ways), or raise the budget",
            )
        return search

    def shipped(self, model: PreTrainedModel, candidate: Candidate, steps: int = 0) -> Shipped:
        """A candidate's export in the work directory, measured; made once."""
        name = f"{candidate.architecture.key}-{candidate.vocabulary}-{candidate.precision}-{steps}"
        whole = candidate.architecture == teacher_architecture(self.bound)
        if not self.training and not whole:
            name += "-fine"
        began = time.monotonic()
        small, tokenizer = trimmed(
            model, self.texts.loaded.tokenizer, self.tokens(candidate.vocabulary) or ()
        )
        asked = (small, tokenizer, candidate)
        options: dict[str, Any] = {**self.call, "memory_too": self.budget.memory is not None}
        options["max_drop"] = 1.0 if whole else DROP  # the teacher's is what a user has without a search
        options["teacher"] = None if whole and candidate.precision == "fp32" else self.teacher_export
        made = ship(*asked, self.place / "exports" / name, self.texts, **options)
        if candidate.precision == "int8" and not whole:
            try:
                static = ship(
                    *asked, self.place / "exports" / f"{name}-static", self.texts, **options, static=True
                )
                made = min(made, static, key=self.rank)
            except ExportError as error:
                say(f"int8 with fixed scales: expected {error.expected}, found {error.found}")
        seconds = time.monotonic() - began
        if self.exporting == 0 or seconds > 0.2 * self.exporting:  # else it was read from disk
            self.exporting = seconds
        return made

    def verified(self, learning: Learning, space: Space, search: Search) -> Finalist:
        """The best finalist whose export, as it is now, is within the limits: speed does not depend on weights."""
        found: list[Finalist] = []
        for one in search.finalists(FINALISTS):
            late = self.training and (
                self.clock.used > BEFORE_FINAL * self.clock.given
                or self.exporting > EXPORTING * self.clock.given
            )
            done = not self.training and any(not self.over(made.shipped.costs) for made in found)
            if found and (late or done):
                break
            found.append(self.exported(learning, one))
            worst = max(self.over(found[-1].shipped.costs).values(), default=1.0)
            if worst > 1 and (less := space.scaled(one.candidate, 0.98 / worst)) is not None:
                trained = learning.trained(less.architecture, one.steps)
                kept = self.texts.kept(trained.metrics)
                smaller = Tried(less, dict(space.costs(less)), [distance(trained.metrics)], one.steps, kept)
                search.tried[-len(found)] = smaller
                found.append(self.exported(learning, smaller))
        fitting = [made for made in found if not self.over(made.shipped.costs)]
        if fitting and space.free is not None:
            return fitting[0]
        return min(found, key=lambda made: self.rank(made.shipped))

    def over(self, costs: Mapping[str, float]) -> dict[str, float]:
        """The limits that an export is over, with the factor by which.

        A multiple of the teacher's speed is held against that of both timed in turns: the machine may have been faster
        or slower when the teacher alone was timed.

        Args:
            costs: measured, with `speedup`.
        """
        whole = {"parameters": self.teacher_parameters, "latency": costs["latency"] * costs["speedup"]}
        return self.budget.against(whole).broken(costs)

    def rank(self, made: Shipped) -> tuple[float, float]:
        """The least is the best export: what is over the budget counts first, then the distance from the teacher."""
        return max([1.0, *self.over(made.costs).values()]), distance(made.metrics)

    def exported(self, learning: Learning, one: Tried) -> Finalist:
        """A candidate as it is now, exported and measured."""
        model = learning.at(one.candidate.architecture, one.steps)
        made = Finalist(one, self.shipped(model, one.candidate, one.steps))
        over = self.over(made.shipped.costs)
        said = (
            ", ".join(f"{name} {ratio - 1:.1%} over" for name, ratio in over.items()) or "within the limits"
        )
        say(f"{one.candidate}, exported: {said}; keeps {self.texts.kept(made.shipped.metrics):.1%} on dev")
        return made

    def neighbours(self, learning: Learning, space: Space, chosen: Tried) -> list[Tried]:
        """What a fifth more cost would buy, and a fifth less would lose, on the rung that the winner was chosen on."""
        found = []
        for scale in NEIGHBOURS:
            candidate = space.scaled(chosen.candidate, scale)
            if candidate is None or candidate == chosen.candidate:
                continue
            # As its pace is not known before it is built, which takes about as long as it then learns.
            seconds = 2 * learning.pace(chosen.candidate.architecture) * chosen.steps
            if seconds > BESIDE * (self.clock.left - self.ending):
                continue
            trained = learning.trained(candidate.architecture, chosen.steps)
            costs = dict(space.costs(candidate))
            kept = self.texts.kept(trained.metrics)
            found.append(
                Tried(
                    candidate,
                    costs,
                    [distance(trained.metrics)],
                    chosen.steps,
                    kept,
                    f"{scale:g} x the budget",
                )
            )
        return found

    def final(self, learning: Learning, space: Space, finalist: Finalist) -> Finalist:
        """The winner trained to the end; with a floor, a neighbour too, larger where the winner missed the floor."""
        if not self.training:
            return finalist
        floor = self.budget.keep
        if space.free is None or floor is None:
            return self.finished(learning, finalist, 1.0)
        first = self.finished(learning, finalist, FIRST_ATTEMPT)
        met = self.texts.kept(first.shipped.metrics) >= floor
        other = space.scaled(finalist.tried.candidate, NEIGHBOURS[1] if met else NEIGHBOURS[0])
        if other is None or other == finalist.tried.candidate or self.clock.left < 2 * self.ending:
            return first
        say(f"{finalist.tried.candidate} {'keeps' if met else 'misses'} the floor on dev: {other} is trained")
        trained = learning.trained(other.architecture, finalist.tried.steps)
        one = Tried(other, dict(space.costs(other)), [distance(trained.metrics)], trained.steps)
        one.kept = self.texts.kept(trained.metrics)
        second = self.finished(learning, Finalist(one, finalist.shipped), 1.0)
        if second.shipped is finalist.shipped:  # no time was left
            return first

        def worth(made: Finalist) -> tuple[float, float]:
            kept, costs = self.texts.kept(made.shipped.metrics), made.shipped.costs
            return min(kept, floor), costs["speedup"] if space.free == "latency" else -costs["size"]

        return max(first, second, key=worth)

    def finished(self, learning: Learning, finalist: Finalist, part: float) -> Finalist:
        """A finalist trained for a part of the time that is left, and exported."""
        one = finalist.tried
        architecture = one.candidate.architecture
        end = self.ending + self._undistilled_seconds(learning, architecture)
        until = self.clock.given - end - (1 - part) * (self.clock.left - end)

        def left() -> float:
            self.clock.keep()
            return until - self.clock.used

        say(f"training {one.candidate} for {left():.0f} seconds; {end:.0f} are kept for the end")
        name = digest(self.clock.given, self.budget.given)[:8]
        trained = LastTraining(learning, architecture, one.steps, left, self.rate, name).run(
            lambda found: self.texts.kept(found.metrics)
        )
        if trained.steps == one.steps:
            return finalist
        done = replace(one, steps=trained.steps, kept=self.texts.kept(trained.metrics))
        return Finalist(done, self.shipped(trained.model, one.candidate, trained.steps))

    def _undistilled_seconds(self, learning: Learning, architecture: Architecture) -> float:
        """What the baseline on labels takes; 0 where there are none, or it takes too much of the time."""
        labelled = self.texts.tables.labelled
        if labelled is None or not self.training:
            return 0.0
        seconds = EPOCHS * len(labelled) / BATCH * learning.pace(architecture)
        return seconds if seconds < UNDISTILLED * self.clock.given else 0.0

    def baselines(self, learning: Learning, search: Search, final: Finalist) -> dict[str, Shipped]:
        """Plainer ways to the budget: dropped layers as far as the search took them, and the same student on labels."""
        chosen, found = final.tried.candidate, {}
        drops = [
            one for one in search.tried.values() if one.candidate.architecture.way == "drop" and one.rungs
        ]
        if (
            self.training and drops and chosen.architecture.way != "drop"
        ):  # else the search measured all that it is
            best = max(drops, key=lambda one: one.kept)
            model = learning.at(best.candidate.architecture, best.steps)
            found[str(best.candidate)] = self.shipped(model, best.candidate, best.steps)
        if self._undistilled_seconds(learning, chosen.architecture):
            assert self.texts.tables.labelled is not None
            steps = EPOCHS * len(self.texts.tables.labelled) // BATCH
            model = learning.undistilled(chosen.architecture, steps)
            found["the same, not distilled"] = self.shipped(model, chosen, -steps)
        return found

    def written(self, out: Path, learning: Learning, outcome: Outcome, *, overwrite: bool) -> Report:
        """Measure on the test table, and write the model, its export and the report."""
        final = outcome.final
        candidate = final.tried.candidate
        model = learning.at(candidate.architecture, final.tried.steps)
        kept = self.tokens(candidate.vocabulary) or ()
        small, tokenizer = trimmed(model, self.texts.loaded.tokenizer, kept)
        shipped = {"teacher": outcome.teacher["fp32"], out.name: final.shipped}
        if self.clock.given > SHORT:  # else its figures on the dev table are all there is time for
            shipped |= {in_precision(name): made for name, made in outcome.teacher.items() if name != "fp32"}
        shipped |= outcome.baselines
        roles: list[Role] = ["teacher", "student", *["baseline"] * (len(shipped) - 2)]  # type: ignore[list-item]
        places = (made.directory for made in shipped.values())
        report = self.texts.report(
            dict(zip(shipped, zip(roles, places, strict=True), strict=True)),
            title=f"{Path(self.texts.loaded.name).name} compressed to {self.budget}",
            latency_batch=self.options.batch,
            latency_length=self.length,
            threads=self.options.threads,
            clock=clock_of(self.options.threads),
        )
        outcome = outcome.timed_in_turns(self.budget, dict(zip(shipped, report.rows, strict=True)))
        final = outcome.final
        over = self.over(final.shipped.costs)
        settings = {
            **report.settings,
            "budget": outcome.budget.given,
            "candidate": candidate.settings,
            "measured": dict(final.shipped.costs),
            "fits": not over and not outcome.short(report),
            "seconds": self.clock.used,
        }
        report = replace(
            report,
            notes=(*report.notes, *outcome.notes(over, report)),
            settings=settings,
            frontier=outcome.frontier(),
        )
        lineage = {
            "stage": "compress",
            "parent": self.texts.loaded.name,
            "options": self.options.settings(),
            "metrics": dict(final.shipped.metrics),
        }
        model_place = self.place / "final"
        shutil.rmtree(model_place, ignore_errors=True)
        save(small, tokenizer, model_place, lineage=lineage)
        with new_directory(out, overwrite=overwrite) as temporary:
            shutil.copytree(model_place, temporary, dirs_exist_ok=True)
            shutil.copytree(final.shipped.directory, temporary / "onnx")
            report.write(temporary)
        return report
