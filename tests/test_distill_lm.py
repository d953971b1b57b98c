"""Distilling language models: the losses by their formulas, what may be compared, and DistilBERT's start."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import attar
import tiny
from attar.data.blocks import Blocks, tokens_of
from attar.data.language_modeling import reading
from attar.data.masking import IGNORED
from attar.distillation.distilbert import to_distilbert
from attar.distillation.language_objective import LanguageDistiller, Live
from attar.distillation.lazy_teacher import LazyTeacher
from attar.distillation.student import student as build
from attar.errors import DataError, ModelError
from attar.evaluation.language_model import measure, pseudo_bits_per_byte, ratio, sliding_window_loss
from attar.model.checkpoint import load, read_lineage

TEXTS = tiny.texts(80)
QUICK = {"epochs": 1, "lr": 3e-3, "batch_size": 16, "max_length": 16, "precision": "fp32"}


def live(teacher):
    return Live(teacher, vocab=tiny.VOCAB, beta=0.0, temperature=2.0, precision="fp32")


def masked(texts=TEXTS, **options):
    how = reading(tiny.model("bert", "masked-lm"), max_length=16, batch_size=8)
    return how.batches(texts, tiny.tokenizer(), **options)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_triple_loss_is_its_formula(family):
    head = "causal-lm" if family == "gpt2" else "masked-lm"
    teacher, student = (tiny.model(family, head, seed=seed) for seed in (1, 2))
    if head == "causal-lm":
        batches = Blocks(tokens_of(TEXTS, tiny.decoder_tokenizer()), size=16, batch_size=4)
    else:
        batches = masked()
    batch = next(batches.epoch())
    found = LanguageDistiller(student, live(teacher), dropout=False)(batch)
    more = {"use_cache": False} if family == "gpt2" else {}
    with torch.no_grad():
        ours, theirs = (m(**batch.inputs, output_hidden_states=True, **more) for m in (student, teacher))
    told = batch.labels != IGNORED
    seen = told if head == "causal-lm" else batch.mask
    target = (theirs.logits[seen] / 2).softmax(-1)
    kl = (target * (target.log() - (ours.logits[seen] / 2).log_softmax(-1))).sum(-1).mean() * 4
    cosine = 1 - F.cosine_similarity(ours.hidden_states[-1][seen], theirs.hidden_states[-1][seen], dim=-1)
    ce = F.cross_entropy(ours.logits[told], batch.labels[told])
    expected = {"kl": 5 * kl.item(), "ce": 2 * ce.item(), "cosine": cosine.mean().item()}
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("family", "head"), [("bert", "masked-lm"), ("gpt2", "causal-lm"), ("llama", "causal-lm")]
)
def test_the_parameters_of_a_teacher_are_counted_without_its_weights(tmp_path, family, head):
    lazy = LazyTeacher(tiny.saved(tmp_path / "teacher", family, head=head))
    counted = lazy.parameters
    assert lazy._loaded is None
    assert counted == lazy.model.num_parameters() == lazy.parameters


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_model_distilled_into_itself_has_nothing_to_learn(family):
    head = "causal-lm" if family == "gpt2" else "masked-lm"
    model = tiny.model(family, head)
    batches = masked() if head == "masked-lm" else Blocks(tokens_of(TEXTS, tiny.decoder_tokenizer()), size=16)
    learner = LanguageDistiller(model, live(model), ce=0.0, dropout=False)
    parts = learner(next(batches.epoch()))
    sum(parts.values()).backward()
    assert set(parts) == {"kl", "cosine"}
    assert all(abs(value.item()) < 1e-5 for value in parts.values())
    assert max(p.grad.abs().max().item() for p in model.parameters() if p.grad is not None) < 1e-4


def test_padding_changes_nothing():
    teacher, student = (tiny.model("bert", "masked-lm", seed=seed) for seed in (1, 2))
    learner = LanguageDistiller(student, live(teacher), dropout=False)
    batch = next(masked(TEXTS[:8]).epoch())
    wide = {n: F.pad(v, (0, 5)) for n, v in batch.inputs.items()}
    padded = type(batch)(wide, F.pad(batch.labels, (0, 5), value=IGNORED), batch.index, batch.counts)
    plain = {n: v.item() for n, v in learner(batch).items()}
    assert {n: v.item() for n, v in learner(padded).items()} == pytest.approx(plain, rel=1e-5)


def test_rows_of_padding_beyond_the_vocabulary_do_not_count():
    teacher, student = tiny.model("gpt2", "causal-lm", seed=1), tiny.model("gpt2", "causal-lm", seed=2)
    batch = next(Blocks(tokens_of(TEXTS, tiny.decoder_tokenizer()), size=16).epoch())

    def kl(teacher):
        return LanguageDistiller(student, live(teacher), ce=0.0, cosine=0.0, dropout=False)(batch)[
            "kl"
        ].item()

    plain = kl(teacher)
    teacher.resize_token_embeddings(tiny.VOCAB + 7)
    assert kl(teacher) == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_distilbert_of_all_layers_says_what_its_teacher_says(family):
    teacher = tiny.model(family, "masked-lm")
    student = to_distilbert(teacher, (1, 2))
    batch = next(iter(tiny.batches(TEXTS[:6], "roberta")))
    with torch.no_grad():
        theirs, ours = (m(**batch.inputs).logits for m in (teacher, student))
    torch.testing.assert_close(ours[batch.mask], theirs[batch.mask], rtol=1e-4, atol=1e-5)
    assert type(student).__name__ == "DistilBertForMaskedLM"
    one = to_distilbert(teacher, (2,))
    torch.testing.assert_close(
        one.distilbert.transformer.layer[0].attention.k_lin.weight,
        teacher.base_model.encoder.layer[1].attention.self.key.weight,
    )


@pytest.mark.parametrize("init", ["layers", "project", "random"])
def test_a_distilbert_is_started_and_sized_as_is_asked(tmp_path, init):
    teacher = tiny.saved(tmp_path / "teacher", head="masked-lm")
    sizes = {"layers": 1, "hidden": None if init == "layers" else 16, "ffn": None if init == "layers" else 20}
    made = {}
    for family in (None, "distilbert"):
        options = {**QUICK, "lr": 1e-12, "student": {**sizes, "init": init, "family": family}, "mapping": [2]}
        attar.distill_lm(teacher, TEXTS, out=tmp_path / str(family), **options)
        made[family] = load(tmp_path / str(family), head="language").model
    assert type(made["distilbert"]).__name__ == "DistilBertForMaskedLM"
    batch = next(masked().epoch())
    with torch.no_grad():
        expected, found = (model(**batch.inputs).logits[batch.mask] for model in made.values())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_start_is_fitted_on_the_texts_to_learn_from(tmp_path):
    teacher = tiny.saved(tmp_path / "teacher", head="masked-lm")
    options = {**QUICK, "lr": 1e-12, "student": {"hidden": 16, "init": "project"}}
    for name, dev in (("one", TEXTS[:4]), ("other", tiny.texts(9, seed=5))):
        attar.distill_lm(teacher, TEXTS, dev=dev, out=tmp_path / name, **options)
    one, other = (load(tmp_path / name, head="language").model for name in ("one", "other"))
    assert tiny.identical(one, other)


@pytest.mark.parametrize("family", ["albert", "electra", "modernbert"])
def test_what_distilbert_cannot_compute_is_refused(family):
    with pytest.raises(ModelError, match=r"bert, roberta"):
        to_distilbert(tiny.model(family, "masked-lm"), (1,))


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_the_window_slides_over_every_token_once(family):
    model, tokenizer = tiny.model(family, "causal-lm"), tiny.decoder_tokenizer()
    texts = [" ".join(tiny.WORDS), "good film", "a"]
    tokens = tokens_of(texts, tokenizer, end=False)
    expected = 0.0
    for document in np.split(tokens.ids, tokens.begins[1:]):
        for place in range(1, len(document)):
            # Windows of 8 move by 3: the first tells 8 tokens, each further one 3, after those before it in the window.
            last = 8 if place <= 8 else 8 + 3 * -(-(place - 8) // 3)
            last = min(last, len(document) - 1)
            seen = torch.from_numpy(document[max(0, last - 8) : place].astype(np.int64))[None]
            with torch.no_grad():
                expected -= model(seen).logits[0, -1].log_softmax(-1)[document[place]].item()
    found = sliding_window_loss(model, texts, tokenizer, max_length=8, stride=3, batch_size=2)
    assert found.nats.sum() == pytest.approx(expected, rel=1e-5)
    assert found.tokens.sum() == len(tokens.ids) - len(texts)
    assert found.metrics["bits_per_byte"] == pytest.approx(expected / np.log(2) / sum(map(len, texts)))
    assert ratio(found, found).value == 1.0


def test_bits_of_a_byte_do_not_depend_on_how_text_is_cut():
    tokenizer = tiny.tokenizer()
    words, letters = ["good film"] * 3, ["g o o d f i l m"] * 3
    # Of 9 bytes 2 tokens, of 15 bytes 8: as much is said of a text whose tokens are four times as many and as easy.
    one, four = pseudo_bits_per_byte(2.0, words, tokenizer), pseudo_bits_per_byte(0.5, letters, tokenizer)
    assert one == pytest.approx(2 * 2 / 9 / np.log(2))
    assert 9 * one == pytest.approx(15 * four)
    model = tiny.model("bert", "masked-lm")
    row = attar.evaluate(model, TEXTS, tokenizer=tokenizer).rows[0]
    assert row.metrics["pseudo_bits_per_byte"] == pytest.approx(
        pseudo_bits_per_byte(row.metrics["mlm_loss"], TEXTS, tokenizer)
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A causal teacher that has learned something."""
    place = tmp_path_factory.mktemp("teacher")
    model = tiny.model("gpt2", "causal-lm", n_layer=4)
    attar.pretrain(model, TEXTS, tokenizer=tiny.decoder_tokenizer(), out=place / "t", **QUICK | {"epochs": 4})
    return place / "t"


