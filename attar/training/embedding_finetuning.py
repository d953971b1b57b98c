"""Embedding models learn from pairs and triplets of a user's data, by sentence-transformers' trainer and losses."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from attar.anatomy.families import STATIC
from attar.data.columns import Columns, name_of
from attar.data.files import open_table
from attar.data.tables import has_scores, read_table
from attar.errors import DataError, MissingExtraError, ModelError
from attar.model.checkpoint import digest, load, save, versions
from attar.model.static import StaticEncoder
from attar.options.base import Options
from attar.progress import quiet_libraries, say
from attar.report.report import Point, Report, Row
from attar.training import resuming
from attar.training.loop import Precision, settle

TRIPLET = ("anchor", "positive", "negative")
# The figure that decides the best epoch: of pairs and triplets, of pairs with scores.
RANKED, SCORED = "ndcg@10", "spearman"
FEWEST = 10


def teaches_embeddings(data: Any, columns: Columns | None, problem_type: str | None) -> bool:
    """Whether a table is for an embedding model as such, and not for a head on its encoder.

    Pairs and triplets are, and pairs with scores (numbers) where no `problem_type` says what head they are for; classes
    of texts and of pairs, tags and answers are for a head.
    """
    named = _named(data, columns)
    if "label" in named:
        return "text_pair" in named and problem_type is None and has_scores(data, columns)
    return belong_together(data, columns) or named == {"text"}


def belong_together(data: Any, columns: Columns | None) -> bool:
    """Whether a table has pairs or triplets of which nothing is said, so that they teach embeddings alone."""
    named = _named(data, columns)
    return "label" not in named and (set(TRIPLET[:2]) <= named or "text_pair" in named)


def _named(data: Any, columns: Columns | None) -> set[str]:
    return {*open_table(data, "utf-8-sig").column_names, *(columns or {})}


def finetune_embeddings(
    model: Any,
    data: Any,
    *,
    out: str | Path,
    dev: Any,
    columns: Columns | None,
    options: Options,
    precision: Precision,
    overwrite: bool,
) -> Report:
    """Fine-tune an embedding model; see `attar.finetune`.

    Pairs (anchor and positive, or text and text_pair) and triplets (negative besides) teach by
    MultipleNegativesRankingLoss, pairs with scores by CoSENTLoss. The best epoch on the dev rows is kept: by nDCG@10 of
    finding each positive among all, or by the rank correlation with the scores.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        ModelError: a model that is no directory or hub name.
        DataError: a table of another form, or too few rows.
    """
    o = options
    if find_spec("sentence_transformers") is None:
        raise MissingExtraError(
            expected="sentence-transformers, which trains embedding models",
            found="none",
            fix='pip install "attar[embeddings]"',
        )
    if not isinstance(model, str | Path):
        raise ModelError(
            expected="an embedding model's directory or hub name",
            found=type(model).__name__,
            fix="save it and name the directory",
        )
    if given := [name for name in ("problem_type", "metric") if getattr(o, name) is not None]:
        raise DataError(
            expected="no such option for an embedding model",
            found=given[0],
            fix="leave it out: the table's columns say it",
        )
    train = _pairs(data, columns)
    if dev is None:
        if len(train) < FEWEST:
            raise DataError(
                expected=f"at least {FEWEST} rows, to hold a tenth out for dev",
                found=str(len(train)),
                fix="give a dev table",
            )
        parts = train.train_test_split(test_size=0.1, seed=o.seed)
        train, held = parts["train"], parts["test"]
        say(f"no dev table: {len(held)} rows are held out to choose the best epoch")
    else:
        held = _pairs(dev, columns)
    if set(held.column_names) != set(train.column_names):
        raise DataError(
            expected=f"a dev table with the columns {', '.join(train.column_names)}",
            found=", ".join(held.column_names),
            fix="give both tables one form",
        )
    tokenizer = load(model, pooling=o.pooling).tokenizer  # which stays as it was
    with resuming.work_directory(out) as place:
        start = str(model) if o.pooling is None else _pooled(model, o.pooling, place / "start")
        before, after, curve, trained = _train(start, train, held, o, precision, place)
        loaded = load(trained)
        if isinstance(loaded.model.encoder, StaticEncoder):
            loaded.model.encoder.round()
        lineage = {"stage": "finetune", "parent": str(model), "options": o.settings(), "metrics": after}
        save(loaded.model, tokenizer, out, lineage=lineage, overwrite=overwrite)
    main = SCORED if "score" in train.column_names else RANKED
    advice = "no epoch was better than the model before: try a lower learning rate, or more pairs"
    worse = (advice,) if after[main] <= before[main] else ()
    for line in worse:
        say(line)
    rows = (
        Row("before", "baseline", metrics=before, parameters=loaded.model.num_parameters()),
        Row(
            Path(out).name,
            "teacher",
            metrics=after,
            parameters=loaded.model.num_parameters(),
            directory=str(out),
        ),
    )
    return Report(
        f"fine-tuned {Path(str(model)).name}",
        main,
        rows,
        {"fine-tuning": curve},
        settings=o.settings(),
        versions=versions(),
        notes=(*worse, f"measured on {len(held)} rows, which also chose the best epoch"),
    )


def _pooled(model: str | Path, pooling: str, place: Path) -> str:
    """The directory of an embedding model that an encoder alone becomes."""
    if not place.is_dir():
        loaded = load(model, pooling=pooling)
        save(loaded.model, loaded.tokenizer, place, lineage={})
    return str(place)


def _pairs(source: Any, columns: Columns | None) -> Dataset:
    """A table as that library's losses read it: anchor, positive and maybe negative, or two sentences and a score."""
    table = open_table(source, "utf-8-sig")
    if set(TRIPLET[:2]) <= set(table.column_names) and not columns:
        if left := [name for name in ("score", "label") if name in table.column_names]:
            raise DataError(
                expected="anchor and positive without a score: each positive belongs to its anchor",
                found=f"the column {left[0]} in {name_of(source)}",
                fix=f'columns={{"text": "anchor", "text_pair": "positive", "label": "{left[0]}"}} (--columns '
                f"text=anchor,text_pair=positive,label={left[0]}) learns the scores; else drop that column",
            )
        wanted = [name for name in TRIPLET if name in table.column_names]
        found = table.select_columns(wanted)
    else:
        labelled = "label" in {*table.column_names, *(columns or {})}
        read, _ = read_table(table, columns=columns, problem_type="regression" if labelled else None)
        if "text_pair" not in read.column_names:
            raise DataError(
                expected="pairs: the columns text and text_pair (and label: scores), or anchor, positive and "
                "maybe negative",
                found=f"{', '.join(read.column_names)} in {name_of(source)}",
                fix='name the columns: columns={"text": …, "text_pair": …} (--columns text=…)',
            )
        scored = "label" in read.column_names
        names = (
            {"text": "sentence1", "text_pair": "sentence2", "label": "score"}
            if scored
            else dict(zip(("text", "text_pair"), TRIPLET, strict=False))
        )
        found = read.select_columns(list(names)).rename_columns(names)
        if scored:
            found = found.map(lambda row: {"score": float(row["score"])})
    empty = [n for n, row in enumerate(found) if not all(str(value).strip() for value in row.values())]
    if empty:
        raise DataError(
            expected="a text in every cell",
            found=f"{len(empty)} rows with an empty one, the first is {empty[0] + 1}",
            fix="drop those rows",
        )
    return found


