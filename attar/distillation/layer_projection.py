"""One student layer filled from one teacher layer: attention, FFN, and the norms between them."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from attar.anatomy.resolve import Bound
from attar.distillation.activations import Activations, LayerActivations
from attar.distillation.head_outputs import assign, context, rotary_pairs, split
from attar.maths.directions import Metric, choose, low_rank, ridge, second_moment
from attar.maths.norms import solve_normed
from attar.model.weights import (
    attention_scale,
    bias_of,
    fit_norm,
    inner,
    module_at,
    norm_gain,
    rotary_size,
    set_inner,
    set_linear,
    weight_of,
)

# Ridge penalties as parts of the mean variance of the features (see Ridge). What a layer reads is mapped from at most d
# features; its output matrices are fitted on up to 4·d of them, which overfits some 10,000 tokens unless it is held to
# the teacher's own matrix.
READ_PENALTY = 1e-3
OUT_PENALTY = 0.1


class ProjectedLayer:
    """One student layer m (from 0) filled from teacher layer n (from 1)."""

    def __init__(
        self, source: Bound, target: Bound, m: int, n: int, seen: Activations, basis: Tensor, seed: int
    ) -> None:
        self.source, self.target, self.m, self.n = source, target, m, n
        self.seen, self.basis = seen, basis
        self.saw: LayerActivations = seen.layers[n]
        self.pre = target.anatomy.pre_norm
        self.random = torch.Generator().manual_seed(seed + m)

    def fit(self, x: Tensor) -> Tensor:
        """Fill the layer, given the stream that enters it (N, d); return the stream that leaves it."""
        read = self._normed("attention_norm", x) if self.pre else x
        heads = self._attention(read)
        if self.target.anatomy.parallel:
            return self._together(x, heads, self._ffn(self._normed("ffn_norm", x)))
        saw = self.saw
        x = self._sublayer("attention_out", "attention_norm", x, heads, saw.attention_in, saw.middle)
        read = self._normed("ffn_norm", x) if self.pre else x
        return self._sublayer("ffn_out", "ffn_norm", x, self._ffn(read), saw.middle, saw.out)

    def _normed(self, part: str, x: Tensor) -> Tensor:
        """What a norm before a sublayer gives; its gain is the projected teacher's, what follows does the rest."""
        norm, own = self._to(part), self._from(part)
        if isinstance(norm, nn.Identity):
            return x
        if getattr(norm, "weight", None) is None:
            return cast(Tensor, norm(x))
        gain = torch.ones(x.shape[1]) if isinstance(own, nn.Identity) else norm_gain(own, self.basis)
        cast(Tensor, norm.weight).copy_(gain)
        if getattr(norm, "bias", None) is not None:
            cast(Tensor, norm.bias).copy_(bias_of(own) @ self.basis)
        return cast(Tensor, norm(x))

    def _attention(self, read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fill query, key and value; return the heads' outputs (N, A·e), the teacher's W_o on them and its bias."""
        own, new = self.source.shape, self.target.shape
        biased = self._to("query").bias is not None
        lift, shift = ridge(
            read, self.saw.attention_in, penalty=READ_PENALTY, bias=biased, prior=self.basis.T
        )
        q, k, v = ((lift @ w.T, shift @ w.T + b) for w, b in split(self.source, self.n - 1))
        # The values' biases pass through attention unchanged, since its weights add up to 1: the bias of the output
        # matrix has them, but in Qwen2, where it has none.
        own_bias = biased and self._to("attention_out").bias is None
        queries, keys = (torch.cat([w, b[None]]) if biased else w for w, b in (q, k))
        values = torch.cat([v[0], v[1][None]]) if own_bias else v[0]
        metric = Metric.of(second_moment(torch.cat([read, torch.ones(len(read), 1)], 1) if biased else read))
        flat = metric if own_bias else Metric.of(second_moment(read, centred=biased))
        out = weight_of(self._from("attention_out")).T @ self.basis
        picks = self._heads(out)
        e, t, group = new.head_dim, own.head_dim, own.group
        scale = (e / t) ** 0.25 * attention_scale(self.source.model.config, self.m, self.n) ** 0.5
        parts: list[tuple[Tensor, ...]] = []
        for j, unit in enumerate(picks):
            one, all_of = slice(unit * t, (unit + 1) * t), slice(unit * group * t, (unit + 1) * group * t)
            a, b = (f.float() * scale for f in self._scores(queries[:, all_of], keys[:, one], metric))
            self._fill(a)
            reads, skip = (
                out[all_of].view(group, t, -1).transpose(1, 2).flatten(0, 1),
                e * picks[:j].count(unit),
            )
            c, o = (f.float() for f in low_rank(values[:, one], reads, e, left=flat, skip=skip))
            self._fill(c)
            parts.append((a, b, c, o.view(group, -1, e).transpose(0, 1).flatten(1)))
        filled = [torch.cat([p[i] for p in parts], 1) for i in range(4)]
        self._assign(filled[:3], read.shape[1], biased)
        start = torch.zeros(new.hidden)
        if not self.pre:
            start = sum((v[1][h * t : (h + 1) * t] @ out[h * t : (h + 1) * t] for h in set(picks)), start)
            start = start + bias_of(self._from("attention_out")) @ self.basis
        return context(self.target, self.m, read, self.seen.batches), filled[3].T, start

    def _assign(self, filled: list[Tensor], size: int, biased: bool) -> None:
        """Set query, key and value from matrices of `size` rows, under which there may be one with their biases."""
        biases = [w[size:].flatten() if len(w) > size else torch.zeros(w.shape[1]) for w in filled]
        assign(self.target, self.m, [w[:size] for w in filled], biases if biased else None)
        for part in ("query_norm", "key_norm"):
            if getattr(self.source.anatomy, part):
                self._to(part).load_state_dict(self._from(part).state_dict())

    def _scores(self, left: Tensor, right: Tensor, metric: Metric) -> tuple[Tensor, Tensor]:
        """Query and key columns of a student's head (of a group of heads: one key) from its teacher's."""
        (e, mine), (t, theirs) = (
            (bound.shape.head_dim, rotary_size(bound.anatomy, bound.model.config, bound.shape.head_dim))
            for bound in (self.target, self.source)
        )
        if theirs == t and mine == e:
            return rotary_pairs(left, right, e)
        # Dimensions that no position turns may be mixed freely.
        a, b = low_rank(left[:, theirs:], right[:, theirs:], e - mine, left=metric, right=metric)
        if not theirs:
            return a, b
        first = rotary_pairs(left[:, :theirs], right[:, :theirs], mine)
        return torch.cat([first[0], a.float()], 1), torch.cat([first[1], b.float()], 1)

    def _heads(self, out: Tensor) -> list[int]:
        """The teacher's head (of those that share one: group) for each of the student's.

        All in order, those that explain most, or the strongest twice.
        """
        own, new = self.source.shape.kv_heads, self.target.shape.kv_heads
        if new == own:
            return list(range(own))
        outputs = context(self.source, self.n - 1, self.saw.attention_in, self.seen.batches)
        goal = outputs @ out
        size = self.source.shape.head_dim * self.source.shape.group
        if new < own:
            centred = outputs - outputs.mean(0)
            return cast(list[int], choose(centred, goal - goal.mean(0), new, groups=size).tolist())
        power = [
            float((outputs[:, h * size : (h + 1) * size] @ out[h * size : (h + 1) * size]).var(0).sum())
            for h in range(own)
        ]
        order = sorted(range(own), key=lambda h: -power[h])
        return [order[i % own] for i in range(new)]

    def _fill(self, factor: Tensor) -> None:
        """Small noise in columns that the teacher's rank does not reach: both factors at 0 would never learn."""
        empty = factor.abs().sum(0) == 0
        config = self.target.model.config
        spread = getattr(config, "initializer_range", None) or config.init_std
        noise = torch.randn(factor.shape, generator=self.random) * spread
        factor[:, empty] = noise[:, empty]

    def _ffn(self, read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fill the FFN's first matrix; return its activations (N, f), the teacher's W_out on them and its bias."""
        own, new = self.source.shape.ffn, self.target.shape.ffn
        biased = self._to("ffn_in").bias is not None
        lift, shift = ridge(read, self.saw.ffn_in, penalty=READ_PENALTY, bias=biased, prior=self.basis.T)
        theirs, their_bias = inner(self.source, self.n - 1)
        out = weight_of(self._from("ffn_out")).T @ self.basis
        start = bias_of(self._from("ffn_out")) @ self.basis
        picks = torch.arange(own)
        if new < own:
            acts = self._activate(self.saw.ffn_in @ theirs.T + their_bias, self.source)
            mean = acts.mean(0)
            acts = acts - mean
            picks = choose(acts, acts @ out, new)
            # Neurons that go leave their mean behind.
            start = start + mean @ out - mean[picks] @ out[picks]
        filled = min(new, own)
        weight, bias = inner(self.target, self.m)
        for half in range(len(weight) // new):
            rows = slice(half * new, half * new + filled)
            matrix = theirs[half * own + picks]
            weight[rows] = matrix @ lift.T
            bias[rows] = their_bias[half * own + picks] + matrix @ shift
        set_inner(self.target, self.m, weight, bias)
        prior = torch.zeros(new, out.shape[1])
        prior[:filled] = out[picks]
        return self._activate(read @ weight.T + bias, self.target), prior, start

    def _activate(self, z: Tensor, bound: Bound) -> Tensor:
        config = bound.model.config
        name = next(
            getattr(config, key)
            for key in ("hidden_act", "hidden_activation", "activation", "activation_function")
            if hasattr(config, key)
        )
        act = ACT2FN[name]
        if not (bound.anatomy.gated_ffn or bound.anatomy.ffn_up):
            return cast(Tensor, act(z))
        value, gate = z.chunk(2, dim=-1)
        return cast(Tensor, act(value) * gate)

    def _sublayer(
        self,
        linear: str,
        norm: str,
        x: Tensor,
        known: tuple[Tensor, Tensor, Tensor],
        before: Tensor,
        after: Tensor,
    ) -> Tensor:
        """Solve a sublayer's output matrix, and in a post-norm family its norm, so that the stream is the teacher's.

        Args:
            x: the student's stream before the sublayer, (N, d).
            known: what the output matrix reads (N, p), the teacher's matrix on that (p, d), and its bias (d,).
            before, after: the teacher's stream before and after the sublayer, (N, D).
        """
        features, prior, start = known
        module, goal = self._to(linear), after @ self.basis
        if self.pre:
            weight, bias = ridge(
                features, goal - x, penalty=OUT_PENALTY, bias=module.bias is not None, prior=prior
            )
            set_linear(module, weight, bias)
            return x + features @ weight + bias
        layer_norm, gain = cast(nn.LayerNorm, self._to(norm)), norm_gain(self._from(norm), self.basis)
        bias = start + before.mean(0) @ self.basis - x.mean(0)
        weight, bias = solve_normed(
            features, x, goal, prior, bias, gain=gain, eps=layer_norm.eps, penalty=OUT_PENALTY
        )
        set_linear(module, weight, bias)
        return fit_norm(layer_norm, x + features @ weight + bias, goal, gain)

    def _together(
        self, x: Tensor, heads: tuple[Tensor, Tensor, Tensor], ffn: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Solve both output matrices of a layer whose attention and FFN read and add to the same stream."""
        features, prior = (torch.cat([heads[i], ffn[i]], 1 - i) for i in (0, 1))
        goal = self.saw.out @ self.basis - x
        weight, bias = ridge(features, goal, penalty=OUT_PENALTY, prior=prior)
        count = heads[0].shape[1]
        set_linear(self._to("attention_out"), weight[:count], torch.zeros_like(bias))
        set_linear(self._to("ffn_out"), weight[count:], bias)
        return x + features @ weight + bias

    def _to(self, part: str) -> nn.Module:
        return module_at(self.target, part, self.m)

    def _from(self, part: str) -> nn.Module:
        return module_at(self.source, part, self.n - 1)
