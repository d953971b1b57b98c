"""What others make of an embedding model: model2vec, sentence-transformers' layer reduction, layers cut."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer import losses

from attar.demo.data import model_directory

# Tokens that are read of a text, by all: half of the paragraphs that are searched have more than 128.
BATCH, READ = 64, 256
Array = NDArray[Any]


def model2vec_distilled(out: Path, **_: Any) -> None:
    """model2vec's `distill` as its README calls it: no texts, 256 dimensions, SIF weights."""
    _static().save_pretrained(out)


def model2vec_tuned(
    out: Path, *, texts: list[str], vectors: Array, epochs: int, lr: float, seed: int
) -> None:
    """model2vec's own fine-tuning to a teacher's vectors, as its README calls it, in half precision as its own are.

    In the teacher's dimensions and without a head, so that what is learned is a static model again.
    """
    from model2vec.quantization import DType, quantize_embeddings
    from model2vec.train import StaticModelForSimilarity

    start = _static(pca_dims=None, quantize_to="float32")
    model = StaticModelForSimilarity.from_static_model(model=start, n_layers=0, max_length=READ)
    model.fit(
        texts,
        torch.from_numpy(vectors),
        learning_rate=lr,
        batch_size=BATCH,
        max_epochs=epochs,
        early_stopping_patience=None,
        test_size=0.02,
        random_seed=seed,
        device="cpu",
    )
    found = model.to_static_model()
    found.embedding = quantize_embeddings(found.embedding, DType.Float16)
    found.save_pretrained(out)


def static_call(place: Path, ids: Array) -> Callable[[], Any]:
    """What a static model does with token ids (T,), in numpy: the mean of rows, normalised."""
    module: Any = SentenceTransformer(str(place), device="cpu")[0]
    rows = module.embedding.weight.detach().float().numpy()

    def call() -> Array:
        mean = rows[ids].mean(0)
        return np.asarray(mean / np.linalg.norm(mean))

    return call


def cut(out: Path, *, layers: Sequence[int]) -> None:
    """The teacher with some of its layers alone, numbered from 1, as it stands."""
    reduced(layers).save(str(out))


def trained(
    out: Path, *, layers: Sequence[int], texts: list[str], vectors: Array, epochs: int, lr: float, seed: int
) -> None:
    """sentence-transformers' example of layer reduction: layers that stay learn the teacher's vectors by MSELoss."""
    model = reduced(layers)
    mse_trainer(model, texts, vectors, epochs=epochs, lr=lr, seed=seed).train()
    model.save(str(out))


def mse_trainer(
    model: SentenceTransformer,
    texts: Sequence[str],
    vectors: Array,
    *,
    epochs: int,
    lr: float,
    seed: int,
    callbacks: Any = None,
) -> SentenceTransformerTrainer:
    """Their trainer with their loss; what the example does not set stays as the library has it."""
    asked = SentenceTransformerTrainingArguments(
        output_dir=tempfile.gettempdir(),
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        learning_rate=lr,
        warmup_steps=0.1,
        seed=seed,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_pin_memory=False,
    )
    rows = Dataset.from_dict({"sentence": list(texts), "label": np.asarray(vectors)})
    return SentenceTransformerTrainer(
        model=model, args=asked, train_dataset=rows, loss=losses.MSELoss(model), callbacks=callbacks
    )


def reduced(layers: Sequence[int]) -> SentenceTransformer:
    """The teacher with some layers, as the example cuts them."""
    model = SentenceTransformer(str(model_directory()), device="cpu")
    model.max_seq_length = READ
    first: Any = model[0]
    bert = first.auto_model
    bert.encoder.layer = torch.nn.ModuleList(bert.encoder.layer[number - 1] for number in layers)
    bert.config.num_hidden_layers = len(layers)
    return model


def _static(**options: Any) -> Any:
    from model2vec.distill import distill

    return distill(str(model_directory()), device="cpu", **options)
