"""Share weights: an encoder as the stock ALBERT class, whose layers are one, or a few that run several times.

ALBERT norms the embedding at its own size E and then widens it; BERT norms it at the hidden size h. At E = h the
widening is the identity and both are one computation. At E < h the tables keep their leading directions as the text
weighs them, and norm and widening are fitted to what enters the first layer.
"""

from dataclasses import replace
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from transformers import AlbertConfig, PreTrainedModel

from attar.anatomy.form import factorised
from attar.anatomy.resolve import Bound, resolve
from attar.data.batches import Batches
from attar.distillation.activations import capture, collect_activations, sample
from attar.distillation.distilbert import LAYER
from attar.distillation.head_projection import fit_language, head_modules
from attar.distillation.projection import fit_embeddings
from attar.distillation.student import head_of
from attar.distillation.student_config import kin
from attar.errors import ModelError
from attar.model.checkpoint import HEADS, Head
from attar.model.weights import module_at, position_offset, weight_of

How = Literal["all", "groups", "cycles"]
Start = Literal["last", "mean"]
# Between the classifier and the hidden states ALBERT has a dense layer and a tanh.
TANH = {"bert", "roberta", "xlm-roberta", "camembert"}
# Families whose language model head has a GELU, whatever their layers have.
GELU = {"roberta", "xlm-roberta", "camembert", "electra"}


