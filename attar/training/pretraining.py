"""Pre-train a language model on plain text: go on in a domain, begin anew, or give a model the head that it lacks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, BertForPreTraining, PreTrainedModel

from attar.data.corpus import Corpus, Texts, read_corpus
from attar.data.language_modeling import causal_head, learner_of, reading
from attar.errors import ModelError
from attar.evaluation.language_model import LOSS, MAIN, measure
from attar.model.checkpoint import Head, Loaded, digest, language_head, load, loader_of, save, versions
from attar.model.pretrained import from_pretrained
from attar.options.base import Options
from attar.progress import say, track
from attar.report.formatting import metric_name
from attar.report.report import Point, Report, Row
from attar.storage.writing import check_free
from attar.training import resuming
from attar.training.loop import Precision, Step, broadcast, fit, is_main, processes


def pretrain(
    model: str | Path | PreTrainedModel,
    texts: Texts,
    *,
    out: str | Path,
    dev: Texts | None,
    tokenizer: Any,
    options: Options,
    precision: Precision,
    overwrite: bool,
) -> Report:
    """Train a language model on plain text; see `attar.pretrain`."""
    check_free(out, overwrite=overwrite)
    o = options
    corpus = read_corpus(texts, dev, nsp=o.nsp, streaming=o.streaming, sample_by=o.sample_by, seed=o.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(o.seed)  # a new head is drawn
        loaded = _load(model, tokenizer, nsp=o.nsp, fresh=o.fresh)
    _check(loaded, nsp=o.nsp, whole_word=o.whole_word)
    settings = o.settings() | {"precision": precision}
    data = {"nsp", "fresh", "sample_by", "streaming"}
    training = {name: value for name, value in settings.items() if name not in data}
    with resuming.work_directory(out) as place:
        found = learn(loaded.model, loaded.tokenizer, corpus, place=place, **training)
        lineage = {
            "stage": "pretrain",
            "parent": loaded.name,
            "options": settings,
            "metrics": found.after,
        }
        if is_main():
            save(loaded.model, loaded.tokenizer, out, lineage=lineage, overwrite=overwrite)
    size, causal = loaded.model.num_parameters(), causal_head(loaded.model)
    name = "perplexity" if causal else "pseudo_perplexity"
    change = f"{metric_name(name)} {found.before[name]:.4g} before, {found.after[name]:.4g} after"
    return Report(
        f"pre-trained {Path(loaded.name).name}: {change}",
        MAIN[causal],
        (
            Row(Path(out).name, "teacher", metrics=found.after, parameters=size, directory=str(out)),
            Row("before", "baseline", metrics=found.before, parameters=size),
        ),
        {"pre-training": found.curve, "dev": found.dev},
        settings=settings,
        versions=versions(),
    )


@dataclass(frozen=True)
class Found:
    """Dev metrics before and after training, and both curves: training parts by step, the dev loss by epoch."""

    before: dict[str, float]
    after: dict[str, float]
    curve: tuple[Point, ...]
    dev: tuple[Point, ...]


def learn(
    model: PreTrainedModel,
    tokenizer: Any,
    corpus: Corpus,
    *,
    place: Path,
    epochs: int,
    lr: float,
    batch_size: int,
    max_length: int,
    mask: float,
    whole_word: bool,
    steps: int,
    seed: int,
    precision: Precision = "auto",
) -> Found:
    """Train `model` in place on texts and keep its best epoch by the dev loss.

    `place` keeps what a killed run goes on from, in a directory named by a digest of all that decides the result.
    """
    reads: dict[str, Any] = {"mask": mask, "whole_word": whole_word, "steps": steps, "seed": seed}
    how = reading(model, max_length=max_length, batch_size=batch_size, **reads)
    judged = how.batches(corpus.dev, tokenizer)
    rank, world = processes()
    batches = how.batches(corpus.train, tokenizer, shuffle=True, rank=rank, world=world)
    key = digest(model, *batches.content, *judged.content, (epochs, lr, batch_size, seed, precision))
    place = place / f"pretrain-{key}"
    place.mkdir(parents=True, exist_ok=True)
    best = resuming.BestEpoch(place, None)
    before = measure(model, judged)
    curve, name = resuming.TrainingCurve(place / "curve.json"), LOSS[how.causal]
    training = fit(
        learner_of(model),
        batches,
        epochs=epochs,
        lr=lr,
        precision=precision,
        seed=seed,
        checkpoint=place / "state",
    )
    for step in track(training, "pre-train", epochs * len(batches), done=Step.done):
        curve.add(step)
        if step.last_of_epoch:
            loss = broadcast(measure(model, judged)[name])
            best.add(step.epoch, -loss, model)
            say(f"epoch {step.epoch + 1}: dev loss {loss:.4f}, loss {curve.recent():.4f}")
    best.restore(model)
    dev = tuple(
        ((epoch + 1) * len(batches), {name.removesuffix("_loss"): -value})
        for epoch, value in sorted(best.history.items())
    )
    return Found(before, measure(model, judged), curve.points(), dev)


def _load(source: str | Path | PreTrainedModel, tokenizer: Any, *, nsp: bool, fresh: bool) -> Loaded:
    if not fresh:
        return load(source, tokenizer=tokenizer, head="pretraining" if nsp else "language", fresh_head=True)
    if isinstance(source, PreTrainedModel):
        given = load(source, tokenizer=tokenizer)
        made = loader_of(source.config, _head(source.config, nsp=nsp)).from_config(source.config)
        return Loaded(made.eval(), given.tokenizer, given.name)
    config = from_pretrained(AutoConfig, source)
    tokenizer = tokenizer or from_pretrained(AutoTokenizer, source)
    made = loader_of(config, _head(config, nsp=nsp)).from_config(config)
    return Loaded(made.eval(), tokenizer, str(source))


def _head(config: Any, *, nsp: bool) -> Head:
    return "pretraining" if nsp else language_head(config)


def _check(loaded: Loaded, *, nsp: bool, whole_word: bool) -> None:
    model, tokenizer = loaded.model, loaded.tokenizer
    if nsp and not isinstance(model, BertForPreTraining):
        raise ModelError(
            expected="a model of a family with a next-sentence head: bert",
            found=f"{model.config.model_type} ({type(model).__name__})",
            fix="leave out nsp: RoBERTa and those after it do without; or load a model with head 'pretraining'",
        )
    if model.get_output_embeddings() is None:
        raise ModelError(
            expected="a model with a language-model head",
            found=type(model).__name__,
            fix="pass its directory or name, which adds one, or load it with AutoModelForMaskedLM (or …CausalLM)",
        )
    if whole_word and not tokenizer.is_fast:
        raise ModelError(
            expected="a fast tokenizer, which knows the words of its pieces",
            found=type(tokenizer).__name__,
            fix="leave out whole_word",
        )
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise ModelError(
            expected=f"a model with a row for each of the tokenizer's {len(tokenizer)} tokens",
            found=f"{model.get_input_embeddings().num_embeddings} rows",
            fix="take the model's own tokenizer, or resize its embedding",
        )
