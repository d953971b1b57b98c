"""Laws of the metrics: scikit-learn's and scipy's on random data; a model agrees with itself; order does not matter."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from attar.data.batches import Batches, encode
from attar.data.tasks import Kind, Task
from attar.errors import DataError
from attar.evaluation.examples import examples
from attar.evaluation.prediction import predict
from attar.evaluation.quality import Evaluation, agreement, evaluate, judge, kl, metrics, quality, retained
from attar.maths.statistics import Interval

WORDS = [f"w{i}" for i in range(30)]
BINARY = Task("single_label", ("bad", "good"))
THREE = Task("single_label", ("a", "b", "c"))
MANY = Task("multi_label", ("x", "y", "z"))
SCORE = Task("regression", ("score",))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    inner = Tokenizer(WordLevel(vocab, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture(scope="module")
def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return BertForSequenceClassification(BertConfig(vocab_size=40, num_labels=2, **sizes)).eval()


def _table(rows: int = 23) -> Dataset:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 12))) for _ in range(rows)]
    return Dataset.from_dict({"text": texts, "label": rng.integers(2, size=rows).tolist()})


def _random(task: Task, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, len(task.labels)))
    labels = {
        "single_label": rng.integers(len(task.labels), size=rows),
        "multi_label": rng.integers(2, size=logits.shape),
        "regression": rng.normal(size=rows),
    }
    return logits, labels[task.kind]


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_the_libraries(seed: int) -> None:
    for task in (BINARY, THREE):
        logits, labels = _random(task, 60, seed)
        guesses = logits.argmax(-1)
        expected = {
            "accuracy": sk.accuracy_score(labels, guesses),
            "f1": sk.f1_score(labels, guesses, average="binary" if task is BINARY else "macro"),
            "matthews": sk.matthews_corrcoef(labels, guesses),
        }
        assert metrics(task, logits, labels) == pytest.approx(expected)
    logits, labels = _random(MANY, 60, seed)
    chosen = logits > 0
    expected = {
        "accuracy": sk.accuracy_score(labels, chosen),
        "micro_f1": sk.f1_score(labels, chosen, average="micro"),
        "macro_f1": sk.f1_score(labels, chosen, average="macro"),
    }
    assert metrics(MANY, logits, labels) == pytest.approx(expected)
    logits, labels = _random(SCORE, 60, seed)
    expected = {
        "pearson": stats.pearsonr(logits[:, 0], labels).statistic,
        "spearman": stats.spearmanr(logits[:, 0], labels).statistic,
    }
    assert metrics(SCORE, logits, labels) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.sampled_from([THREE, MANY]), st.floats(0.01, 4))
def test_divergence_is_zero_on_itself_never_negative_and_right(
    seed: int, rows: int, task: Task, scale: float
) -> None:
    student, teacher = (scale * _random(task, rows, seed + i)[0] for i in range(2))
    assert kl(task, teacher, teacher) == 0
    found = kl(task, student, teacher)
    assert found >= 0
    if task is THREE:
        assert kl(task, student + 7.5, teacher - 3.25) == pytest.approx(found, rel=1e-6, abs=1e-9)
        p, q = task.probabilities(teacher), task.probabilities(student)
        expected = np.mean([stats.entropy(a, b) for a, b in zip(p, q, strict=True)])
    else:
        p, q = task.probabilities(teacher), task.probabilities(student)
        with np.errstate(divide="ignore", invalid="ignore"):
            each = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        expected = each.sum(axis=-1).mean()
    if math.isfinite(expected):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("task", [BINARY, THREE, MANY, SCORE])
def test_a_model_agrees_with_itself_and_retains_all_of_itself(task: Task) -> None:
    logits, labels = _random(task, 40, 1)
    other = _random(task, 40, 2)[0]
    if task.kind == "regression":
        labels = labels + logits[:, 0]
    assert agreement(task, logits, logits) == pytest.approx(1)
    assert agreement(task, other, logits) < 1
    for truth in (labels, None):
        whole = judge(task, logits, truth, teacher_logits=logits)
        kept = retained(whole, whole, resamples=50)
        assert kept.value == pytest.approx(1)
        # Forty rows on which two models agree do not say that they are one; of a score there is no telling.
        shares = task.kind == "single_label" or (task.kind == "multi_label" and truth is None)
        assert bool(kept.missing) != shares
        if shares:
            assert 0.75 < kept.low < 1 <= kept.high
        if truth is None:
            own = quality(whole, whole, resamples=50)
            assert own == Interval(1, 1, 1) or task.kind == "regression"
        else:
            around = quality(whole, whole, resamples=50)
            assert around.value == pytest.approx(whole.value)
            assert around.low < whole.value < around.high


def test_without_labels_what_is_retained_is_the_agreement() -> None:
    teacher = judge(BINARY, _random(BINARY, 50, 1)[0], None, teacher_logits=_random(BINARY, 50, 1)[0])
    student = judge(BINARY, _random(BINARY, 50, 2)[0], None, teacher_logits=teacher.logits)
    assert student.main == "agreement"
    assert retained(student, teacher, resamples=50).value == student.metrics["agreement"]


@pytest.mark.parametrize("kind", ["single_label", "regression"])
def test_constant_scores_are_undefined_and_silent(kind: Kind) -> None:
    found = metrics(
        SCORE if kind == "regression" else BINARY,
        np.zeros((5, 1 if kind == "regression" else 2)),
        np.arange(5) % 2,
    )
    assert math.isnan(found["spearman"]) if kind == "regression" else found["matthews"] == 0


def test_logits_come_in_row_order_whatever_the_batches(
    model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    table = _table()
    encoded = encode(table, tokenizer)
    alone = []
    with torch.no_grad():
        for ids in encoded["input_ids"]:
            alone.append(model(input_ids=torch.tensor([ids])).logits[0].numpy())
    model.train()
    for options in (
        {"batch_size": 4, "bucket": True},
        {"batch_size": 5, "shuffle": True, "seed": 3},
        {"batch_size": 64},
    ):
        logits = predict(model, Batches(encoded, tokenizer, **options))
        np.testing.assert_allclose(logits, np.stack(alone), atol=1e-5)
    assert model.training
    model.eval()
    with pytest.raises(DataError, match="every row"):
        predict(model, list(Batches(encoded, tokenizer, batch_size=4))[1:])
    with pytest.raises(DataError, match="every row"):
        predict(model, [])


def test_evaluate_measures_what_there_is(
    model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    table = _table()
    plain = evaluate(model, table, tokenizer=tokenizer, task=BINARY)
    assert plain.main == "accuracy"
    assert plain.value == pytest.approx(np.mean(plain.predictions == np.array(table["label"][:])))
    against = evaluate(
        model, table.remove_columns("label"), tokenizer=tokenizer, task=BINARY, teacher_logits=plain.logits
    )
    assert against.metrics == {"agreement": 1.0, "kl": 0.0}
    with pytest.raises(DataError, match="without labels"):
        evaluate(model, table.remove_columns("label"), tokenizer=tokenizer, task=BINARY)
    with pytest.raises(DataError, match="shape"):
        judge(BINARY, plain.logits, None, teacher_logits=plain.logits[:-1])
    with pytest.raises(DataError, match="label for each"):
        metrics(BINARY, plain.logits, np.zeros(3, dtype=int))


def test_examples_show_where_models_differ() -> None:
    table = _table(30)
    labels = np.array(table["label"][:])
    teacher = judge(BINARY, _random(BINARY, 30, 1)[0], labels)
    changed = teacher.logits.copy()
    changed[17] = changed[17, ::-1]
    student = Evaluation(BINARY, {}, "accuracy", changed, labels)
    found = examples(table, {"big": ("teacher", teacher), "small": ("student", student)}, count=6)
    assert 5 <= len(found) <= 6
    odd = next(example for example in found if example.text == table[17]["text"])
    assert odd.label == BINARY.labels[labels[17]]
    assert odd.says[0].prediction != odd.says[1].prediction
    assert odd.says[0].probability == pytest.approx(teacher.probabilities[17].max())
    scores = judge(SCORE, _random(SCORE, 30, 1)[0], None, teacher_logits=_random(SCORE, 30, 1)[0])
    assert examples(table, {"one": ("teacher", scores)})[0].says[0].probability is None
    several = judge(MANY, np.array([[1.0, -1, 2], [-1, -1, -1]]), np.array([[1, 0, 0], [0, 0, 0]]))
    said = examples(table.select(range(2)), {"one": ("teacher", several)})
    assert [(e.label, e.says[0].prediction) for e in said] == [("x", "x, z"), ("none", "none")]
