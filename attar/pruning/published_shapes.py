"""The shapes that the schuBERT paper found for BERT-base, as they are printed (2005.06628, tables 4 to 7)."""

from attar.anatomy.form import Form, LayerForm
from attar.errors import PlanError

_LAYERS = 12
_FFN_99 = (2022, 2222, 2344, 2478, 2576, 2530, 2638, 2660, 2748, 2792, 2852, 2974)
_FFN_88 = (1382, 1550, 1672, 1956, 2052, 2030, 2210, 2314, 2474, 2556, 2668, 2938)
_VALUE_99 = (54, 54, 46, 58, 52, 60, 64, 64, 64, 64, 64, 62)
_VALUE_88 = (46, 48, 42, 52, 46, 54, 64, 62, 64, 64, 64, 40)
_HEADS_99 = (12, 12, 12, 12, 11, 12, 12, 12, 12, 12, 12, 12)
_HEADS_88 = (12, 12, 11, 12, 11, 12, 12, 12, 12, 12, 12, 12)


def _found(
    hidden: int, ffn: tuple[int, ...], heads: tuple[int, ...], value: tuple[int, ...]
) -> tuple[int, tuple[LayerForm, ...]]:
    layers = (LayerForm(a, 64, v, f) for a, v, f in zip(heads, value, ffn, strict=True))
    return hidden, tuple(layers)


def _narrow(hidden: int) -> tuple[int, tuple[LayerForm, ...]]:
    return hidden, (LayerForm(12, 64, 64, 3072),) * _LAYERS


# Name -> hidden size and layers.
PUBLISHED: dict[str, tuple[int, tuple[LayerForm, ...]]] = {
    "schubert-99m": _found(768, _FFN_99, _HEADS_99, _VALUE_99),
    "schubert-88m": _found(756, _FFN_88, _HEADS_88, _VALUE_88),
    "schubert-77m": _narrow(544),
    "schubert-66m": _narrow(466),
    "schubert-55m": _narrow(390),
    "schubert-43m": _narrow(304),
    "schubert-33m": _narrow(234),
}


def published(name: str, source: Form) -> Form:
    """The form of a published shape, for a model of BERT-base's sizes.

    Raises:
        PlanError: no such shape, or a model of other sizes.
    """
    if name not in PUBLISHED:
        raise PlanError(
            expected=f"one of the published shapes {', '.join(PUBLISHED)}", found=repr(name), fix="name one"
        )
    hidden, layers = PUBLISHED[name]
    base = (LayerForm(12, 64, 64, 3072),) * _LAYERS
    if source.hidden != 768 or source.layers != base:
        first = source.layers[0]
        raise PlanError(
            expected="a model of BERT-base's sizes, for a published shape: 12 layers, hidden 768, 12 heads of 64, "
            "ffn 3072",
            found=f"{len(source.layers)} layers, hidden {source.hidden}, {first.heads} heads of {first.key}, "
            f"ffn {first.ffn}",
            fix="learn a shape for your model: leave shape out and give a budget",
        )
    embedding = hidden if source.embedding == source.hidden else source.embedding
    return Form(hidden, embedding, source.vocab, layers)
