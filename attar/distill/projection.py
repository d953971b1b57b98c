"""Project a teacher's weights onto the leading directions of its hidden states, layer after layer, on real text.

The student's stream is meant to be `h Uᵀ`-like: x = U^T h with U (D, d) the leading directions of the teacher's hidden
states. Each part is then the best replacement of the teacher's in the metric of the text, given what the student
built so far really passes to it:

- what a student layer reads is mapped linearly to what the teacher's layer reads (P below), and the teacher's own
  matrices follow, so a missing layer is bridged by the best linear guess;
- query and key of a head are the best low rank of the bilinear form q·k, value and output of the linear form;
- FFN neurons and heads are those that together explain the teacher's output best (matching pursuit);
- attention output, FFN output and LayerNorm are solved together by least squares, so that the student's *normed*
  stream is the projected teacher's: LayerNorm over d dimensions is not LayerNorm over D.

At the teacher's own sizes all of it is the identity.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from attar.anatomy.resolve import Bound, resolve
from attar.distill.attention import assign, context, rotary_pairs, split
from attar.distill.heads import fit_head, head_modules
from attar.distill.observation import LayerSeen, Seen, observe, sample
from attar.maths.directions import Metric, Ridge, choose, leading_directions, low_rank, ridge, second_moment
from attar.model.data import Batches
from attar.progress import say

# Ridge penalty as a part of the mean variance of the features (see ridge); the same for all fits on tokens.
PENALTY = 1e-3
# Rounds of solving sublayer output and LayerNorm in turn; the error is flat after the third.
ROUNDS = 3


@torch.no_grad()
def project(
    teacher: PreTrainedModel, model: PreTrainedModel, chosen: tuple[int, ...], texts: Batches, *, seed: int = 0
) -> dict[int, Tensor]:
    """Fill a student with its teacher's projected weights, in place.

    Args:
        model: the student, freshly initialised: what the teacher cannot fill (more neurons than it has) stays as it is.
        chosen: teacher layer, from 1, for each student layer.

    Returns:
        For each student layer 0 … M the matrix W (d, D) of least squares `H_S W ≈ H_T`.
    """
    source, target = resolve(teacher), resolve(model)
    batches = sample(texts, seed=seed)
    seen = observe(source, chosen, batches, head_modules(source))
    say(f"projecting {source.shape.hidden} dimensions onto {target.shape.hidden} on {len(seen.normed)} tokens of text")
    basis = _basis(seen, target.shape.hidden)
    x = _embeddings(source, target, seen, basis)
    maps = {0: ridge(x, seen.hidden[0], penalty=PENALTY, bias=False, prior=basis.T)[0]}
    for m, n in enumerate(chosen):
        x = _Layer(source, target, m, n, seen, basis, seed).fit(x)
        if m == len(chosen) - 1 and source.anatomy.final_norm:
            norm = _module(target, "final_norm")
            x = fit_norm(norm, x, seen.hidden[n] @ basis, norm_gain(_module(source, "final_norm"), basis))
        maps[m + 1] = ridge(x, seen.hidden[n], penalty=PENALTY, bias=False, prior=basis.T)[0]
    fit_head(source, target, seen, x, maps[len(chosen)])
    return maps


def _basis(seen: Seen, size: int) -> Tensor:
    """U (D, d): leading directions of the hidden states of all mapped layers, each of the same weight."""
    width = seen.hidden[0].shape[1]
    if size >= width:
        return torch.eye(width, size)
    moments = [second_moment(h) for h in seen.hidden.values()]
    return leading_directions(sum(m / m.trace() for m in moments), size).float()  # type: ignore[arg-type]


def _embeddings(source: Bound, target: Bound, seen: Seen, basis: Tensor) -> Tensor:
    """Fill the embedding tables, their norm and any projection; return what enters the first layer, (N, d)."""
    mine, theirs = target.shape.embedding, source.shape.embedding
    lift = source.at(source.anatomy.embedding_projection) if theirs != source.shape.hidden or source.anatomy.shared else None
    inner = target.anatomy.embedding_projection if mine != target.shape.hidden or target.anatomy.shared else ""
    wanted = seen.hidden[0] @ basis
    if not inner:
        down = basis if lift is None else weight_of(lift).T @ basis
        goal = wanted
    else:
        down = torch.eye(theirs) if mine == theirs else leading_directions(second_moment(seen.normed), mine).float()
        goal = seen.normed @ down
    own_norm, norm = _module(source, "embedding_norm"), _module(target, "embedding_norm")
    same = down.shape[0] == down.shape[1] and torch.equal(down, torch.eye(len(down)))
    skip = _position_rows(source) - _position_rows(target)
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
    x = fit_norm(norm, _embedded(target, seen), goal, norm_gain(own_norm, down) if not same else weight_of(own_norm))
    if not inner:
        return x
    linear = cast(nn.Linear, target.at(inner))
    prior = down.T @ (basis if lift is None else weight_of(lift).T @ basis)
    weight, bias = ridge(x, wanted, penalty=PENALTY, prior=prior)
    set_linear(linear, weight, bias)
    return x @ weight + bias


def _position_rows(bound: Bound) -> int:
    from attar.distill.student import position_offset

    return position_offset(bound.model.config)


def _embedded(target: Bound, seen: Seen) -> Tensor:
    """Sum of the student's embeddings before the norm, (N, E)."""
    from attar.distill.observation import capture

    got = capture(target.base, seen.batches, entering={"norm": _module(target, "embedding_norm")})  # type: ignore[arg-type]
    return got["norm"][0]