def _train(
    source: str, train: Dataset, held: Dataset, o: Options, precision: Precision, place: Path
) -> tuple[dict[str, float], dict[str, float], tuple[Point, ...], Path]:
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.base.sampler import BatchSamplers
    from sentence_transformers.sentence_transformer import losses
    from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback

    class Epochs(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **_: Any) -> None:
            say(f"epoch {state.epoch:g}: dev {SCORED if scored else RANKED} {metrics[f'eval_{key}']:.4f}")

    with quiet_libraries():
        model = SentenceTransformer(source).float()
    if o.max_length is not None:
        model.max_seq_length = o.max_length
    scored = "score" in train.column_names
    loss = losses.CoSENTLoss(model) if scored else losses.MultipleNegativesRankingLoss(model)
    evaluator = _evaluator(held, scored)
    first = evaluator(model)
    key = next(name for name in first if name.startswith("dev_spearman_") or name.endswith("ndcg@10"))
    before = _figures(first)
    made = place / f"finetune-{digest(source, [*train], [*held], o.settings())}"
    asked = SentenceTransformerTrainingArguments(
        output_dir=str(made),
        num_train_epochs=o.epochs,
        per_device_train_batch_size=o.batch_size,
        learning_rate=o.lr,
        warmup_steps=0.1,
        seed=o.seed,
        bf16=settle(precision) == "bf16",
        batch_sampler=BatchSamplers.BATCH_SAMPLER if scored else BatchSamplers.NO_DUPLICATES,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=key,
        greater_is_better=True,
        logging_strategy="epoch",
        report_to="none",
        use_cpu=not torch.accelerator.is_available(),
        dataloader_pin_memory=torch.accelerator.is_available(),
        disable_tqdm=True,
    )
    callbacks: list[Any] = [Epochs()]
    callbacks += [] if o.patience is None else [EarlyStoppingCallback(early_stopping_patience=o.patience)]
    trainer = SentenceTransformerTrainer(
        model=model,
        args=asked,
        train_dataset=train,
        eval_dataset=held,
        loss=loss,
        evaluator=evaluator,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=any(made.glob("checkpoint-*")) or None)
    log = trainer.state.log_history
    curve = tuple((int(entry["step"]), {"loss": float(entry["loss"])}) for entry in log if "loss" in entry)
    model.save(str(place / "trained"))
    config = place / "trained" / "config.json"
    if not config.is_file():  # of a static model, of which that library keeps none
        config.write_text(json.dumps({"model_type": STATIC}), encoding="utf-8")
    return before, _figures(evaluator(model)), curve, place / "trained"