def test_students_from_the_same_kept_logits_are_the_same(teacher, tmp_path):
    options = {**QUICK, "top_k": 8, "cache": tmp_path / "c"}
    first = attar.distill_lm(teacher, TEXTS, out=tmp_path / "a", student={"layers": 2}, **options)
    again = attar.distill_lm(teacher, TEXTS, out=tmp_path / "b", student={"layers": 2}, **options)
    assert first.rows[1].metrics == again.rows[1].metrics
    assert tiny.identical(load(tmp_path / "a").model, load(tmp_path / "b").model)
    assert read_lineage(tmp_path / "a")["stage"] == "distill_lm"
    assert not list(tmp_path.glob(".*"))


def test_distilling_brings_the_student_nearer(teacher, tmp_path):
    dev = tiny.texts(30, seed=9)
    options = {**QUICK, "student": {"layers": 2}, "dev": dev}
    found = attar.distill_lm(teacher, TEXTS, out=tmp_path / "s", **options | {"epochs": 3})
    loaded = load(teacher)
    begun = build(loaded.model, layers=2, init="layers").model
    judged = reading(begun, max_length=16, batch_size=8).batches(dev, loaded.tokenizer)
    assert found.rows[1].metrics["clm_loss"] < measure(begun, judged)["clm_loss"]