class _Layer:
    """One student layer m (from 0) filled from teacher layer n (from 1)."""

    def __init__(self, source: Bound, target: Bound, m: int, n: int, seen: Seen, basis: Tensor, seed: int) -> None:
        self.source, self.target, self.m, self.n = source, target, m, n
        self.seen, self.basis = seen, basis
        self.saw: LayerSeen = seen.layers[n]
        self.pre = target.anatomy.pre_norm
        self.random = torch.Generator().manual_seed(seed + m)

    def fit(self, x: Tensor) -> Tensor:
        """Fill the layer, given the stream that enters it (N, d); return the stream that leaves it."""
        read = self._normed("attention_norm", x) if self.pre else x
        x = self._sublayer("attention_out", "attention_norm", x, self._attention(read), self.saw.attention_in, self.saw.middle)
        read = self._normed("ffn_norm", x) if self.pre else x
        return self._sublayer("ffn_out", "ffn_norm", x, self._ffn(read), self.saw.middle, self.saw.out)

    def _normed(self, part: str, x: Tensor) -> Tensor:
        """What a norm before a sublayer gives; its gain is the projected teacher's, the rest is left to what follows."""
        norm, own = self._to(part), self._from(part)
        if isinstance(norm, nn.Identity):
            return x
        gain = torch.ones(x.shape[1]) if isinstance(own, nn.Identity) else norm_gain(own, self.basis)
        cast(Tensor, norm.weight).copy_(gain)
        if norm.bias is not None:
            cast(Tensor, norm.bias).copy_(bias_of(own) @ self.basis)
        return cast(Tensor, norm(x))

    def _attention(self, read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fill query, key and value; return the heads' outputs (N, A·e), the teacher's W_o on them and its bias."""
        own, new = self.source.shape, self.target.shape
        biased = self._to("query").bias is not None
        lift, shift = ridge(read, self.saw.attention_in, penalty=PENALTY, bias=biased, prior=self.basis.T)
        q, k, v = ((lift @ w.T, shift @ w.T + b) for w, b in split(self.source, self.n - 1))
        one = torch.cat([read, torch.ones(len(read), 1)], 1) if biased else read
        metric = Metric.of(second_moment(one))
        flat = Metric.of(second_moment(read, centred=biased))
        out = weight_of(self._from("attention_out")).T @ self.basis
        picks = self._heads(out)
        e, t = new.head_dim, own.head_dim
        parts: list[tuple[Tensor, ...]] = []
        for j, head in enumerate(picks):
            rows = slice(head * t, (head + 1) * t)
            left, right = (torch.cat([w[:, rows], b[None, rows]]) if biased else w[:, rows] for w, b in (q, k))
            if self.source.anatomy.pre_norm:
                a, b = rotary_pairs(left, right, e)
            else:
                a, b = (f.float() for f in low_rank(left, right, e, left=metric, right=metric))
                scale = (e / t) ** 0.25
                a, b = a * scale, b * scale
                self._fill(a)
            c, o = (f.float() for f in low_rank(v[0][:, rows], out[rows].T, e, left=flat, skip=e * picks[:j].count(head)))
            self._fill(c)
            parts.append((a, b, c, o))
        query, key, value, prior = (torch.cat([p[i] for p in parts], 1) for i in range(4))
        size = read.shape[1]
        weights = [query[:size], key[:size], value]
        biases = [query[size:].flatten(), key[size:].flatten(), torch.zeros(value.shape[1])]
        assign(self.target, self.m, weights, biases if biased else None)
        start = torch.cat([v[1][h * t : (h + 1) * t] @ out[h * t : (h + 1) * t] for h in set(picks)]).view(-1, new.hidden).sum(0)
        start = start + bias_of(self._from("attention_out")) @ self.basis
        return context(self.target, self.m, read, self.seen.batches), prior.T, start

    def _heads(self, out: Tensor) -> list[int]:
        """The teacher's head for each student head: all in order, those that explain most, or the strongest twice."""
        own, new = self.source.shape.heads, self.target.shape.heads
        if new == own:
            return list(range(own))
        outputs = context(self.source, self.n - 1, self.saw.attention_in, self.seen.batches)
        goal = outputs @ out
        if new < own:
            centred = outputs - outputs.mean(0)
            return cast(list[int], choose(centred, goal - goal.mean(0), new, groups=self.source.shape.head_dim).tolist())
        size = self.source.shape.head_dim
        power = [float((outputs[:, h * size : (h + 1) * size] @ out[h * size : (h + 1) * size]).var(0).sum()) for h in range(own)]
        order = sorted(range(own), key=lambda h: -power[h])
        return [order[i % own] for i in range(new)]

    def _fill(self, factor: Tensor) -> None:
        """Small noise in columns that the teacher's rank does not reach: both factors at 0 would never learn."""
        empty = factor.abs().sum(0) == 0
        noise = torch.randn(factor.shape, generator=self.random) * self.target.model.config.initializer_range
        factor[:, empty] = noise[:, empty]

    def _ffn(self, read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fill the FFN's first matrix; return its activations (N, f), the teacher's W_out on them and its bias."""
        own, new = self.source.shape.ffn, self.target.shape.ffn
        first = self._to("ffn_in")
        biased = first.bias is not None
        lift, shift = ridge(read, self.saw.ffn_in, penalty=PENALTY, bias=biased, prior=self.basis.T)
        theirs = self._from("ffn_in")
        out = weight_of(self._from("ffn_out")).T @ self.basis
        start = bias_of(self._from("ffn_out")) @ self.basis
        picks = torch.arange(own)
        if new < own:
            acts = self._activate(self.saw.ffn_in @ weight_of(theirs).T + bias_of(theirs), self.source)
            mean = acts.mean(0)
            acts = acts - mean
            picks = choose(acts, acts @ out, new)
            # Neurons that go leave their mean behind.
            start = start + mean @ out - mean[picks] @ out[picks]
        filled = min(new, own)
        halves = 2 if self.source.anatomy.gated_ffn else 1
        weight, bias = cast(Tensor, first.weight), first.bias
        for half in range(halves):
            rows = slice(half * new, half * new + filled)
            matrix = weight_of(theirs)[half * own + picks]
            weight[rows] = matrix @ lift.T
            if bias is not None:
                cast(Tensor, bias)[rows] = bias_of(theirs)[half * own + picks] + matrix @ shift
        prior = torch.zeros(new, out.shape[1])
        prior[:filled] = out[picks]
        return self._activate(cast(Tensor, first(read)), self.target), prior, start

    def _activate(self, z: Tensor, bound: Bound) -> Tensor:
        config = bound.model.config
        name = next(getattr(config, key) for key in ("hidden_act", "hidden_activation", "activation") if hasattr(config, key))
        act = ACT2FN[name]
        if not bound.anatomy.gated_ffn:
            return cast(Tensor, act(z))
        value, gate = z.chunk(2, dim=-1)
        return cast(Tensor, act(value) * gate)

    def _sublayer(
        self, linear: str, norm: str, x: Tensor, known: tuple[Tensor, Tensor, Tensor], before: Tensor, after: Tensor
    ) -> Tensor:
        """Solve a sublayer's output matrix, and in a post-norm family its norm, so that the stream is the teacher's.

        Args:
            x: the student's stream before the sublayer, (N, d).
            known: what the output matrix reads (N, p), the teacher's matrix on that (p, d), and its bias (d,).
            before, after: the teacher's stream before and after the sublayer, (N, D).
        """
        features, prior, start = known
        module, goal = cast(nn.Linear, self._to(linear)), after @ self.basis
        if self.pre:
            weight, bias = ridge(features, goal - x, penalty=PENALTY, bias=module.bias is not None, prior=prior)
            set_linear(module, weight, bias)
            return x + features @ weight + bias
        layer_norm, gain = cast(nn.LayerNorm, self._to(norm)), norm_gain(self._from(norm), self.basis)
        weight, bias = prior, start + before.mean(0) @ self.basis - x.mean(0)
        solver = None
        for _ in range(ROUNDS):
            z = x + features @ weight + bias
            mean, std = z.mean(1, keepdim=True), (z.var(1, unbiased=False, keepdim=True) + layer_norm.eps).sqrt()
            scale, offset = fit_gain((z - mean) / std, goal, gain)
            wish = std * (goal - offset) / scale + mean
            solver = solver or Ridge(features, penalty=PENALTY, weights=1 / std[:, 0] ** 2)
            weight, bias = solver.fit(wish - x, prior=prior)
        set_linear(module, weight, bias)
        return fit_norm(layer_norm, x + features @ weight + bias, goal, gain)

    def _to(self, part: str) -> nn.Module:
        return _module(self.target, part, self.m)

    def _from(self, part: str) -> nn.Module:
        return _module(self.source, part, self.n - 1)


def fit_gain(x: Tensor, goal: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """Per dimension the least squares line `gain · x + bias ≈ goal`, gain drawn slightly to its prior; (N, d), (d,)."""
    mean, to = x.mean(0), goal.mean(0)
    x, goal = x - mean, goal - to
    variance = x.square().mean(0)
    ground = PENALTY * variance.mean()
    gain = ((x * goal).mean(0) + ground * prior) / (variance + ground)
    # A gain near 0 would ask the matrix before the norm for boundless outputs.
    floor = 0.05 * gain.abs().median()
    gain = torch.where(gain.abs() < floor, torch.where(prior < 0, -floor, floor), gain)
    return gain, to - mean * gain


def fit_norm(norm: nn.Module, z: Tensor, goal: Tensor, prior: Tensor) -> Tensor:
    """Set a norm's gain and bias so that it maps z (N, d) as nearly to the goal as it can; return what it gives."""
    layer_norm = cast(nn.LayerNorm, norm)
    plain = nn.functional.layer_norm(z, z.shape[1:], eps=layer_norm.eps)
    gain, bias = fit_gain(plain, goal, prior)
    if layer_norm.bias is None:
        gain = (plain * goal).sum(0) / plain.square().sum(0).clamp_min(1e-12)
    else:
        layer_norm.bias.data.copy_(bias)
    layer_norm.weight.data.copy_(gain)
    return cast(Tensor, layer_norm(z))


def norm_gain(norm: nn.Module, basis: Tensor) -> Tensor:
    """The diagonal of a norm's gain in other coordinates, diag(Uᵀ Γ U)."""
    return (basis.square() * weight_of(norm)[:, None]).sum(0)


def set_linear(module: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Set a linear layer from W (p, q) that multiplies from the right."""
    module.weight.data.copy_(weight.T)
    if module.bias is not None:
        module.bias.data.copy_(bias)


def weight_of(module: nn.Module) -> Tensor:
    return cast(Tensor, module.weight).detach().float()


def bias_of(module: nn.Module) -> Tensor:
    """The bias of a linear layer or norm, 0 where it has none."""
    if getattr(module, "bias", None) is None:
        return torch.zeros(len(weight_of(module)))
    return cast(Tensor, module.bias).detach().float()


def _module(bound: Bound, part: str, layer: int | None = None) -> nn.Module:
    return cast(nn.Module, bound.at(getattr(bound.anatomy, part), layer))
