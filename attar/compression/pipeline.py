"""The work of `attar.compress`: measure the teacher, search, train the winner, export it, measure what is shipped."""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from transformers import PreTrainedModel

from attar.anatomy.resolve import resolve
from attar.compression.budget import Budget, budget_in, seconds_of
from attar.compression.data import SHORT, Texts
from attar.compression.exports import Exports
from attar.compression.finalists import Finalists, searching
from attar.compression.learning import FINE, Learning
from attar.compression.live_table import live_table
from attar.compression.outcome import Outcome
from attar.compression.preparation import prepare
from attar.compression.reading import read_for
from attar.compression.search import FACTOR, Clock, Search, announce
from attar.compression.shipping import clock_of, trimmed
from attar.compression.space import Space
from attar.compression.vocabularies import Vocabularies
from attar.data.batches import positions
from attar.data.columns import Columns
from attar.errors import RecipeError
from attar.model.checkpoint import digest, load, save
from attar.model.onnx import require
from attar.options.base import Options
from attar.progress import picture, say
from attar.report.report import Report
from attar.storage.locking import locked
from attar.storage.writing import check_free, make_directory, new_directory, write_atomic
from attar.training import resuming
from attar.training.loop import Precision

# Seconds of a search without training.
UNTRAINED = 20.0
# The first rung takes about this part of the search.
FIRST_RUNG = 1 / 16
RUNGS = 3
# Candidates that are tried without training in any case: two kinds of pruning, and dropped layers or a student.
LEAST = 3


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
    budget, seconds = budget_in(o), seconds_of(o.time)
    require("onnx", "onnxscript", "onnxruntime")
    check_free(out, overwrite=overwrite)
    clock = Clock(seconds)
    loaded = load(model, tokenizer=tokenizer, pooling=o.pooling)
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
        budget: as it was given; what is measured is held against it by `Exports.over`.
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
        loaded, o = self.texts.loaded, self.options
        bound = resolve(loaded.model)
        wanted = int(np.quantile(self.texts.lengths(), 0.95)) if o.length == "auto" else int(o.length)
        self.length = min(wanted, positions(loaded.model))
        self.training = self.clock.given > 0
        self.exports = Exports(
            self.texts,
            bound,
            self.place,
            self.budget,
            Vocabularies(self.texts, bound, self.place),
            {"length": self.length, "batch": o.batch, "threads": o.threads},
            training=self.training,
        )

    def run(self, out: Path, *, overwrite: bool) -> Report:
        """Everything, from the teacher to the report."""
        self.texts.check_teacher()
        self._say_if_few()
        self.exports.of_teacher(self.options.formats)
        prepared = prepare(self.exports, self.options, self.clock, self.precision)
        learning = prepared.learning
        search = self.search(learning, prepared.space, prepared.rate)
        if not self.training:  # few are measured in the end, and are worth more text
            learning = learning.on_more_text(self.place / "fine", FINE)
        finalists = Finalists(learning, search, self.exports, self.clock, prepared.rate)
        finalist = finalists.verified()
        neighbours = finalists.neighbours(finalist.tried) if self.training else []
        final = finalists.final(finalist)
        left_out = finalists.left_out(finalist.tried, neighbours)
        # In a short run the figures of the others on the dev table are all there is time for.
        precisions = self.clock.given > SHORT
        if not precisions and len(self.exports.teacher) > 1:
            left_out.append("the model in int8 on the test texts")
        outcome = Outcome(
            prepared.space.budget,
            self.texts.kept,
            self.texts.main,
            self.exports.teacher,
            tuple(search.tried.values()),
            finalist.tried,
            final,
            neighbours,
            finalists.baselines(final),
            left_out,
            precisions,
        )
        return self.written(out, learning, outcome, overwrite=overwrite)

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

    def search(self, learning: Learning, space: Space, rate: float) -> Search:
        """Try candidates for a part of the time.

        Args:
            rate: texts a second that the teacher reads.
        """
        seconds, rungs = UNTRAINED, [0]
        if self.training:
            seconds = self._searching(rate)
            first = next(
                found
                for params in space.defaults()
                if (found := space.suggest(optuna.trial.FixedTrial(params))) is not None
            )
            pace = learning.pace(first.architecture)
            steps = self._first_rung(seconds / pace)
            rungs += [steps * FACTOR**n for n in range(RUNGS - 1)]
            announce(rungs, seconds, pace)
        search = Search(
            space,
            learning,
            self.place / "studies" / digest(self.exports.call)[:8],
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

    def _searching(self, rate: float) -> float:
        """Seconds of the search; says so where too few are left for anything else."""
        end, left = self.exports.ending(self.clock.given, rate), self.clock.left
        seconds = searching(left, end)
        if left < 2 * end:
            say(
                f"{self.clock.given:.0f} seconds are few: after {self.clock.used:.0f} for the model itself an export "
                f"and the report take about {end:.0f} each time. What the search finds is not trained further; "
                f"about {self.clock.used + 3 * end:.0f} seconds would do"
            )
        return max(0.0, seconds)

    def _first_rung(self, steps: float) -> int:
        """Steps of the first rung, where so many fit into the search; a run that goes on has those of before."""
        record = self.place / f"rung-{digest(self.budget.given, self.clock.given)[:8]}"
        if record.is_file():
            return int(record.read_text())
        found: int = 2 ** max(3, round(math.log2(max(1.0, FIRST_RUNG * steps))))
        write_atomic(record, str(found))
        return found

    def written(self, out: Path, learning: Learning, outcome: Outcome, *, overwrite: bool) -> Report:
        """Measure on the test table, and write the model, its export and the report."""
        final = outcome.final
        candidate = final.tried.candidate
        model = learning.at(candidate.architecture, final.tried.steps)
        kept = self.exports.vocabularies.tokens(candidate.vocabulary) or ()
        small, tokenizer = trimmed(model, self.texts.loaded.tokenizer, kept)
        shipped = outcome.rows(out.name)
        report = self.texts.report(
            {name: (role, made.directory) for name, (role, made) in shipped.items()},
            title=f"{Path(self.texts.loaded.name).name} compressed to {self.budget}",
            latency_batch=self.options.batch,
            latency_length=self.length,
            threads=self.options.threads,
            clock=clock_of(self.options.threads),
        )
        outcome = outcome.timed_in_turns(self.budget, dict(zip(shipped, report.rows, strict=True)))
        final = outcome.final
        over = self.exports.over(final.shipped.costs)
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