def test_what_cannot_be_distilled_is_named(teacher, tmp_path):
    other = tiny.decoder_tokenizer()
    other.add_tokens(["추가"])
    student = tiny.model("gpt2", "causal-lm")
    student.resize_token_embeddings(len(other))
    student.save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="추가"):
        attar.distill_lm(teacher, TEXTS, out=tmp_path / "o", student=tmp_path / "other", **QUICK)
    with pytest.raises(DataError, match="1 to the vocabulary's"):
        attar.distill_lm(teacher, TEXTS, out=tmp_path / "o", student={"layers": 1}, top_k=10**6, **QUICK)
    tiny.saved(tmp_path / "b", head="masked-lm")
    with pytest.raises(DataError, match="masked tokens"):
        attar.distill_lm(tmp_path / "b", TEXTS, out=tmp_path / "o", student={"layers": 1}, top_k=4, **QUICK)
    tiny.saved(tmp_path / "base", head="base")
    with pytest.raises(ModelError, match="none for"):
        attar.distill_lm(tmp_path / "base", TEXTS, out=tmp_path / "o", student={"layers": 1}, **QUICK)
    (tmp_path / "binary.txt").write_bytes(b"\x00\x01\x02text")
    with pytest.raises(DataError, match="zero byte"):
        attar.distill_lm(teacher, tmp_path / "binary.txt", out=tmp_path / "o", **QUICK)
    (tmp_path / "latin.txt").write_bytes("café\n".encode("latin-1") * 9)
    with pytest.raises(DataError, match="utf-8"):
        attar.distill_lm(teacher, tmp_path / "latin.txt", out=tmp_path / "o", **QUICK)
    assert not (tmp_path / "o").exists()
