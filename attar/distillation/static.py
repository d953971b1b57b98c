"""A static student of an embedding model: model2vec's token vectors, then distilled from the teacher's embeddings."""

import copy
import sys
from contextlib import nullcontext, redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from attar.data.batches import Batches, say_cut
from attar.data.columns import Columns
from attar.data.embedding_task import Embedding
from attar.data.model_task import embedding_task_of
from attar.data.tables import hold_out, read_table, read_texts
from attar.distillation.cache import CachedTeacher
from attar.distillation.objective import EmbeddingMatch
from attar.distillation.phases import Distiller, Judge, learn, teacher_of
from attar.errors import DataError, MissingExtraError, ModelError, OutputError, RecipeError
from attar.evaluation.prediction import predict
from attar.evaluation.quality import Evaluation, quality, retained
from attar.evaluation.table import TableEvaluator
from attar.maths.directions import principal, ridge
from attar.model.checkpoint import Loaded, digest, load, save, versions
from attar.model.embedding import KEY, SentenceEncoder
from attar.model.sentence_modules import Head
from attar.model.static import StaticConfig, StaticEncoder
from attar.model.views import Need
from attar.options.base import Options
from attar.progress import quiet_libraries, say
from attar.report.report import Report, Row
from attar.storage.writing import check_free
from attar.training import resuming
from attar.training.loop import Precision

Array = NDArray[Any]
# As model2vec sets them: dimensions, the weight of frequent tokens (SIF, Arora et al. 2017), longest text in tokens.
DIMENSIONS, SIF, LONGEST = 256, 1e-4, 512
# Texts that the map to the teacher's embeddings is fitted on, and how much the fit leans on none.
SAMPLE, PENALTY = 20_000, 1e-2
FEWEST = 50


def static(
    teacher: str | Path | PreTrainedModel,
    *,
    out: str | Path,
    texts: Any,
    data: Any,
    columns: Columns | None,
    tokenizer: Any,
    options: Options,
    precision: Precision,
    overwrite: bool,
) -> Report:
    """Make a static student; see `attar.static`."""
    o = options
    check_free(out, overwrite=overwrite)
    _require()
    loaded = load(teacher, tokenizer=tokenizer, pooling=o.pooling)
    task, model = embedding_task_of(loaded.model), cast(SentenceEncoder, loaded.model)
    width = o.dimensions or min(DIMENSIONS, model.width)
    if width > model.width:
        raise RecipeError(
            expected=f"at most the teacher's {model.width} dimensions",
            found=str(width),
            fix="name a smaller number",
        )
    if task.similarity == "cosine" and not model.head.normalize:
        say(
            "the teacher compares embeddings by cosine and does not normalise them: the static model does, which "
            "changes no cosine; who compares by dot products instead gets another order than the teacher's"
        )
    table = read_texts(texts).select_columns("text")
    if len(table) < FEWEST:
        raise DataError(
            expected=f"at least {FEWEST} texts", found=str(len(table)), fix="give more of what you embed"
        )
    if data is None:
        learned, held = hold_out(table, seed=o.seed)
    else:
        learned, held = table, read_table(data, columns=columns, task=task)[0]
    length = task.window(model, o.max_length)
    with resuming.work_directory(out) as place:
        work = StaticLearning(
            loaded,
            learned,
            length=length,
            batch_size=o.batch_size,
            cache=Path(o.cache or place),
            place=place,
            precision=precision,
            seed=o.seed,
        )
        say_cut(work.lengths, length)
        plain, made = work.start(width)
        watched, evaluator = (_evaluator(task, held, one.tokenizer, length) for one in (loaded, made))
        say_cut(watched.batches.lengths, length, "texts that are measured on")
        teachers = watched.evaluate_teacher(watched.logits(model))
        judge = Judge(evaluator, teachers)
        curve = work.learn(made, epochs=o.epochs, lr=o.lr, judge=judge) if o.epochs else ()
        made.model.encoder.round()
        found = {"model2vec": (plain, evaluator.evaluate(plain, teachers))}
        found[Path(out).name] = (made.model, evaluator.evaluate(made.model, teachers))
        lineage = {"stage": "static", "parent": loaded.name, "options": o.settings()}
        made.tokenizer.backend_tokenizer.enable_truncation(LONGEST)
        save(made.model, made.tokenizer, out, lineage=lineage, overwrite=overwrite)
    rows = [_row("teacher", "teacher", model, teachers, teachers)]
    for name, (one, said) in found.items():
        rows.append(_row(name, "student" if one is made.model else "baseline", one, said, teachers))
    return Report(
        f"{Path(loaded.name).name} as a static model",
        teachers.main,
        tuple(rows),
        {"static": curve} if curve else {},
        settings=o.settings(),
        versions=versions(),
        notes=(f"measured on {len(held)} texts{', which also chose the best epoch' if o.epochs else ''}",),
    )


