"""Project what stands on the last layer: pooler, classifier, language model head."""

from typing import cast

import torch
from torch import Tensor, nn

from attar.anatomy.resolve import Bound
from attar.distillation.activations import Activations, capture
from attar.maths.directions import ridge
from attar.model.weights import bias_of, set_linear, weight_of

# There is one row for each sentence here, not one for each token, so the fits lean on their priors more.
PENALTY = 1e-2
# A GELU whose input stays above this is the identity to 0.4%.
LINEAR = 3.0


def head_modules(bound: Bound) -> dict[str, nn.Module]:
    """The linear layers of a head: "dense" (or pooler) where there is one, and "final", which gives the logits.

    They read one vector a sentence, or, where tokens are asked, one a token. A decoder's need not be seen at work.
    """
    a = bound.anatomy
    found: dict[str, nn.Module] = {}
    if a.causal:
        return found
    if a.pooler and getattr(bound.base, a.pooler.split(".")[0], None) is not None:
        found["dense"] = cast(nn.Module, bound.at(a.pooler))
    if type(bound.model).__name__.endswith("ForSequenceClassification"):
        linear = [bound.model.get_submodule(path) for path in a.heads]
        found |= dict(zip(("dense", "final")[2 - len(linear) :], linear, strict=True))
    if type(bound.model).__name__.endswith(("ForTokenClassification", "ForQuestionAnswering")):
        modules = dict(bound.model.named_modules())
        linear_of = {"hidden hidden": "dense", "- hidden": "final"}
        found |= {
            linear_of[axes]: modules[path] for path, axes in a.tail if path in modules and axes in linear_of
        }
    return found


def fit_head(source: Bound, target: Bound, seen: Activations, x: Tensor, lift: Tensor) -> None:
    """Fill the student's head: dense layer projected, classifier fitted again to the teacher's logits.

    Args:
        x: the student's last hidden states, (N, d).
        lift: (d, D), from those to the teacher's.
    """
    if source.anatomy.causal:
        _causal(source, target, seen, x, lift)
        return
    theirs, ours = head_modules(source), head_modules(target)
    if source.model.get_output_embeddings() is not None:
        fit_language(source, target, seen, x)
    prior = lift
    if "dense" in theirs and "dense" in ours:
        prior = _dense(source, target, seen, theirs, ours, lift)
    if "final" not in ours or "final" not in theirs or seen.logits is None:
        return
    final, before = cast(nn.Linear, ours["final"]), cast(nn.Linear, theirs["final"])
    features = capture(target.model, seen.batches, entering={"final": final})["final"][0]
    start = torch.zeros(final.in_features, final.out_features)
    if type(source.model) is type(target.model) or prior is lift:
        start = prior @ weight_of(before).T
    weight, bias = ridge(features, seen.logits, penalty=PENALTY, prior=start)
    final.weight.data.copy_(weight.T)
    final.bias.data.copy_(bias)


def _dense(
    source: Bound,
    target: Bound,
    seen: Activations,
    theirs: dict[str, nn.Module],
    ours: dict[str, nn.Module],
    lift: Tensor,
) -> Tensor:
    """Fill the dense layer; (d, D), which of the teacher's outputs each of the student's stands for."""
    dense, own = cast(nn.Linear, ours["dense"]), cast(nn.Linear, theirs["dense"])
    pooled = capture(target.model, seen.batches, entering={"dense": dense})["dense"][0]
    back, shift = ridge(pooled, seen.head["dense"], penalty=PENALTY, prior=lift, bias=dense.bias is not None)
    kept = _strongest(seen, theirs, own, dense.out_features)
    rows = weight_of(own)[kept]
    dense.weight.data[: len(kept)] = rows @ back.T
    if dense.bias is not None:
        dense.bias.data[: len(kept)] = rows @ shift + bias_of(own)[kept]
    if source.anatomy.pre_norm and target.anatomy.pre_norm and "final" in ours:
        norm, before_norm = (b.model.get_submodule(b.anatomy.language[1]) for b in (target, source))
        for name, value in before_norm.named_parameters():
            norm.get_parameter(name).data[: len(kept)] = value.data[kept]
    picked = torch.zeros(dense.out_features, own.out_features)
    picked[torch.arange(len(kept)), kept] = 1.0
    return picked


def _causal(source: Bound, target: Bound, seen: Activations, x: Tensor, lift: Tensor) -> None:
    """Fill what reads a decoder's last hidden states, but an output matrix that is the embedding's, filled there."""
    back, _ = ridge(x, seen.last, penalty=PENALTY, prior=lift, bias=False)
    tied = target.model.get_input_embeddings().weight
    for name, theirs in source.model.named_children():
        mine = target.model.get_submodule(name)
        if isinstance(theirs, nn.Linear) and mine.weight is not tied:
            set_linear(mine, back @ weight_of(theirs).T, bias_of(theirs))


def _strongest(seen: Activations, theirs: dict[str, nn.Module], own: nn.Linear, count: int) -> Tensor:
    """The dense layer's outputs that the logits lean on most: |weight| times spread."""
    if count >= own.out_features:
        return torch.arange(own.out_features)
    if "final" in theirs:
        spread = seen.head["final"].std(0) * cast(nn.Linear, theirs["final"]).weight.detach().float().norm(
            dim=0
        )
    else:
        spread = (seen.head["dense"] @ weight_of(own).T).std(0)
    found: Tensor = spread.topk(count).indices.sort().values
    return found


def fit_language(source: Bound, target: Bound, seen: Activations, x: Tensor) -> None:
    """Fill a language model head whose decoder is the (tied) embedding table, so that logits agree.

    What the decoder reads is fitted linearly: the dense layer's inputs are shifted to where its GELU is the identity,
    and the norm takes the shift away again.
    """
    dense, norm = (target.model.get_submodule(path) for path in target.anatomy.language)
    own_dense, own_norm = (source.model.get_submodule(path) for path in source.anatomy.language)
    table, own_table = (cast(nn.Linear, b.model.get_output_embeddings()) for b in (target, source))
    if own_table.bias is not None and table.bias is not None:
        table.bias.data.copy_(own_table.bias.data)
    if dense.weight.shape == own_dense.weight.shape and type(source.model) is type(target.model):
        dense.load_state_dict(own_dense.state_dict())
        norm.load_state_dict(own_norm.state_dict())
        if not torch.equal(table.weight, own_table.weight):
            table.weight.data.copy_(own_table.weight.data)
        return
    read = cast(
        Tensor, own_norm(torch.nn.functional.gelu(own_dense(seen.last.to(source.model.device)))).cpu()
    )
    e, big = weight_of(table), weight_of(own_table)
    gram = (e.T @ e).double()
    gram.diagonal().add_(1e-4 * gram.diagonal().mean())
    goal = read @ torch.linalg.solve(gram, (e.T @ big).double()).float().T
    scale = goal.std(1).mean()
    weight, bias = ridge(
        x, (goal - goal.mean(1, keepdim=True)) / scale, penalty=1e-3, bias=dense.bias is not None
    )
    # Five deviations keep nearly all inputs where GELU is the identity.
    cast(Tensor, dense.weight.data).copy_(weight.T)
    if dense.bias is not None:
        cast(Tensor, dense.bias.data).copy_(bias + 5 + LINEAR)
    cast(Tensor, norm.weight.data).fill_(float(scale))
    if norm.bias is not None:
        cast(Tensor, norm.bias.data).copy_(goal.mean(0))
