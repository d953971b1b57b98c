"""Project a teacher's weights onto the leading directions of its hidden states, layer after layer, on real text.

The student's stream is meant to be x = Uᵀh, with U (D, d) the leading directions of the teacher's hidden states h. Each
part is the best replacement of the teacher's in the metric of the text, given what the student built so far really
passes to it:

- what a student layer reads is mapped linearly to what the teacher's layer reads, and the teacher's own matrices
  follow, so a missing layer is bridged by the best linear guess;
- query and key of a head are the best low rank of the bilinear form q·k, value and output of the linear form;
- FFN neurons and heads are those that together explain the teacher's output best (matching pursuit);
- attention output, FFN output and LayerNorm are solved together by least squares, so that the student's *normed*
  stream is the projected teacher's: LayerNorm over d dimensions is not LayerNorm over D.

At the teacher's own sizes all of it is the identity. Where positions are rotary (ModernBERT, Llama), queries and keys
keep the pairs of dimensions that turn nearest to as fast, since a low rank of q·k would mix pairs that turn apart.
Heads that share keys and values (grouped queries) stay together: a group is what is chosen, and its values are the
best low rank for all of its heads.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from attar.anatomy.resolve import Bound, resolve
from attar.data.batches import Batches
from attar.distillation.activations import Activations, capture, collect_activations, sample
from attar.distillation.head_projection import fit_head, head_modules
from attar.distillation.layer_projection import ProjectedLayer
from attar.maths.directions import leading_directions, ridge, second_moment
from attar.model.weights import fit_norm, module_at, norm_gain, position_offset, set_linear, weight_of
from attar.progress import say

# Ridge penalty of the linear maps between hidden states, as a part of their mean variance (see Ridge).
PENALTY = 1e-3


@torch.no_grad()
def project(
    teacher: PreTrainedModel,
    model: PreTrainedModel,
    chosen: tuple[int, ...],
    texts: Batches | Activations,
    *,
    seed: int = 0,
) -> dict[int, Tensor]:
    """Fill a student with its teacher's projected weights, in place.

    Args:
        model: the student, freshly initialised: what the teacher cannot fill (more neurons than it has) stays as it is.
        chosen: teacher layer, from 1, for each student layer.
        texts: or what the teacher does on them (`observe`), which many students can share.

    Returns:
        For each student layer 0 … M the matrix W (d, D) of least squares `H_S W ≈ H_T`.
    """
    source, target = resolve(teacher), resolve(model)
    if isinstance(texts, Activations):
        seen = texts
    else:
        seen = collect_activations(source, chosen, sample(texts, seed=seed), head_modules(source))
    say(
        f"projecting {source.shape.hidden} dimensions onto {target.shape.hidden} on {len(seen.normed)} tokens of text"
    )
    basis = _basis([seen.hidden[n] for n in {0, *chosen}], target.shape.hidden)
    x = fit_embeddings(source, target, seen, basis)
    maps = {0: ridge(x, seen.hidden[0], penalty=PENALTY, bias=False, prior=basis.T)[0]}
    for m, n in enumerate(chosen):
        x = ProjectedLayer(source, target, m, n, seen, basis, seed).fit(x)
        final = source.at(source.anatomy.final_norm)
        if m == len(chosen) - 1 and final is not None:
            # A decoder's output matrix reads what this norm gives, so it is the teacher's last, whatever layer n is.
            goal = seen.last if source.anatomy.causal else seen.hidden[n]
            x = fit_norm(module_at(target, "final_norm"), x, goal @ basis, norm_gain(final, basis))
        maps[m + 1] = ridge(x, seen.hidden[n], penalty=PENALTY, bias=False, prior=basis.T)[0]
    fit_head(source, target, seen, x, maps[len(chosen)])
    return maps


def observe(teacher: PreTrainedModel, texts: Batches, *, tokens: int, seed: int = 0) -> Activations:
    """All layers of a teacher on about so many tokens of text: what students of any depth are projected from.

    It takes memory: two vectors for each token and layer, and a hidden state.
    """
    source = resolve(teacher)
    every = tuple(range(1, source.shape.layers + 1))
    return collect_activations(source, every, sample(texts, seed=seed, tokens=tokens), head_modules(source))


def _basis(hidden: Sequence[Tensor], size: int) -> Tensor:
    """U (D, d): leading directions of the hidden states of all mapped layers, each of the same weight."""
    width = hidden[0].shape[1]
    if size >= width:
        return torch.eye(width, size)
    # Not centred: the losses' projections have no bias, so the mean has to be among the directions.
    moments = [second_moment(h) for h in hidden]
    return leading_directions(torch.stack([m / m.trace() for m in moments]).sum(0), size).float()


def fit_embeddings(source: Bound, target: Bound, seen: Activations, basis: Tensor) -> Tensor:
    """Fill the embedding tables, their norm and any projection; return what enters the first layer, (N, d)."""
    mine, theirs = target.shape.embedding, source.shape.embedding
    lift = (
        source.at(source.anatomy.embedding_projection)
        if theirs != source.shape.hidden or source.anatomy.shared
        else None
    )
    inner = (
        target.anatomy.embedding_projection if mine != target.shape.hidden or target.anatomy.shared else ""
    )
    wanted = seen.hidden[0] @ basis
    if not source.anatomy.embedding_norm:  # a decoder's, whose tables are its stream
        for part in ("word_embeddings", "position_embeddings"):
            if (table := target.at(getattr(target.anatomy, part))) is not None:
                rows = weight_of(module_at(source, part))
                cast(Tensor, table.weight).data.copy_(rows @ basis)
        return wanted
    if not inner:
        down = basis if lift is None else weight_of(lift).T @ basis
        goal = wanted
    else:
        down = (
            torch.eye(theirs)
            if mine == theirs
            else leading_directions(second_moment(seen.normed), mine).float()
        )
        goal = seen.normed @ down
    own_norm, norm = module_at(source, "embedding_norm"), module_at(target, "embedding_norm")
    same = down.shape[0] == down.shape[1] and torch.equal(down, torch.eye(len(down)))
    skip = position_offset(source.model.config) - position_offset(target.model.config)
    for part in ("word_embeddings", "position_embeddings", "type_embeddings"):
        table, own = target.at(getattr(target.anatomy, part)), source.at(getattr(source.anatomy, part))
        if table is None:
            continue
        if own is None:
            cast(Tensor, table.weight).data.zero_()
            continue
        rows = weight_of(own)[skip if part == "position_embeddings" else 0 :]
        if not same:
            rows = (rows - rows.mean(1, keepdim=True)) * weight_of(own_norm) @ down
        cast(Tensor, table.weight).data.copy_(rows)
    x = fit_norm(
        norm, _embedded(target, seen), goal, norm_gain(own_norm, down) if not same else weight_of(own_norm)
    )
    if not inner:
        return x
    linear = cast(nn.Linear, target.at(inner))
    prior = down.T @ (basis if lift is None else weight_of(lift).T @ basis)
    weight, bias = ridge(x, wanted, penalty=PENALTY, prior=prior)
    set_linear(linear, weight, bias)
    return x @ weight + bias


def _embedded(target: Bound, seen: Activations) -> Tensor:
    """Sum of the student's embeddings before the norm, (N, E)."""
    norm = module_at(target, "embedding_norm")
    got = capture(target.base, seen.batches, entering={"norm": norm}, until="norm")
    return got["norm"][0]
