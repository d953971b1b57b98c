"""Pre-train a language model on plain text: go on in a domain, begin anew, or give a model the head that it lacks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, BertForPreTraining, PreTrainedModel

from attar.data.corpus import Corpus, Texts, read_corpus
from attar.data.language_modeling import causal_head, learner_of, reading
from attar.data.tables import SampleBy
from attar.errors import ModelError
from attar.evaluation.language_model import LOSS, MAIN, measure
from attar.model.checkpoint import Head, Loaded, digest, language_head, load, loader_of, save, versions
from attar.progress import say, track
from attar.report.formatting import metric_name
from attar.report.report import Point, Report, Row
from attar.storage.writing import check_free
from attar.training import resuming
from attar.training.loop import Precision, broadcast, fit, is_main, processes


def pretrain(
    model: str | Path | PreTrainedModel,
    texts: Texts,
    *,
    out: str | Path,
    dev: Texts | None = None,
    tokenizer: Any = None,
    epochs: int = 1,
    lr: float = 5e-5,
    batch_size: int = 32,
    max_length: int = 128,
    mask: float = 0.15,
    whole_word: bool = False,
    nsp: bool = False,
    fresh: bool = False,
    sample_by: SampleBy = "line",
    streaming: bool = False,
    steps: int = 1000,
    seed: int = 0,
    precision: Precision = "auto",
    overwrite: bool = False,
) -> Report:
    """Train a language model on plain text, and keep the best epoch by the loss on the dev texts.

    An encoder tells hidden words, masked anew in every epoch (1810.04805, section 3.1); one that was saved without a
    masked-language-model head (MiniLM) gets one. A decoder (GPT-2 and its kin) tells next tokens of blocks of
    `max_length` tokens, packed with documents that do not see each other.

    Args:
        model: a directory, a hub name, or a model with its head (then with its `tokenizer`).
        texts: as `read_texts` reads them, one text a line; for `nsp` one sentence a line, documents parted by blank
            lines. Of a list, strings that are no files are the texts themselves.
        out: the directory to write; it appears whole, after it was loaded again and compared.
        dev: texts to measure on, with masks that stay the same; where None a twentieth of the texts is held out, of
            a stream its first thousand lines.
        mask: share of the tokens to hide (encoders).
        whole_word: hide words with all their pieces (encoders).
        nsp: predict as well whether the second sentence of a pair follows the first (BERT only).
        fresh: begin with random weights: only the config and the tokenizer of `model` are read.
        sample_by: what a document is in a file: a line, a paragraph (up to a blank line), or the whole file.
        streaming: read lines as they are needed; an epoch is then `steps` batches.

    Returns:
        A report with the dev metrics, before and after, and the training curve; for the metrics see
        `attar.evaluation.language_model.measure`.

    Raises:
        ModelError: a family without this head, a tokenizer without a mask token, or of a decoder without one that ends
            a text. DataError: no text, or too little.
        OutputError, TrainingError: see the functions that this one calls.
    """
    check_free(out, overwrite=overwrite)
    corpus = read_corpus(texts, dev, nsp=nsp, streaming=streaming, sample_by=sample_by, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # a new head is drawn
        loaded = _load(model, tokenizer, nsp=nsp, fresh=fresh)
    _check(loaded, nsp=nsp, whole_word=whole_word)
    options: dict[str, Any] = {
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "max_length": max_length,
        "mask": mask,
        "whole_word": whole_word,
        "steps": steps,
        "seed": seed,
        "precision": precision,
    }
    with resuming.work_directory(out) as place:
        found = learn(loaded.model, loaded.tokenizer, corpus, place=place, **options)
        options |= {"nsp": nsp, "fresh": fresh, "sample_by": sample_by, "streaming": streaming}
        lineage = {
            "stage": "pretrain",
            "parent": loaded.name,
            "options": options,
            "metrics": found.after,
        }
        if is_main():
            save(loaded.model, loaded.tokenizer, out, lineage=lineage, overwrite=overwrite)
    size, causal = loaded.model.num_parameters(), causal_head(loaded.model)
    name = "perplexity" if causal else "pseudo_perplexity"
    change = f"{metric_name(name)} {found.before[name]:.4g} before, {found.after[name]:.4g} after"
    return Report(
        f"pre-trained {loaded.name}: {change}",
        MAIN[causal],
        (
            Row(Path(out).name, "teacher", metrics=found.after, parameters=size, directory=str(out)),
            Row("before", "baseline", metrics=found.before, parameters=size),
        ),
        {"pre-training": found.curve, "dev": found.dev},
        settings=options,
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
    for step in track(training, "pre-train", epochs * len(batches)):
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
    try:
        config = AutoConfig.from_pretrained(source)
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            expected=f"a config and a tokenizer at {source}",
            found=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}",
            fix="name a model directory; weights need not be in it",
        ) from error
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
