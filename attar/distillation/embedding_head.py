"""The head of an embedding student: a Dense layer that leads to the teacher's dimensions, where its own are others."""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from attar.data.batches import Batch
from attar.distillation.objective import EmbeddingMatch, Relations
from attar.errors import RecipeError
from attar.maths.directions import nearest_orthonormal, ridge
from attar.model.embedding import SentenceEncoder
from attar.model.pooling import pool
from attar.model.sentence_modules import Head, Linear

# One row a text, not one a token: the fit leans on what tokens say.
PENALTY = 1e-2


def student_head(teacher: SentenceEncoder, hidden: int, *, dense: bool = True) -> Head:
    """The teacher's head for hidden states of another size: its first Dense layer reads them, or a new one does.

    Args:
        dense: False leaves the Dense layers out: the student's embeddings are of its own, `hidden` dimensions.
    """
    head, own = teacher.head, teacher.encoder.config.hidden_size
    if not dense:
        return head.but(dense=())
    if hidden == own:
        return head
    if head.dense:
        return head.reading(hidden)
    return head.but(dense=(Linear(hidden * len(head.pooling), own * len(head.pooling), bias=False),))


@torch.no_grad()
def fit(teacher: SentenceEncoder, student: SentenceEncoder, lift: Tensor, texts: Iterable[Batch]) -> None:
    """Fill the student's Dense layers: the teacher's, after the linear map from the student's pooled states to its own.

    Args:
        lift: (d, D), from hidden states to the teacher's; of several poolings each is mapped so.
        texts: on which the map is fitted.
    """
    wide = torch.block_diag(*[lift.float()] * len(teacher.head.pooling))
    ours, theirs = (
        torch.cat([_pooled(model, batch.inputs) for batch in texts]) for model in (student, teacher)
    )
    back, _ = ridge(ours, theirs, penalty=PENALTY, prior=wide, bias=False)
    for n, linear in enumerate(student.dense):
        mine = cast(nn.Linear, linear)
        if n < len(teacher.dense):
            own = cast(nn.Linear, teacher.dense[n])
            mine.weight.copy_(own.weight if n else own.weight.float() @ back.T)
            if own.bias is not None:
                mine.bias.copy_(own.bias)
        else:
            mine.weight.copy_(back.T)


def _pooled(model: SentenceEncoder, inputs: dict[str, Tensor]) -> Tensor:
    """(B, M·D), what the Dense layers read."""
    given = {
        name: value.to(model.device)
        for name, value in inputs.items()
        if name != "token_type_ids" or model.kinds
    }
    states = model.encoder(**given, return_dict=True).last_hidden_state
    return pool(states, given["attention_mask"], model.head.pooling).float().cpu()


def embedding_match(
    teacher: PreTrainedModel,
    student: SentenceEncoder,
    start: Mapping[int, Tensor] | None,
    dimensions: Sequence[int],
    relations: Relations,
    others: Tensor | None = None,
) -> EmbeddingMatch:
    """How the embeddings of a student are compared with its teacher's.

    Args:
        start: student layer -> (d, D), the linear maps that its projection found. Of their last one the nearest
            directions at right angles are the dimensions of a student without a Dense layer, so that its embeddings
            are as like each other as its teacher's; of a teacher with a Dense layer it does not lead to embeddings.
        dimensions: numbers of leading dimensions that are to be good by themselves.
        relations: what of the texts of a batch is compared.
        others: (N, E) the teacher's embeddings of other texts to compare with.

    Raises:
        RecipeError: more dimensions than the student has.
    """
    if wide := [n for n in dimensions if n >= student.width]:
        raise RecipeError(
            expected=f"dimensions below the student's {student.width}",
            found=str(wide[0]),
            fix="name smaller ones",
        )
    space = None
    if (
        start
        and isinstance(teacher, SentenceEncoder)
        and not teacher.head.dense
        and student.width != teacher.width
    ):
        last = start[max(start)]
        if teacher.width == last.shape[1] and student.width == last.shape[0]:
            space = nearest_orthonormal(last.T)
    return EmbeddingMatch(space, tuple(dimensions), relations, others)
