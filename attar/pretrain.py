"""Pre-train an encoder on plain text: go on in a domain, begin anew, or give a model the head that it lacks."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch.nn import functional as F
from transformers import AutoConfig, AutoTokenizer, BertForPreTraining, PreTrainedModel

from attar import work
from attar.errors import DataError, ModelError
from attar.measure.report import Point, Report, Row
from attar.model.checkpoint import Head, Loaded, check_free, digest, load, loader_of, save, versions
from attar.model.corpus import Corpus, Texts, read_corpus
from attar.model.data import Batches, StreamBatches, encode, fitting
from attar.model.masking import MaskedBatches, MaskedLanguage
from attar.progress import say, track
from attar.train import Precision, agree, fit, is_main, processes

MAIN = "masked_accuracy"


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
    streaming: bool = False,
    steps: int = 1000,
    seed: int = 0,
    precision: Precision = "auto",
    overwrite: bool = False,
) -> Report:
    """Train an encoder to tell hidden words of plain text, masked anew in every epoch (1810.04805, section 3.1).

    A model that was saved without a masked-language-model head (MiniLM) gets one. The best epoch by the loss on the
    dev texts is kept.

    Args:
        model: a directory, a hub name, or a model with that head (then with its `tokenizer`).
        texts: as `read_texts` reads them, one text a line; for `nsp` one sentence a line, documents parted by blank
            lines. Of a list, strings that are no files are the texts themselves.
        out: the directory to write; it appears whole, after it was loaded again and compared.
        dev: texts to measure on, with masks that stay the same; where None a twentieth of the texts is held out, of
            a stream its first thousand lines.
        mask: share of the tokens to hide.
        whole_word: hide words with all their pieces.
        nsp: predict as well whether the second sentence of a pair follows the first (BERT only).
        fresh: begin with random weights: only the config and the tokenizer of `model` are read.
        streaming: read lines as they are needed; an epoch is then `steps` batches.

    Returns:
        A report with the dev metrics, before and after, and the training curve: `mlm_loss` in nats a masked token,
        `pseudo_perplexity`, its exponential, `masked_accuracy` and, with `nsp`, `nsp_accuracy`.

    Raises:
        ModelError: a family without this head, a tokenizer without a mask token. DataError: no text, or too little.
        OutputError, TrainingError: see the functions that this one calls.
    """
    check_free(out, overwrite=overwrite)
    corpus = read_corpus(texts, dev, nsp=nsp, streaming=streaming, seed=seed)
    head: Head = "pretraining" if nsp else "masked-lm"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # a new head is drawn
        loaded = _load(model, tokenizer, head, fresh=fresh)
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
    with work.space(out) as place:
        found = learn(loaded.model, loaded.tokenizer, corpus, place=place, **options)
        options |= {"nsp": nsp, "fresh": fresh, "streaming": streaming}
        lineage = {
            "stage": "pretrain",
            "parent": loaded.name,
            "options": options,
            "metrics": found.after,
        }
        if is_main():
            save(loaded.model, loaded.tokenizer, out, lineage=lineage, overwrite=overwrite)
    size = loaded.model.num_parameters()
    return Report(
        f"pre-trained {loaded.name}: pseudo-perplexity {found.before['pseudo_perplexity']:.4g} before, "
        f"{found.after['pseudo_perplexity']:.4g} after",
        MAIN,
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
    """Train `model` in place on masked texts and keep its best epoch.

    `place` keeps what a killed run goes on from, in a directory named by a digest of all that decides the result.
    """
    max_length = fitting(max_length, model)
    masks: dict[str, Any] = {"mask": mask, "whole_word": whole_word, "seed": seed}
    dealt: dict[str, Any] = {"batch_size": batch_size, "max_length": max_length, "words": whole_word}
    judged = MaskedBatches(_batches(corpus.dev, tokenizer, **dealt), tokenizer, **masks)
    dealt |= dict(zip(("rank", "world"), processes(), strict=True), shuffle=True, seed=seed, steps=steps)
    batches = MaskedBatches(_batches(corpus.train, tokenizer, **dealt), tokenizer, **masks)
    key = digest(model, *batches.content, *judged.content, (epochs, lr, batch_size, seed, precision))
    place = place / f"pretrain-{key}"
    place.mkdir(parents=True, exist_ok=True)
    learner, best = MaskedLanguage(model), work.Best(place, None)
    before = measure(learner, judged)
    curve = work.Curve(place / "curve.json")
    training = fit(
        learner, batches, epochs=epochs, lr=lr, precision=precision, seed=seed, checkpoint=place / "state"
    )
    for step in track(training, "pre-train", epochs * len(batches)):
        curve.add(step)
        if step.last_of_epoch:
            loss = agree(measure(learner, judged)["mlm_loss"])
            best.add(step.epoch, -loss, model)
            say(f"epoch {step.epoch + 1}: dev loss {loss:.4f}, loss {curve.recent():.4f}")
    best.restore(model)
    dev = tuple(
        ((epoch + 1) * len(batches), {"mlm": -value}) for epoch, value in sorted(best.history.items())
    )
    return Found(before, measure(learner, judged), curve.points(), dev)


@torch.no_grad()
def measure(learner: MaskedLanguage, batches: MaskedBatches) -> dict[str, float]:
    """What a model knows of the tokens that the first epoch's masks hide.

    Returns:
        `mlm_loss` (a mean over tokens, in nats), `pseudo_perplexity`, `masked_accuracy`, and `nsp_accuracy` where there
        are pairs.
    """
    training = learner.training
    learner.eval()
    device = next(learner.parameters()).device
    loss, right, tokens, follow, pairs = 0.0, 0, 0, 0, 0
    for batch in track(batches.epoch(0), "evaluate", len(batches)):
        there = batch.to(device)
        logits, wanted, follows = learner.tell(there)
        loss += F.cross_entropy(logits.float(), wanted, reduction="sum").item()
        right += int((logits.argmax(-1) == wanted).sum())
        tokens += len(wanted)
        if there.following is not None and follows is not None:
            follow += int((follows.argmax(-1) == there.following).sum())
            pairs += len(there.following)
    learner.train(training)
    mean = loss / tokens
    found = {
        "mlm_loss": mean,
        "pseudo_perplexity": math.exp(min(mean, 700.0)),  # a float ends at e^709
        "masked_accuracy": right / tokens,
    }
    return found | ({"nsp_accuracy": follow / pairs} if pairs else {})


def _batches(
    texts: Dataset | IterableDataset,
    tokenizer: Any,
    *,
    max_length: int,
    words: bool,
    steps: int = 1,
    shuffle: bool = False,
    **dealt: Any,
) -> Batches | StreamBatches:
    """Batches of texts, once it is sure that there is something in them to hide."""
    if isinstance(texts, IterableDataset):
        return StreamBatches(texts, tokenizer, steps=steps, max_length=max_length, words=words, **dealt)
    encoded = encode(texts, tokenizer, max_length=max_length, words=words)
    batches = Batches(encoded, tokenizer, shuffle=shuffle, **dealt)
    if np.isin(batches.token_ids, tokenizer.all_special_ids).all():
        raise DataError(
            expected="texts with words that the tokenizer knows",
            found=f"{len(texts)} texts of special and unknown tokens only",
            fix="check that the tokenizer is of the texts' language, or add dev texts",
        )
    return batches


def _load(source: str | Path | PreTrainedModel, tokenizer: Any, head: Head, *, fresh: bool) -> Loaded:
    if not fresh:
        return load(source, tokenizer=tokenizer, head=head, fresh_head=True)
    if isinstance(source, PreTrainedModel):
        given = load(source, tokenizer=tokenizer)
        made = loader_of(source.config, head).from_config(source.config)
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
    made = loader_of(config, head).from_config(config)
    return Loaded(made.eval(), tokenizer, str(source))


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
            expected="a model with a masked-language-model head",
            found=type(model).__name__,
            fix="pass its directory or name, which adds one, or load it with AutoModelForMaskedLM",
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
