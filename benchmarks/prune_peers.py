"""attar's pruning beside TextPruner 1.1.post2 and Torch-Pruning 1.6.1: one fine-tuned model, one budget, one recovery.

MiniLM-L6, fine-tuned on Rotten Tomatoes, loses 30% and 50% of its encoder's parameters. Two kinds of cut: heads and FFN
units (all that TextPruner cuts), and all axes (attar: hidden, heads, key, value, FFN; Torch-Pruning: hidden, heads,
FFN). The budget is the number of all parameters, embeddings included, that TextPruner's sizes leave: 8 heads and 1100
FFN units a layer on average, and 6 and 768. Who cuts hidden units saves in the embeddings too, and may keep more of
the encoder.

Every tool scores on the same 512 training sentences; attar also fits what stays on them, by least squares and without
labels. Of the settings of a tool, the one of the best mean accuracy on
dev sentences before recovery is recovered, by as many steps of cross-entropy on the same training sentences, in the
same loop; attar's also by its own distillation. Predictions on test sentences are only held against their labels when
all is done. Seeds draw the scoring and recovery sentences and the order of batches. Differences are paired by seed and
sentence.

The peers run in an environment of their own, made at `--peers-venv` where it is absent (prune_textpruner.py and
prune_torchpruning.py say what they needed). Their pruned weights are read into attar's model of the same sizes, whose
logits must be theirs on 8 sentences. `--work` keeps what was done: a run that was stopped goes on.
"""

import copy
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from attar import finetune
from attar.anatomy.form import Form, LayerForm, form_of
from attar.data.batches import Batches, encode
from attar.data.tasks import Task
from attar.demo.data import model_directory, reviews
from attar.evaluation.quality import predict
from attar.maths.statistics import Interval, Ratio, bootstrap, seed_interval
from attar.model.checkpoint import load
from attar.model.slim import class_for, config_for
from attar.pruning.alphas import Alphas, alphas_for, betas
from attar.pruning.apply import apply
from attar.pruning.cost import Parameters
from attar.pruning.reconstruction import reconstruct
from attar.pruning.rounds import Loss, Recovery, learner, recover
from attar.pruning.schubert import PROBES, learn_alphas
from attar.pruning.scores import per_cost, taylor
from attar.pruning.selection import Scores, in_order
from attar.pruning.units import Kept, everything
from common import Figure, figure, parser, read, report, trains, workplace

HERE = Path(__file__).parent
# What TextPruner is asked to leave, heads and FFN units a layer on average; the budgets of all.
SIZES = {"70%": (8, 1100), "50%": (6, 768)}
AXES: dict[str, tuple[str, ...]] = {
    "heads+ffn": ("heads", "ffn"),
    "all axes": ("hidden", "heads", "key", "value", "ffn"),
}
PEERS = {
    "TextPruner": ("prune_textpruner.py", "textpruner==1.1.post2"),
    "Torch-Pruning": ("prune_torchpruning.py", "torch-pruning==1.6.1"),
}
NEEDED = (f"torch=={torch.__version__}", "transformers==4.33.3", "numpy<2", "safetensors", "tqdm")
SETTINGS: dict[str, Any] = {
    "scoring_rows": 512,
    "batch": 32,
    "max_length": 64,
    "textpruner_iterations": 4,
    "alphas": {
        "steps": 56,
        "lr": 0.02,
    },  # and PROBES batches for gamma: as many passes as TextPruner's 4 x 16
    "recovery": {"steps": 60, "lr": 5e-5},
    "dev_rows": 400,
    "test_rows": 1000,
    "sizes": list(SIZES),
    "ways": ["schubert distill", "taylor"],
}
QUICK: dict[str, Any] = SETTINGS | {
    "scoring_rows": 64,
    "batch": 8,
    "max_length": 24,
    "textpruner_iterations": 1,
    "alphas": {"steps": 2, "lr": 0.02},
    "recovery": {"steps": 2, "lr": 5e-5},
    "dev_rows": 16,
    "test_rows": 32,
    "sizes": ["50%"],
    "ways": ["schubert distill", "taylor"],
}


