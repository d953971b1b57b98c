"""The models of `benchmarks/embeddings.py`, each made once, and what is measured of them.

Every model is a directory that sentence-transformers opens, and is measured through that library alone.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from datasets import Dataset
from embeddings_data import labelled, learned, search, similar
from embeddings_peers import BATCH, READ, cut, model2vec_distilled, model2vec_tuned, static_call, trained
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression

from attar import distill, static
from attar.data.batches import Batches, encode
from attar.data.tables import hold_out
from attar.demo.data import model_directory
from attar.distillation.cache import CachedTeacher, Teacher
from attar.distillation.phases import teacher_of
from attar.evaluation.opening import Opened, open_model
from attar.evaluation.prediction import predict
from attar.evaluation.timing import interleaved, median_interval
from attar.exporting import export
from attar.maths.statistics import Interval
from attar.model.checkpoint import digest, load
from attar.model.onnx import OnnxModel
from attar.model.views import Need
from attar.storage.writing import new_file, write_atomic
from attar.training.loop import autocast
from common import once, remembered

# Tokens of a timed call.
LENGTH = 128
# As wide as the teacher, most of it token vectors, which search needs: small enough in int8 alone.
WIDE = {"layers": 2, "hidden": 384, "heads": 12, "ffn": 768, "embedding": 320}
LEARN = {"way": "attar", "lr": 5e-4, "passes": 2}
LAYERS = {"3 layers": (2, 4, 6), "1 layer": (6,)}
TEACHER = "teacher"
# Arm -> how it is made, and with what. Passes over the texts are meant to take no longer than the wide student's, those
# of sentence-transformers by estimate: `--passes` multiplies them, and the table says how long each took.
ARMS: dict[str, dict[str, Any]] = {
    "attar, wide": LEARN | {"student": WIDE | {"init": "project"}},
    "attar, wide, int8": {"way": "int8", "of": "attar, wide"},
    "attar, half": {"way": "attar", "student": {"layers": 3, "init": "layers"}, "lr": 2e-4, "passes": 1},
    "attar, static": {"way": "static", "lr": 1e-2, "dimensions": 216, "passes": 4},
    "teacher, int8": {"way": "int8", "of": TEACHER},
    "wide, random start": LEARN | {"student": WIDE | {"init": "random"}},
    "model2vec": {"way": "model2vec"},
    "model2vec, fine-tuned": {"way": "model2vec tuned", "lr": 1e-2, "passes": 2},
    "sentence-transformers, 3 layers": {"way": "trained", "layers": LAYERS["3 layers"], "lr": 1e-4, "passes": 0.15},
    "sentence-transformers, 1 layer": {"way": "trained", "layers": LAYERS["1 layer"], "lr": 1e-4, "passes": 0.3},
    "3 layers, untrained": {"way": "cut", "layers": LAYERS["3 layers"]},
    "1 layer, untrained": {"way": "cut", "layers": LAYERS["1 layer"]},
}  # fmt: skip
WEIGHTS = ("*.safetensors", "model.onnx*")

Array = NDArray[Any]


class Study:
    """What the study makes, each thing once, in its own place of `work`."""

    def __init__(self, work: Path, *, texts: int, passes: int, quick: bool) -> None:
        self.work, self.read, self.passes, self.quick = work, texts, passes, quick

    @cached_property
    def texts(self) -> list[str]:
        """The texts to learn from."""
        found: list[str] = remembered(self.work / "texts.json", lambda: learned(self.quick))
        return found[: self.read]

    @cached_property
    def split(self) -> tuple[Dataset, Dataset]:
        """What attar learns from, and the few texts that choose an epoch: one split, so one pass of the teacher."""
        return hold_out(Dataset.from_dict({"text": self.texts}))

    def embeddings(self) -> Array:
        """(N, E), the teacher's of what is learned from: one pass, which all ways share."""
        loaded = load(model_directory())
        encoded = encode(self.split[0], loaded.tokenizer, max_length=READ)
        batches = Batches(encoded, loaded.tokenizer)
        name = digest(*batches.content)

        def run() -> Teacher:
            return teacher_of(
                loaded.model, Need(), batches, cache=self.work / "cache", precision="auto", name=name
            )

        def make(out: Path) -> None:
            with self._timed("pass"):
                run()
            out.mkdir()

        once(self.work / "pass", make)
        return np.asarray(cast(CachedTeacher, run()).logits)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.process_time()
        yield
        write_atomic(self._clock(what), json.dumps(time.process_time() - began))

    def _clock(self, what: str) -> Path:
        file = self.work / "seconds" / f"{what}.json"
        file.parent.mkdir(exist_ok=True)
        return file

    def minutes(self, arm: str) -> tuple[float, float]:
        """Of one core, for the teacher's pass over the texts, and for making the first seed's model."""
        arm = self._source(arm)
        way = "" if arm == TEACHER else ARMS[arm]["way"]
        shares = way in ("attar", "static", "trained", "model2vec tuned")
        whats = ["pass" if shares else "", self._name(arm, 0)]
        files = [self._clock(what) for what in whats if what]
        found = [float(json.loads(f.read_text(encoding="utf-8"))) / 60 if f.exists() else 0.0 for f in files]
        return (found[0], found[1]) if len(found) == 2 else (0.0, found[0])

    def model(self, arm: str, seed: int = 0) -> Path:
        """The directory of an arm's model."""
        if arm == TEACHER:
            return model_directory()
        return once(self.work / self._name(arm, seed), lambda out: self._make(arm, out, seed))

    def learns(self, arm: str) -> bool:
        """Whether an arm's model depends on the seed."""
        return "passes" in ARMS.get(self._source(arm), {})

    def _source(self, arm: str) -> str:
        """The arm whose model is exported, or the arm itself."""
        return arm if arm == TEACHER else str(ARMS[arm].get("of", arm))

    def _name(self, arm: str, seed: int) -> str:
        name = arm.replace(",", "").replace(" ", "-")
        return f"{name}-{seed}" if self.learns(arm) else name

    def _make(self, arm: str, out: Path, seed: int) -> None:
        said = dict(ARMS[arm])
        way = said.pop("way")
        if "passes" in said:
            times = 1 if self.quick else self.passes
            said |= {"epochs": said.pop("passes") * times, "seed": seed}
        if way in ("attar", "static"):
            self.embeddings()
        if way == "int8":
            said = {"source": self.model(said["of"], seed)}
        if way in ("model2vec tuned", "trained"):
            said |= {"texts": self.split[0]["text"][:], "vectors": self.embeddings()}
        ways: dict[str, Callable[..., None]] = {
            "attar": self._attar,
            "int8": self._int8,
            "static": self._static,
            "model2vec": model2vec_distilled,
            "model2vec tuned": model2vec_tuned,
            "trained": trained,
            "cut": cut,
        }
        with self._timed(out.name):
            ways[way](out, **said)

    def _int8(self, out: Path, *, source: Path) -> None:
        """The export of a model in dynamic int8, but for what that hurts too much."""
        export(source, out, precision="int8", data=self.split[1], keep_fp32="auto")

    def _static(self, out: Path, **learn: Any) -> None:
        """A vector for each token, from the teacher's embeddings of the texts."""
        given = {"texts": self.split[0], "data": self.split[1], "max_length": READ}
        static(model_directory(), out=out, cache=self.work / "cache", **given, **learn)

    def _attar(self, out: Path, *, student: dict[str, Any], epochs: int, lr: float, seed: int) -> None:
        """Passes over the texts that learn the teacher's embeddings."""
        distill(
            model_directory(),
            out=out,
            texts=self.split[0],
            dev=self.split[1],
            student=student,
            intermediate=None,
            prediction={"epochs": epochs, "lr": lr, "batch_size": BATCH},
            cache=self.work / "cache",
            max_length=READ,
            seed=seed,
        )

    def score(self, arm: str, seed: int, split: str) -> dict[str, Array]:
        """What a model says of a split: similarities (N,), gains (Q,) of the questions, hits (M,) of the probe.

        Where it has its teacher's dimensions, also what its questions gain over the teacher's embeddings of the
        paragraphs.
        """

        def make() -> dict[str, list[float]]:
            model = self._embedder(arm, seed)
            pairs, asked = similar(split, self.quick), search(split, self.quick)
            found = {"sts": (_embed(model, pairs.first) * _embed(model, pairs.second)).sum(1).tolist()}
            queries = _embed(model, asked.queries)
            found["search"] = gains(queries @ _embed(model, asked.corpus).T, asked.relevant).tolist()
            index = self._index(split)
            if arm != TEACHER and index.shape[1] == queries.shape[1]:
                found["index"] = gains(queries @ index.T, asked.relevant).tolist()
            if split == "test":
                train, test = labelled("train", self.quick), labelled("dev", self.quick)
                probe = LogisticRegression(max_iter=1000).fit(_embed(model, train.texts), train.labels)
                found["probe"] = (
                    (probe.predict(_embed(model, test.texts)) == test.labels).astype(float).tolist()
                )
            return found

        found = remembered(self.work / "said" / f"{self._name(arm, seed)}-{split}.json", make)
        return {what: np.array(values) for what, values in found.items()}

    def _index(self, split: str) -> Array:
        """(P, E), the teacher's embeddings of the paragraphs."""
        file = self.work / f"index-{split}.npy"
        if not file.exists():
            with new_file(file) as part, part.open("wb") as out:
                np.save(out, _embed(self._embedder(TEACHER, 0), search(split, self.quick).corpus))
        return np.asarray(np.load(file))

    def _embedder(self, arm: str, seed: int) -> SentenceTransformer | Opened:
        place = self.model(arm, seed)
        return (
            open_model(place) if self._source(arm) != arm else SentenceTransformer(str(place), device="cpu")
        )

    def latencies(self, arms: Sequence[str]) -> dict[str, tuple[float, Interval]]:
        """Seconds of one text of 128 tokens in ONNX Runtime fp32, and times as fast as the teacher, in turns."""

        def make() -> dict[str, list[float]]:
            calls = {arm: self._call(arm) for arm in (TEACHER, *arms)}
            took = interleaved(calls, repeats=5 if self.quick else 150, clock="cpu")
            ratios = {arm: median_interval(took[TEACHER] / each) for arm, each in took.items()}
            return {
                arm: [float(np.median(took[arm])), ratio.value, ratio.low, ratio.high]
                for arm, ratio in ratios.items()
            }

        key = "-".join(str(number) for number, arm in enumerate(ARMS) if arm in arms)
        found = remembered(self.work / f"latencies-{key}.json", make)
        return {arm: (seconds, Interval(*ratio)) for arm, (seconds, *ratio) in found.items()}

    def _call(self, arm: str) -> Callable[[], Any]:
        place, written = self.model(arm), self.work / f"onnx-{self._name(arm, 0)}"
        tokens = len(self._embedder(arm, 0).tokenizer.get_vocab())
        ids = np.random.default_rng(0).integers(tokens // 2, tokens, (1, LENGTH))
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if arm != TEACHER and ARMS[arm]["way"] in ("model2vec", "model2vec tuned", "static"):
            return static_call(place, ids[0])
        exported = self._source(arm) != arm
        graph = place if exported else once(written, lambda out: export(place, out, precision="fp32"))
        model = OnnxModel(graph, threads=1)
        return lambda: model(inputs)

    def megabytes(self, arm: str) -> float:
        """Of the weights on disk, or of the exported graph, 10^6 bytes."""
        place = self.model(arm)
        return sum(file.stat().st_size for kind in WEIGHTS for file in place.rglob(kind)) / 1e6


def gains(alike: Array, relevant: Array) -> Array:
    """(Q,) nDCG@10 of each question, of which one paragraph is relevant: 1 / log2(1 + rank), 0 beyond ten.

    Args:
        alike: (Q, P) similarities.
        relevant: (Q,) numbers of paragraphs.
    """
    own = alike[np.arange(len(relevant)), relevant]
    before = (alike > own[:, None]).sum(1)
    return np.where(before < 10, 1 / np.log2(before + 2.0), 0.0)


def _embed(model: SentenceTransformer | Opened, texts: list[str]) -> Array:
    """(N, E), normalised, in the precision that is faster here; of an export in its own."""
    if isinstance(model, Opened):
        encoded = encode(Dataset.from_dict({"text": texts}), model.tokenizer, max_length=READ)
        return np.asarray(predict(model.model, Batches(encoded, model.tokenizer)))
    with autocast("auto"):
        found = model.float().encode(
            texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
        )
    return np.asarray(found)
