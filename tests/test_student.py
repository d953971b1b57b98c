"""Students: their shapes, and the laws that copied and projected weights keep."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from attar.data.batches import Batches
from attar.distillation.activations import TOKENS
from attar.distillation.projection import observe
from attar.distillation.student import student
from attar.errors import ModelError, RecipeError
from attar.evaluation.counting import parameters
from attar.maths.directions import (
    Metric,
    choose,
    explained,
    leading_directions,
    low_rank,
    ridge,
    second_moment,
)
from attar.model.checkpoint import verify

COMMON = {
    "vocab_size": 120,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
}
LABELS = {"id2label": {0: "no", 1: "yes", 2: "maybe"}, "label2id": {"no": 0, "yes": 1, "maybe": 2}}
ROPE = {
    "pad_token_id": 0,
    "cls_token_id": 1,
    "sep_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "local_attention": 8,
}
CONFIGS = {
    "bert": BertConfig(**COMMON, **LABELS, max_position_embeddings=40),
    "roberta": RobertaConfig(**COMMON, **LABELS, max_position_embeddings=42, type_vocab_size=1),
    "xlm-roberta": XLMRobertaConfig(**COMMON, **LABELS, max_position_embeddings=42, type_vocab_size=1),
    "camembert": CamembertConfig(**COMMON, **LABELS, max_position_embeddings=42, type_vocab_size=1),
    "distilbert": DistilBertConfig(
        vocab_size=120, dim=24, n_layers=3, n_heads=4, hidden_dim=40, **LABELS, max_position_embeddings=40
    ),
    "electra": ElectraConfig(**COMMON, **LABELS, embedding_size=16, max_position_embeddings=40),
    "albert": AlbertConfig(**COMMON, **LABELS, embedding_size=16, max_position_embeddings=40),
    "modernbert": ModernBertConfig(**COMMON, **LABELS, **ROPE, max_position_embeddings=40),
}
KINDS = {
    "classifier": AutoModelForSequenceClassification,
    "language": AutoModelForMaskedLM,
    "base": AutoModel,
}


# Every family with a classifier, and every kind of head on the three ways of building one.
CASES = [(name, "classifier") for name in CONFIGS]
CASES += [(name, kind) for name in ("bert", "electra", "modernbert") for kind in ("language", "base")]


class Tokenizer:
    """All that Batches asks of a tokenizer."""

    def __init__(self, pad):
        self.pad_token_id = pad


def teacher_of(name, kind="classifier", seed=0):
    """A tiny random teacher whose weights are large enough to matter: fresh ones barely attend."""
    torch.manual_seed(seed)
    model = KINDS[kind].from_config(copy.deepcopy(CONFIGS[name])).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
            if "bias" in key and parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def texts_of(model, count=40, seed=0):
    generator = np.random.default_rng(seed)
    rows = [generator.integers(5, 120, size=generator.integers(4, 20)).tolist() for _ in range(count)]
    table = Dataset.from_dict({"input_ids": rows, "length": [len(row) for row in rows]})
    return Batches(table, Tokenizer(model.config.pad_token_id), batch_size=20)


@torch.no_grad()
def outputs(model, texts):
    rows = {}
    for batch in texts:
        result = model(**batch.inputs)[0]
        for i, row, mask in zip(batch.index.tolist(), result, batch.mask, strict=True):
            rows[i] = row if result.dim() == 2 else row[mask]
    return torch.cat([rows[i].flatten() for i in sorted(rows)])


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_all_layers_copied_is_the_teacher(name, kind):
    teacher = teacher_of(name, kind)
    made = student(teacher, init="layers")
    texts = texts_of(teacher)
    assert type(made.model) is type(teacher)
    assert made.projections is None
    torch.testing.assert_close(outputs(made.model, texts), outputs(teacher, texts), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", [n for n in CONFIGS if n not in {"albert", "modernbert"}])
def test_copied_layers_are_those_of_the_map(name):
    teacher = teacher_of(name)
    made = student(teacher, layers=2, init="layers", mapping=[1, 3])
    whole, cut = teacher.state_dict(), made.model.state_dict()
    layer = {"distilbert": "transformer.layer"}.get(name, "encoder.layer")
    for m, n in ((0, 0), (1, 2)):
        found = {k: v for k, v in cut.items() if f"{layer}.{m}." in k}
        assert found
        for key, value in found.items():
            assert torch.equal(value, whole[key.replace(f"{layer}.{m}.", f"{layer}.{n}.")])


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_projected_to_its_own_sizes_is_the_teacher(name, kind):
    teacher = teacher_of(name, kind)
    texts = texts_of(teacher)
    made = student(teacher, init="project", texts=texts)
    unseen = texts_of(teacher, seed=1)
    torch.testing.assert_close(outputs(made.model, unseen), outputs(teacher, unseen), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_projected_student_has_its_shape_and_comes_back_from_disk(name, tmp_path):
    teacher = teacher_of(name)
    texts = texts_of(teacher)
    made = student(teacher, layers=2, hidden=16, heads=2, ffn=24, texts=texts)
    config = made.model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 16, 2)
    assert config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert made.model.base_model.get_input_embeddings().weight.shape[0] == 120
    assert sorted(made.projections) == [0, 1, 2]
    assert all(w.shape == (16, 24) and w.isfinite().all() for w in made.projections.values())
    made.model.save_pretrained(tmp_path)
    assert verify(made.model, tmp_path) <= 1e-4
    assert outputs(made.model, texts).isfinite().all()


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("kind", KINDS)
def test_factorised_embedding_is_a_stock_electra(name, kind):
    teacher = teacher_of(name, kind)
    texts = texts_of(teacher)
    made = student(teacher, layers=2, hidden=16, heads=2, ffn=24, embedding=8, texts=texts)
    assert made.model.config.model_type == "electra"
    assert (
        type(made.model).__name__.removeprefix("Electra") == type(teacher).__name__.split("ert", 1)[1]
        or name == "roberta"
    )
    assert made.model.get_input_embeddings().weight.shape == (120, 8)
    assert made.model.config.max_position_embeddings == 40
    assert outputs(made.model, texts).isfinite().all()


@pytest.mark.parametrize("name", ["roberta", "distilbert", "bert"])
def test_an_electra_of_the_teachers_sizes_reads_words_and_positions_alike(name):
    """Only the head differs: ELECTRA's own embedding, ids and layers give the teacher's hidden states."""
    teacher = teacher_of(name, "base")
    texts = texts_of(teacher)
    made = student(teacher, embedding=23, texts=texts)
    with torch.no_grad():
        batch = next(iter(texts))
        theirs = teacher(**batch.inputs, output_hidden_states=True).hidden_states[0][batch.mask]
        ours = made.model(**batch.inputs, output_hidden_states=True).hidden_states[0][batch.mask]
    error = (ours @ made.projections[0] - theirs).square().sum() / (theirs - theirs.mean(0)).square().sum()
    assert error < 0.1


def test_an_albert_student_of_another_shape_has_layers_of_its_own():
    teacher = teacher_of("albert")
    texts = texts_of(teacher)
    assert student(teacher, layers=2, texts=texts).model.config.model_type == "albert"
    assert student(teacher, hidden=16, texts=texts).model.config.model_type == "electra"
    assert student(teacher, hidden=16, init="random").model.config.model_type == "electra"


def test_students_of_any_depth_share_what_the_teacher_does_on_texts():
    teacher = teacher_of("bert")
    texts = texts_of(teacher)
    seen = observe(teacher, texts, tokens=TOKENS, seed=3)
    for layers in (1, 2):
        options = {"layers": layers, "hidden": 16, "heads": 2, "ffn": 24, "seed": 3}
        alone, shared = (student(teacher, **options, texts=source) for source in (texts, seen))
        for name, value in alone.model.state_dict().items():
            torch.testing.assert_close(shared.model.state_dict()[name], value)


def test_projection_explains_the_teacher_and_more_so_in_more_dimensions():
    teacher = teacher_of("bert")
    texts, unseen = texts_of(teacher, count=100), texts_of(teacher, seed=1)

    def error(hidden):
        made = student(teacher, hidden=hidden, texts=texts)
        gone = total = 0.0
        with torch.no_grad():
            for batch in unseen:
                theirs = teacher(**batch.inputs, output_hidden_states=True).hidden_states
                ours = made.model(**batch.inputs, output_hidden_states=True).hidden_states
                for m, weight in made.projections.items():
                    gone += float((ours[m] @ weight - theirs[m])[batch.mask].square().sum())
                    total += float((theirs[m] - theirs[m][batch.mask].mean(0))[batch.mask].square().sum())
        return gone / total

    small, middle, large = error(8), error(16), error(20)
    assert 1 > small > middle > large


@pytest.mark.parametrize("init", ["random", "project"])
def test_the_seed_fixes_the_student(init):
    teacher = teacher_of("bert")
    texts = texts_of(teacher)

    def made(seed):
        # 3 heads of 8 from 4 of 6: query and key have columns that only chance can fill.
        return student(teacher, heads=3, ffn=48, init=init, texts=texts, seed=seed).model.state_dict()

    one, two, other = made(0), made(0), made(1)
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_more_heads_neurons_dimensions_and_layers_than_the_teacher():
    teacher = teacher_of("bert")
    texts = texts_of(teacher)
    made = student(teacher, layers=4, hidden=32, heads=8, ffn=64, texts=texts)
    assert outputs(made.model, texts).isfinite().all()


def test_the_papers_sizes():
    with torch.device("meta"):
        teacher = AutoModelForSequenceClassification.from_config(BertConfig())
        four = student(teacher, layers=4, hidden=312, heads=12, ffn=1200, init="random").model
        six = student(teacher, layers=6, init="random").model
    # The paper counts 14.5M with the 0.24M of the projection that is thrown away.
    assert parameters(four) + 312 * 768 == pytest.approx(14.5e6, rel=0.01)
    assert parameters(six) == pytest.approx(67.0e6, rel=0.01)


@pytest.mark.parametrize(
    ("sizes", "fix"),
    [
        ({"hidden": 25}, "hidden="),
        ({"heads": 0}, "heads"),
        ({"layers": 0}, "layers"),
        ({"hidden": 16, "init": "layers"}, "project"),
        ({"texts": None}, "texts="),
        ({"init": "pca"}, "name one"),
    ],
)
def test_errors_name_the_fix(sizes, fix):
    teacher = teacher_of("bert")
    with pytest.raises(ModelError) as caught:
        student(teacher, **{"texts": texts_of(teacher), **sizes})
    assert fix in caught.value.fix


def test_modernbert_says_what_it_cannot_be():
    teacher = teacher_of("modernbert")
    with pytest.raises(ModelError, match="factorises"):
        student(teacher, embedding=8, init="random")
    with pytest.raises(ModelError, match="even head size"):
        student(teacher, hidden=12, heads=4, init="random")


def test_a_bad_map_is_refused():
    with pytest.raises(RecipeError):
        student(teacher_of("bert"), layers=2, init="random", mapping=[3, 2])


def test_leading_directions_are_those_of_pca():
    x = torch.randn(300, 12, generator=torch.Generator().manual_seed(0)) @ torch.randn(
        12, 12, generator=torch.Generator().manual_seed(1)
    )
    ours = leading_directions(second_moment(x, centred=True), 5)
    reference = PCA(5).fit(x.numpy())
    assert np.abs(ours.T.numpy() @ reference.components_.T) == pytest.approx(np.eye(5), abs=1e-5)
    assert explained(second_moment(x, centred=True), ours) == pytest.approx(
        reference.explained_variance_ratio_.sum(), rel=1e-5
    )


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), rank=st.integers(1, 5))
def test_low_rank_is_the_nearest_in_its_metric(seed, rank):
    torch.manual_seed(seed)
    left, right = torch.randn(50, 7), torch.randn(50, 6) * torch.arange(1, 7)
    p, q = torch.randn(7, 5), torch.randn(6, 5)
    c, d = second_moment(left), second_moment(right)
    a, b = low_rank(p, q, rank, left=Metric.of(c), right=Metric.of(d))
    root_c, root_d = torch.linalg.cholesky(c), torch.linalg.cholesky(d)
    singular = torch.linalg.svdvals(root_c.T @ (p @ q.T).double() @ root_d)
    error = torch.linalg.norm(root_c.T @ ((p @ q.T).double() - a @ b.T) @ root_d) ** 2
    assert float(error) == pytest.approx(float((singular[rank:] ** 2).sum()), rel=1e-6, abs=1e-6)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), penalty=st.floats(1e-6, 10))
def test_ridge_keeps_a_prior_that_fits(seed, penalty):
    torch.manual_seed(seed)
    x, prior = torch.randn(40, 6), torch.randn(6, 3)
    weight, bias = ridge(x, x @ prior + 2, penalty=penalty, prior=prior)
    torch.testing.assert_close(weight, prior, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(bias, torch.full((3,), 2.0), atol=1e-4, rtol=0)


def test_ridge_is_least_squares_where_nothing_is_penalised():
    torch.manual_seed(0)
    x, y = torch.randn(50, 4), torch.randn(50, 2)
    weight, bias = ridge(x, y, penalty=0)
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones(50, 1)], 1), y).solution
    torch.testing.assert_close(torch.cat([weight, bias[None]]), solution, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 3])
def test_choice_finds_the_features_that_made_the_target(groups):
    torch.manual_seed(0)
    features = torch.randn(400, 12 * groups)
    wanted = torch.tensor([1, 4, 9])
    columns = (wanted[:, None] * groups + torch.arange(groups)).flatten()
    target = features[:, columns] @ torch.randn(len(columns), 5)
    assert choose(features, target, 3, groups=groups).tolist() == wanted.tolist()


def test_choice_does_not_take_a_copy():
    torch.manual_seed(0)
    strong, weak = torch.randn(300, 1), torch.randn(300, 1)
    features = torch.cat([strong, strong, weak], 1)
    assert 2 in choose(features, 3 * strong + weak, 2).tolist()