@dataclass(frozen=True)
class Setting:
    """One way of one tool to cut."""

    tool: str
    axes: str
    way: str

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.tool}-{self.axes}-{self.way}".replace(" ", "-").replace("+", "-")


THEIRS = (
    Setting("TextPruner", "heads+ffn", "uneven"),
    *(Setting("Torch-Pruning", axes, way) for axes in AXES for way in ("uniform", "isomorphic")),
)


def environment(place: Path | None) -> tuple[str | None, str]:
    """The Python of the peers, made where it is absent; or why there is none."""
    if place is None:
        return None, "no --peers-venv: TextPruner and Torch-Pruning are missing"
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *NEEDED], check=True)
        subprocess.run([*pip, "--no-deps", *(package for _, package in PEERS.values())], check=True)
    return str(python.absolute()), ""


class Study:
    """The fine-tuned model, the sentences of each seed, and what was cut from it."""

    def __init__(self, work: Path, settings: Mapping[str, Any], python: str | None, *, quick: bool) -> None:
        self.work, self.settings, self.python = work, settings, python
        self.tables = reviews()
        self.whole = load(self._teacher(quick))
        self.model = self.whole.model
        self.task = Task.of(self.model.config)
        self.form, self.cost = form_of(self.model.config), Parameters(self.model)
        self.dev = self._rows(self.tables["dev"].select(range(settings["dev_rows"])))
        self.test = self._rows(self.tables["test"].select(range(settings["test_rows"])))
        self.budgets = {
            size: self.cost(self._layers(LayerForm(heads, 32, 32, ffn)))
            for size, (heads, ffn) in SIZES.items()
            if size in settings["sizes"]
        }
        ours = [Setting("attar", axes, way) for axes in AXES for way in settings["ways"]]
        self.tried = [*(THEIRS if python is not None else ()), *ours]
        self.failed: dict[str, str] = {}
        self._drawn: dict[int, Dataset] = {}

    def _teacher(self, quick: bool) -> Path:
        """`work/teacher`, fine-tuned here where it is absent."""
        place = self.work / "teacher"
        if not place.exists():
            few = {name: table.select(range(64)) for name, table in self.tables.items()}
            data = few if quick else self.tables
            options: dict[str, Any] = {"epochs": 1, "max_length": 24} if quick else {"max_length": 64}
            finetune(model_directory(), data["train"], dev=data["dev"], out=place, **options)
        return place

    def _rows(self, table: Dataset, **options: Any) -> Batches:
        encoded = encode(table, self.whole.tokenizer, max_length=self.settings["max_length"])
        size = self.settings["batch"]
        return Batches(encoded, self.whole.tokenizer, **{"batch_size": size, **options})

    def _layers(self, layer: LayerForm) -> Form:
        return replace(self.form, layers=(layer,) * len(self.form.layers))

    def rows(self, seed: int, *, scoring: bool) -> Batches:
        """The scoring sentences of a seed, or those of its recovery, of which they are the first."""
        if seed not in self._drawn:
            self._drawn[seed] = self.tables["train"].shuffle(seed=seed)
        recovery = self.settings["recovery"]["steps"] * self.settings["batch"]
        count = self.settings["scoring_rows"] if scoring else recovery
        table = self._drawn[seed].select(range(min(count, len(self._drawn[seed]))))
        return self._rows(table, shuffle=True, seed=seed)

    def encoder(self, form: Form) -> float:
        """Parameters outside the embeddings, as a part of the whole model's."""
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings", "embeddings.LayerNorm")
        weights = self.model.named_parameters()
        outside = sum(p.numel() for name, p in weights if any(part in name for part in names))
        each = outside / self.form.hidden
        return float((self.cost(form) - each * form.hidden) / (self.cost(self.form) - outside))

    # -- attar ---------------------------------------------------------------------------------------------------------

    def alphas(self, axes: str, loss: str, seed: int) -> Alphas:
        """Learned once for both budgets."""
        path = self.work / f"alphas-{axes}-{loss}-{seed}.pt".replace(" ", "-").replace("+", "-")
        if path.exists():
            found = alphas_for(self.model, AXES[axes])
            found.load_state_dict(torch.load(path, weights_only=True))
            return found
        kind: Loss = "task" if loss == "task" else "distill"
        model = copy.deepcopy(self.model)
        pulled = learner(kind, model, teacher=self.model, hidden=None, task=self.task).eval()
        rows = self.rows(seed, scoring=True)
        options = self.settings["alphas"]
        found = learn_alphas(
            model, AXES[axes], pulled, rows, self.cost, seed=seed, precision="fp32", **options
        )
        torch.save(found.state_dict(), path)
        return found

    @cache  # noqa: B019  # one study a process
    def taylor(self, seed: int) -> Scores:
        """Of all axes at once: a unit's score does not depend on which others may be cut."""
        pulled = learner("task", self.model, teacher=self.model, hidden=None, task=self.task).eval()
        epoch = self.rows(seed, scoring=True).epoch()
        return taylor(
            self.model, AXES["all axes"], epoch, lambda b: torch.stack(list(pulled(b).values())).sum()
        )

    def ours(self, setting: Setting, size: str, seed: int) -> tuple[PreTrainedModel, Kept]:
        """What attar cuts."""
        axes, budget = AXES[setting.axes], self.budgets[size]
        if setting.way == "taylor":
            found = self.taylor(seed)
            shared = {axis: s for axis, s in found.shared.items() if axis in axes}
            layers = tuple({axis: s for axis, s in x.items() if axis in axes} for x in found.layers)
            scores = per_cost(Scores(shared, layers), betas(alphas_for(self.model, axes), self.cost))
        else:
            scores = self.alphas(setting.axes, setting.way.split()[1], seed).scores()
        kept = in_order(self.form, scores, self.cost, budget)
        made = apply(self.model, kept)
        reconstruct(made, self.model, kept, self.rows(seed, scoring=True).epoch())
        return made, kept

    # -- peers ---------------------------------------------------------------------------------------------------------

    def theirs(self, setting: Setting, size: str, seed: int) -> PreTrainedModel:
        """A peer's cut, as attar's model of the same sizes; its logits on 8 sentences are the peer's."""
        place = self.work / f"{setting.tool}-{setting.axes}-{seed}".replace(" ", "-").replace("+", "-")
        name = f"{setting.way}-{size}"
        if not (place / f"{name}.json").exists():
            self._run(setting, seed, place)
        state, said = (
            load_file(place / f"{name}.safetensors"),
            json.loads((place / f"{name}.json").read_text()),
        )
        made = self._rebuilt(state)
        with torch.no_grad():
            logits = made(**_inputs(self._check(), labels=False)).logits
        torch.testing.assert_close(logits, torch.tensor(said["check"]), atol=1e-4, rtol=1e-4)
        return made

    def passes(self, setting: Setting, size: str, seed: int) -> tuple[int, str]:
        """Forward and backward passes of a batch that the choice took, and what else."""
        batches = -(-self.settings["scoring_rows"] // self.settings["batch"])
        if setting.tool == "attar":
            learned = self.settings["alphas"]["steps"] + PROBES
            count = batches if setting.way == "taylor" else learned
            return count, " + teacher's forward" if "distill" in setting.way else ""
        place = self.work / f"{setting.tool}-{setting.axes}-{seed}".replace(" ", "-").replace("+", "-")
        return int(json.loads((place / f"{setting.way}-{size}.json").read_text())["passes"]), ""

    def _check(self) -> Batches:
        return self._rows(self.tables["train"].select(range(8)), batch_size=8)

    def _run(self, setting: Setting, seed: int, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        cuts_hidden = setting.axes == "all axes"
        job = {
            "model": str((self.work / "teacher").absolute()),
            "threads": torch.get_num_threads(),
            "iterations": self.settings["textpruner_iterations"],
            "sizes": {size: self._alike(size) if cuts_hidden else _asked(size) for size in self.budgets},
        }
        (place / "job.json").write_text(json.dumps(job))
        rows = self.rows(seed, scoring=True)
        for name, source in (("batches", rows), ("check", self._check())):
            tensors = {
                f"{n}.{key}": tensor.contiguous()
                for n, batch in enumerate(source.epoch())
                for key, tensor in _inputs_of(batch, labels=name == "batches").items()
            }
            save_file(tensors, place / f"{name}.safetensors")
        assert self.python is not None
        command = [self.python, str(HERE / PEERS[setting.tool][0]), str(place.absolute())]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | QUIET)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])

    def _alike(self, size: str) -> dict[str, float]:
        """What one ratio for hidden, heads and FFN leaves within the budget."""
        layer, whole = self.form.layers[0], self.form.hidden
        for thousandth in range(1, 1000):
            ratio = thousandth / 1000
            hidden, ffn = (int(n * (1 - ratio)) for n in (whole, layer.ffn))
            heads = max(1, round(layer.heads * (1 - ratio)))
            form = replace(
                self._layers(LayerForm(heads, layer.key, layer.value, ffn)), hidden=hidden, embedding=hidden
            )
            if self.cost(form) <= self.budgets[size]:
                return {"hidden": hidden, "ffn": ffn, "heads": heads, "ratio": ratio}
        raise AssertionError("a budget below one unit of everything")

    def _rebuilt(self, state: dict[str, Tensor]) -> PreTrainedModel:
        whole = self.model.state_dict()
        state = {name: state.get(name, tensor) for name, tensor in whole.items()}
        embedding = state["bert.embeddings.word_embeddings.weight"]
        layers = []
        for n, layer in enumerate(self.form.layers):
            name = f"bert.encoder.layer.{n}."
            heads = len(state[name + "attention.self.query.weight"]) // layer.key
            layers.append(
                LayerForm(heads, layer.key, layer.value, len(state[name + "intermediate.dense.weight"]))
            )
        hidden = embedding.shape[1]
        form = replace(self.form, hidden=hidden, embedding=hidden, layers=tuple(layers))
        config = config_for(self.model.config, form)
        made = class_for(self.model, config)(config)
        made.load_state_dict(state)
        return made.eval()

    # -- for all -------------------------------------------------------------------------------------------------------

    def cut(self, setting: Setting, size: str, seed: int) -> tuple[PreTrainedModel, Kept]:
        """The model of a setting, without recovery; of a peer's, what stays is told for itself."""
        if setting.tool == "attar":
            return self.ours(setting, size, seed)
        made = self.theirs(setting, size, seed)
        return made, everything(form_of(made.config))

    def said(self, setting: Setting, size: str, seed: int, recovery: str) -> dict[str, Any]:
        """Class numbers that the model of a setting says on dev and test sentences, and its sizes."""
        name = f"{setting.name}-{size}-{recovery}-{seed}"
        path = self.work / "said" / f"{name}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            model, kept = self.cut(setting, size, seed)
            if recovery != "none":
                with tempfile.TemporaryDirectory(dir=self.work) as scratch:
                    recover(
                        model,
                        Recovery(recovery, precision="fp32", seed=seed, **self.settings["recovery"]),  # type: ignore[arg-type]
                        self.rows(seed, scoring=False),
                        teacher=self.model,
                        kept=kept,
                        task=self.task,
                        place=Path(scratch),
                    )
            form = form_of(model.config)
            np.savez(
                path,
                dev=predict(model, self.dev).argmax(1),
                test=predict(model, self.test).argmax(1),
                total=self.cost(form),
                encoder=self.encoder(form),
                hidden=form.hidden,
                layers=[[x.heads, x.key, x.value, x.ffn] for x in form.layers],
            )
            print(
                f"seed {seed}, {size}, {setting.tool}, {setting.axes}, {setting.way}, recovery {recovery}: done"
            )
            sys.stdout.flush()
        return dict(np.load(path))

    def points(self, setting: Setting, size: str, seed: int, recovery: str, part: str = "test") -> np.ndarray:
        """(N,) 100 where the model is right, else 0."""
        labels = self.tables[part]["label"][: self.settings[f"{part}_rows"]]
        right: np.ndarray = self.said(setting, size, seed, recovery)[part] == np.array(labels)
        return 100.0 * right