@torch.no_grad()
def shared(
    model: PreTrainedModel,
    *,
    how: How = "all",
    groups: int | None = None,
    embedding: int | None = None,
    start: Start = "last",
    texts: Batches | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """An ALBERT with an encoder's weights, layers and embedding shared (1909.11942, section 3.1).

    Args:
        model: of a family that computes as ALBERT does; its head comes along.
        how: "all" makes all layers one; "groups" cuts the layers into runs of neighbours, each of which is one layer;
            "cycles" has as many layers run in turn, again and again.
        groups: how many layers are left, for "groups" and "cycles".
        embedding: E, at most the present size; the present one where None.
        start: a shared layer begins as the last of its layers, or as their mean. The last leaves the logits nearer:
            a MiniLM of six layers, fine-tuned on SST-2, keeps 83% of its answers in three groups, 68% by the mean,
            55% by the first.
        texts: text of the kind that the model reads, for a smaller embedding.
        seed: of a pooler that the model did not have, and of the sentences that are looked at.

    Raises:
        ModelError: a computation that ALBERT does not have, numbers that do not fit, or no text where it is needed.
    """
    source = resolve(model)
    head = head_of(model)
    _expressible(source, head)
    size = source.shape.embedding if embedding is None else embedding
    config = _config(source, how, groups, size, start)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: PreTrainedModel = HEADS[head].from_config(config, dtype=torch.float32).eval()
    made.config.architectures = [type(made).__name__]
    target = resolve(made)
    for members in _members(target):
        _fill(source, target, members, start)
    if size == source.shape.embedding:
        _same_embedding(source, target)
        _same_language(source, target)
    elif texts is None or len(texts) == 0:
        raise ModelError(
            expected="texts to factorise the embedding: its leading directions are those that text has",
            found="none",
            fix="give a thousand sentences or more, or leave embedding out",
        )
    else:
        batches = sample(texts, seed=seed)
        seen = collect_activations(source, (), batches, {})
        fit_embeddings(source, target, seen, torch.eye(source.shape.hidden))
        if head == "masked-lm":
            last = capture(made.base_model, batches, entering={}, hidden=True)["hidden"][-1]
            fit_language(source, target, seen, last)
    _same_task(source, target)
    return made


def _expressible(source: Bound, head: Head) -> None:
    a, config, s = source.anatomy, source.model.config, source.shape
    unlike = {
        "a decoder": a.causal or getattr(config, "is_decoder", False),
        "norms before its sublayers": a.pre_norm,
        "rotary positions, or none": not a.position_embeddings,
        "a gated FFN": a.gated_ffn or bool(a.ffn_up),
        "layers of different shapes": bool(s.each),
        "layers that are shared already": a.shared,
        "heads of another size than hidden / heads": s.own_head_dim is not None or s.group != 1,
    }
    activation = getattr(config, "hidden_act", None) or getattr(config, "activation", None)
    if head == "sequence-classification" and a.name not in TANH:
        unlike["a classifier without the tanh of BERT's pooler before it"] = True
    if head == "masked-lm" and a.name in GELU and activation != "gelu":
        unlike[f"layers with {activation} and a language model head with gelu"] = True
    if found := [fact for fact, is_so in unlike.items() if is_so]:
        raise ModelError(
            expected="an encoder whose computation ALBERT has too: bert, roberta and their kin",
            found=f"{type(source.model).__name__}, which has {found[0]}",
            fix="distil it into a smaller student instead, or share the model before fine-tuning (head='base')"
            if "classifier" in found[0]
            else "distil it into a smaller student instead",
        )


def _config(source: Bound, how: How, groups: int | None, embedding: int, start: Start) -> AlbertConfig:
    s, own = source.shape, source.model.config
    if how not in get_args(How) or (how == "all") != (groups is None):
        raise ModelError(
            expected="how to be all, or groups or cycles with the number of layers left as groups",
            found=f"how={how!r}, groups={groups}",
            fix="write how='groups', groups=3, say",
        )
    if start not in get_args(Start):
        raise ModelError(expected="start to be last or mean", found=repr(start), fix="name one of them")
    left = groups or 1
    fitting = [n for n in range(1, s.layers + 1) if how == "groups" or s.layers % n == 0]
    if left not in fitting or not 1 <= embedding <= s.embedding:
        raise ModelError(
            expected=f"groups to be one of {', '.join(map(str, fitting))}, and embedding at most {s.embedding}",
            found=f"groups={left}, embedding={embedding}",
            fix="mend the one that does not fit",
        )
    cycles = left if how == "cycles" else 1
    dropout = getattr(own, "classifier_dropout", None)
    if dropout is None:
        dropout = getattr(own, source.anatomy.sizes.dropouts[0])
    return cast(
        AlbertConfig,
        kin(
            AlbertConfig,
            source,
            replace(s, layers=s.layers // cycles, embedding=embedding),
            num_hidden_groups=left if how == "groups" else 1,
            inner_group_num=cycles,
            classifier_dropout_prob=dropout,
            tie_word_embeddings=getattr(own, "tie_word_embeddings", True),
        ),
    )


def _members(target: Bound) -> list[list[int]]:
    """The layers, from 0, that each module is run as."""
    found: dict[tuple[int, int], list[int]] = {}
    for layer in range(target.shape.layers):
        found.setdefault(target.place(layer), []).append(layer)
    return list(found.values())


def _fill(source: Bound, target: Bound, members: list[int], start: Start) -> None:
    """One shared layer from the last of those of the source, or their mean."""
    chosen = members if start == "mean" else members[-1:]
    for part in LAYER:
        filled = module_at(target, part, members[0])
        theirs = [dict(module_at(source, part, layer).named_parameters()) for layer in chosen]
        for name, parameter in filled.named_parameters():
            parameter.copy_(torch.stack([own[name] for own in theirs]).mean(0))


def _same_embedding(source: Bound, target: Bound) -> None:
    for part in ("word_embeddings", "position_embeddings", "type_embeddings"):
        table, own = module_at(target, part), source.at(getattr(source.anatomy, part))
        # RoBERTa's first position is not the first of its table; DistilBERT has no token types.
        skip = position_offset(source.model.config) if part == "position_embeddings" else 0
        cast(Tensor, table.weight).copy_(weight_of(own)[skip:] if own is not None else torch.zeros(()))
    module_at(target, "embedding_norm").load_state_dict(module_at(source, "embedding_norm").state_dict())
    widening = cast(nn.Linear, module_at(target, "embedding_projection"))
    if factorised(source):
        widening.load_state_dict(module_at(source, "embedding_projection").state_dict())
    else:
        nn.init.eye_(widening.weight)
        nn.init.zeros_(widening.bias)


def _same_language(source: Bound, target: Bound) -> None:
    """A masked-language-model head as it is, where there is one."""
    table, own = (cast("nn.Linear | None", b.model.get_output_embeddings()) for b in (target, source))
    if table is None or own is None:
        return
    for to, of in zip(target.anatomy.language, source.anatomy.language, strict=True):
        target.model.get_submodule(to).load_state_dict(source.model.get_submodule(of).state_dict())
    table.load_state_dict(own.state_dict())


def _same_task(source: Bound, target: Bound) -> None:
    """The layers of a task's head, and the pooler before it."""
    theirs, ours = head_modules(source), head_modules(target)
    for name in ("classifier", "qa_outputs"):  # of each token
        module, own = (dict(b.model.named_children()).get(name) for b in (target, source))
        if isinstance(module, nn.Linear) and isinstance(own, nn.Linear) and not theirs.get("final"):
            ours[name], theirs[name] = module, own
    for name, module in ours.items():
        if name in theirs:
            module.load_state_dict(theirs[name].state_dict())