class StaticLearning:
    """The parts that a static student is made of, and its training.

    Args:
        loaded: the teacher, an embedding model.
        texts: to learn from.
        length: longest text in tokens.
        cache: directory of the teacher's embeddings.
        place: the work directory.

    Raises:
        MissingExtraError: model2vec is not installed.
        ModelError: the teacher has no layers.
        OutputError: no room for its embeddings.
    """

    def __init__(
        self,
        loaded: Loaded,
        texts: Dataset,
        *,
        length: int,
        batch_size: int,
        cache: Path,
        place: Path,
        precision: Precision,
        seed: int,
    ) -> None:
        _require()
        self.task = embedding_task_of(loaded.model)
        self.loaded, self.model = loaded, cast(SentenceEncoder, loaded.model)
        if isinstance(self.model.encoder, StaticEncoder):
            raise ModelError(
                expected="an embedding model with layers",
                found="a static model",
                fix="name the model that it was made of",
            )
        self.texts, self.length, self.batch_size = texts, length, batch_size
        self.place, self.precision, self.seed = place, precision, seed
        batches = self._batches(loaded.tokenizer)
        self.lengths = batches.lengths  # in the teacher's tokens
        name = digest(*batches.content)
        found = teacher_of(self.model, Need(), batches, cache=cache, precision=precision, name=name)
        if not isinstance(found, CachedTeacher):
            raise OutputError(
                expected=f"room for the teacher's embeddings beside {place}",
                found="none",
                fix="free some of the disk",
            )
        self.teacher = found
        # (E, n) from the teacher's embeddings to the student's, where these have fewer dimensions.
        self.space: Tensor | None = None

    def _batches(self, tokenizer: Any) -> Batches:
        encoded = self.task.encode(self.texts, tokenizer, max_length=self.length)
        return Batches(encoded, tokenizer, batch_size=self.batch_size, shuffle=True, seed=self.seed)

    def start(self, width: int) -> tuple[SentenceEncoder, Loaded]:
        """What model2vec makes, and the student: its token vectors, mapped to the teacher's embeddings of the texts.

        The map is linear and fitted by least squares; dimensions are the principal directions of these embeddings.
        """
        raw, weights, tokenizer = token_vectors(self.loaded, self.model)
        # A teacher whose dot products are read has lengths to learn; cosines read none.
        unit = self.model.head.normalize or self.task.similarity == "cosine"
        head = self.model.head.but(pooling=("mean",), dense=(), normalize=unit, max_length=LONGEST)
        plain = static_model(_reduced(raw, width) * weights, head)
        plain.encoder.round()
        targets = self.teacher.logits
        assert targets is not None
        rows = np.arange(len(self.texts))
        rows = np.random.default_rng(self.seed).permutation(rows)[:SAMPLE]
        encoded = self.task.encode(self.texts.select(rows), tokenizer, max_length=self.length)
        bare = static_model(raw * weights, head.but(normalize=False))
        ours = torch.from_numpy(predict(bare, Batches(encoded, tokenizer, batch_size=64)))
        theirs = targets[torch.from_numpy(rows)]
        if unit:  # texts count alike, however long
            ours = ours / ours.norm(dim=1, keepdim=True).clamp(min=1e-6)
            theirs = theirs / theirs.norm(dim=1, keepdim=True).clamp(min=1e-6)
        found, _ = ridge(ours, theirs, penalty=PENALTY, bias=False)
        if width < self.model.width:  # else its embeddings can be compared with the teacher's own
            self.space = principal(theirs.numpy(), width)
            found = found @ self.space
        vectors = torch.from_numpy(raw * weights).float() @ found
        return plain, Loaded(static_model(vectors, head), tokenizer, "static")

    def learn(self, made: Loaded, *, epochs: int, lr: float, judge: Judge | None = None) -> Any:
        """Train the token vectors on the teacher's embeddings, in place; a judge keeps the best epoch."""
        student = made.model
        assert isinstance(student, SentenceEncoder)
        match = EmbeddingMatch(self.space)
        learner = Distiller(student, self.teacher.logits_only(), task=self.task, embeddings=match)
        batches = self._batches(made.tokenizer)
        given: dict[str, Any] = {"epochs": epochs, "lr": lr, "precision": self.precision, "seed": self.seed}
        judged = judge is not None
        key = digest(student, *batches.content, self.batch_size, judged, *given.values())
        place = self.place / f"static-{key}"
        return learn("static", learner, batches, place=place, judge=judge, choose=judged, **given)