QUIET = {"PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
# The mean over sentences, as a metric of which rows and seeds can be resampled.
MEAN = Ratio(lambda values, _: (values, np.ones(len(values))))


def _asked(size: str) -> dict[str, float]:
    heads, ffn = SIZES[size]
    # A hundredth of a unit over, so that the peer's int() of it is not one less.
    return {"heads": heads, "ffn": ffn, "hidden": 384, "ratio": 1 - (ffn + 0.01) / 1536}


def _inputs_of(batch: Any, *, labels: bool) -> dict[str, Tensor]:
    return {**batch.inputs, **({"labels": batch.labels} if labels else {})}


def _inputs(rows: Batches, *, labels: bool) -> dict[str, Tensor]:
    return _inputs_of(next(rows.epoch()), labels=labels)


def run(study: Study, seeds: list[int]) -> dict[tuple[str, str], Setting]:
    """Cut by every setting, choose one for each tool and kind of cut, recover it; what was chosen."""
    working = []
    for setting in study.tried:
        try:
            for seed in seeds:
                for size in study.budgets:
                    study.said(setting, size, seed, "none")
            working.append(setting)
        except (RuntimeError, AssertionError) as error:
            study.failed[setting.name] = str(error).strip().splitlines()[0]
            print(f"{setting.tool}, {setting.axes}, {setting.way} failed: {study.failed[setting.name]}")
    chosen: dict[tuple[str, str], Setting] = {}
    for setting in working:
        now = chosen.setdefault((setting.tool, setting.axes), setting)
        if _mean(study, setting, seeds, "dev") > _mean(study, now, seeds, "dev"):
            chosen[setting.tool, setting.axes] = setting
    for seed in seeds:
        for setting in chosen.values():
            for size in study.budgets:
                study.said(setting, size, seed, "task")
                if setting.tool == "attar":
                    study.said(setting, size, seed, "distill")
    return chosen


def _mean(study: Study, setting: Setting, seeds: list[int], part: str) -> float:
    return float(
        np.mean([study.points(setting, size, s, "none", part) for size in study.budgets for s in seeds])
    )


def difference(
    study: Study, ours: tuple[Setting, str], theirs: tuple[Setting, str], size: str, seeds: list[int]
) -> Interval:
    """Points that ours has more, paired by seed and sentence; the interval is over both."""
    pairs = [
        study.points(ours[0], size, s, ours[1]) - study.points(theirs[0], size, s, theirs[1]) for s in seeds
    ]
    return bootstrap(MEAN, pairs, np.zeros(len(pairs[0])))


def show(study: Study, chosen: Mapping[tuple[str, str], Setting], seeds: list[int]) -> dict[str, Any]:
    """The tables for people; what they hold."""
    found: dict[str, Any] = {}
    picked = set(chosen.values())
    labels = np.array(study.tables["test"]["label"][: study.settings["test_rows"]])
    whole = 100 * float(np.mean(predict(study.model, study.test).argmax(1) == labels))
    found["whole"] = {"accuracy": whole, "total": study.cost(study.form)}
    print(f"\nthe whole model: {whole:.1f} on test, {study.cost(study.form) / 1e6:.2f}M parameters")
    for size, budget in study.budgets.items():
        print(f"\n{size} of the encoder, budget {budget / 1e6:.2f}M parameters")
        print(
            f"{'tool':14}{'axes':11}{'way':18}{'params':>8}{'encoder':>8}{'hidden':>7}{'passes':>7}", end=""
        )
        print(f"{'not recovered':>22}{'by labels':>22}{'by distillation':>22}")
        for setting in study.tried:
            if setting.name in study.failed:
                continue
            runs = [study.said(setting, size, seed, "none") for seed in seeds]
            passes, _ = study.passes(setting, size, seeds[0])
            row: dict[str, Any] = {
                "parameters": [int(r["total"]) for r in runs],
                "encoder": [float(r["encoder"]) for r in runs],
                "hidden": [int(r["hidden"]) for r in runs],
                "layers": [r["layers"].tolist() for r in runs],
                "passes": passes,
                "dev": _mean(study, setting, seeds, "dev"),
            }
            kinds = ["none", *(["task"] if setting in picked else [])]
            kinds += ["distill"] if setting in picked and setting.tool == "attar" else []
            for kind in kinds:
                row[kind] = [float(study.points(setting, size, seed, kind).mean()) for seed in seeds]
            found[f"{size} {setting.name}"] = row
            cells = [_cell(row[kind]) if kind in row else "" for kind in ("none", "task", "distill")]
            total, encoder, hidden = (float(np.mean(row[key])) for key in ("parameters", "encoder", "hidden"))
            sizes = f"{total / 1e6:7.2f}M{encoder:8.0%}{hidden:7.0f}"
            print(f"{setting.tool:14}{setting.axes:11}{setting.way:18}{sizes}{passes:7}", end="")
            print("".join(f"{cell:>22}" for cell in cells))
    return found


def _cell(values: list[float]) -> str:
    around = seed_interval(values)
    return f"{around.value:.1f} ({around.low:.1f} to {around.high:.1f})"


def margins(
    study: Study, chosen: Mapping[tuple[str, str], Setting], seeds: list[int]
) -> tuple[dict[str, Figure], dict[str, list[float]]]:
    """What attar's accuracy is above a peer's, where both cut the same kind of units."""
    figures: dict[str, Figure] = {}
    intervals: dict[str, list[float]] = {}
    print("\npoints that attar has more on test (95% over sentences and seeds)")
    for (tool, axes), theirs in chosen.items():
        if tool == "attar":
            for size in study.budgets:
                for kind in ("none", "task", "distill"):
                    points = [float(study.points(theirs, size, s, kind).mean()) for s in seeds]
                    figures[f"{size}, {axes}, attar, recovery {kind}"] = figure(float(np.mean(points)))
            continue
        ours = chosen["attar", axes]
        for size in study.budgets:
            for name, kinds in {
                "not recovered": ("none", "none"),
                "recovered by labels": ("task", "task"),
                "attar's own recovery": ("distill", "task"),
            }.items():
                around = difference(study, (ours, kinds[0]), (theirs, kinds[1]), size, seeds)
                key = f"{size}, {axes}, over {tool}, {name}"
                print(f"{key:62}{around.value:+6.1f} ({around.low:+.1f} to {around.high:+.1f})")
                figures[key] = figure(around.value, 0.0)
                intervals[key] = [around.low, around.high]
    return figures, intervals


def main() -> None:
    asked = trains(parser(__doc__, "few sentences and steps: under a minute", threads=1))
    asked.add_argument(
        "--peers-venv", type=Path, default=None, help="environment of the peers, made if absent"
    )
    options = read(asked)
    if options.quick:
        options.seeds = [0]
    python, missing = environment(options.peers_venv)
    if missing:
        print(missing)
    with workplace(options) as work:
        study = Study(work, QUICK if options.quick else SETTINGS, python, quick=options.quick)
        chosen = run(study, options.seeds)
        rows = show(study, chosen, options.seeds)
        figures, intervals = margins(study, chosen, options.seeds)
    settings = {
        **study.settings,
        "seeds": options.seeds,
        "threads": options.threads,
        "parameters": "all, embeddings included; encoder: without the four parts of the embeddings",
        "budgets": study.budgets,
        "peers": {tool: package for tool, (_, package) in PEERS.items()} | {"in": NEEDED}
        if python
        else missing,
        "failed": study.failed,
        "chosen_on_dev": {" ".join(key): setting.way for key, setting in chosen.items()},
        "intervals_95": intervals,
        "rows": rows,
    }
    report("prune_peers", figures, settings, keep=not options.quick and python is not None)


if __name__ == "__main__":
    main()