def _evaluator(held: Dataset, scored: bool) -> Any:
    """That library's evaluator of the dev rows."""
    from sentence_transformers.sentence_transformer.evaluation import (
        EmbeddingSimilarityEvaluator,
        InformationRetrievalEvaluator,
    )

    if scored:
        first, second, scores = (held[name][:] for name in ("sentence1", "sentence2", "score"))
        return EmbeddingSimilarityEvaluator(first, second, scores, name="dev", write_csv=False)
    others = held["negative"] if "negative" in held.column_names else []
    documents = {text: str(n) for n, text in enumerate(dict.fromkeys([*held["positive"], *others]))}
    relevant: dict[str, set[str]] = {}
    for anchor, positive in zip(held["anchor"], held["positive"], strict=True):
        relevant.setdefault(anchor, set()).add(documents[positive])
    return InformationRetrievalEvaluator(
        {str(n): anchor for n, anchor in enumerate(relevant)},
        {number: text for text, number in documents.items()},
        {str(n): found for n, found in enumerate(relevant.values())},
        name="dev",
        precision_recall_at_k=[10],
        write_csv=False,
    )


def _figures(found: dict[str, float]) -> dict[str, float]:
    """Of what that library's evaluator found, what attar's reports have."""
    ends = (RANKED, "mrr@10", "recall@10")
    starts = (SCORED, "pearson")
    ranked = {end: float(value) for end in ends for name, value in found.items() if name.endswith(end)}
    alike = {
        start: float(value)
        for start in starts
        for name, value in found.items()
        if name.startswith(f"dev_{start}_")
    }
    return ranked | alike