def _require() -> None:
    if missing := [name for name in ("model2vec", "sentence_transformers") if find_spec(name) is None]:
        raise MissingExtraError(
            expected="model2vec, which makes the token vectors",
            found=f"no {missing[0]}",
            fix='pip install "attar[embeddings]"',
        )


def token_vectors(loaded: Loaded, model: SentenceEncoder) -> tuple[Array, Array, Any]:
    """What model2vec makes of a teacher: vectors of tokens (V, D), their weights (V, 1), and the tokenizer of these."""
    from model2vec.distill.distillation import distill_from_model
    from model2vec.distill.inference import compute_weights

    say(f"model2vec runs the teacher over each of about {model.config.vocab_size:,} tokens")
    # Its bar cannot be turned off, and fills a log that nobody looks at. A copy: it cuts the model's own embeddings.
    unseen = nullcontext() if sys.stderr.isatty() else redirect_stderr(StringIO())
    with quiet_libraries(), unseen:
        found = distill_from_model(
            copy.deepcopy(model.encoder).float().cpu(),
            loaded.tokenizer,
            device="cpu",
            pca_dims=None,
            sif_coefficient=None,
            quantize_to="float32",
        )
    vectors = np.asarray(found.embedding, dtype=np.float32)
    weights = compute_weights(len(vectors), SIF).astype(np.float32)
    given = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    known = found.tokenizer.get_vocab()
    named = {name: token for name, token in given.items() if token in known}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=found.tokenizer, model_max_length=LONGEST, **named)
    if tokenizer.pad_token is None:  # which only fills up rows
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    return vectors, weights[:, None], tokenizer


def static_model(vectors: Array | Tensor, head: Head) -> SentenceEncoder:
    """A static model of token vectors (V, E)."""
    config = StaticConfig(*vectors.shape[::-1])
    setattr(config, KEY, head.written)
    made = SentenceEncoder(config, StaticEncoder(config))
    made.get_input_embeddings().weight.data.copy_(torch.as_tensor(vectors))
    made.eval()
    return made


def _reduced(vectors: Array, width: int) -> Array:
    from model2vec.distill.inference import apply_pca

    return np.asarray(apply_pca(vectors, width), dtype=np.float32)


def _evaluator(task: Embedding, table: Dataset, tokenizer: Any, length: int) -> TableEvaluator:
    return TableEvaluator(task, table, tokenizer, max_length=length)


def _row(name: str, role: Any, model: Any, said: Evaluation, teacher: Evaluation) -> Row:
    kept = None if role == "teacher" else retained(said, teacher)
    size = 2 if isinstance(model.encoder, StaticEncoder) else model.dtype.itemsize
    count = model.num_parameters()
    return Row(
        name,
        role,
        metrics=said.metrics,
        quality=quality(said, teacher),
        retained=kept,
        parameters=count,
        bytes=count * size,
    )
