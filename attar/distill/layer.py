"""One student layer filled from one teacher layer: attention, FFN, and the norms between them."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from attar.anatomy.resolve import Bound
from attar.distill.attention import assign, context, rotary_pairs, split
from attar.distill.observation import LayerSeen, Seen
from attar.distill.weights import bias_of, fit_norm, module_at, norm_gain, set_linear, weight_of
from attar.maths.directions import Metric, choose, low_rank, ridge, second_moment
from attar.maths.norms import solve_normed

# Ridge penalties as parts of the mean variance of the features (see Ridge). What a layer reads is mapped from at most d
# features; its output matrices are fitted on up to 4·d of them, which overfits some 10,000 tokens unless it is held to
# the teacher's own matrix.
READ_PENALTY = 1e-3
OUT_PENALTY = 0.1


class ProjectedLayer:
    """One student layer m (from 0) filled from teacher layer n (from 1)."""

    def __init__(
        self, source: Bound, target: Bound, m: int, n: int, seen: Seen, basis: Tensor, seed: int
    ) -> None:
        self.source, self.target, self.m, self.n = source, target, m, n
        self.seen, self.basis = seen, basis
        self.saw: LayerSeen = seen.layers[n]
        self.pre = target.anatomy.pre_norm
        self.random = torch.Generator().manual_seed(seed + m)

    def fit(self, x: Tensor) -> Tensor:
        """Fill the layer, given the stream that enters it (N, d); return the stream that leaves it."""
        read = self._normed("attention_norm", x) if self.pre else x
        x = self._sublayer(
            "attention_out",
            "attention_norm",
            x,
            self._attention(read),
            self.saw.attention_in,
            self.saw.middle,
        )
        read = self._normed("ffn_norm", x) if self.pre else x
        return self._sublayer("ffn_out", "ffn_norm", x, self._ffn(read), self.saw.middle, self.saw.out)

    def _normed(self, part: str, x: Tensor) -> Tensor:
        """What a norm before a sublayer gives; its gain is the projected teacher's, what follows does the rest."""
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
        lift, shift = ridge(
            read, self.saw.attention_in, penalty=READ_PENALTY, bias=biased, prior=self.basis.T
        )
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
            left, right = (
                torch.cat([w[:, rows], b[None, rows]]) if biased else w[:, rows] for w, b in (q, k)
            )
            if self.source.anatomy.pre_norm:
                a, b = rotary_pairs(left, right, e)
                self._fill(a)
            else:
                a, b = (f.float() for f in low_rank(left, right, e, left=metric, right=metric))
                scale = (e / t) ** 0.25
                a, b = a * scale, b * scale
                self._fill(a)
            c, o = (
                f.float()
                for f in low_rank(v[0][:, rows], out[rows].T, e, left=flat, skip=e * picks[:j].count(head))
            )
            self._fill(c)
            parts.append((a, b, c, o))
        query, key, value, prior = (torch.cat([p[i] for p in parts], 1) for i in range(4))
        size = read.shape[1]
        weights = [query[:size], key[:size], value]
        biases = [query[size:].flatten(), key[size:].flatten(), torch.zeros(value.shape[1])]
        assign(self.target, self.m, weights, biases if biased else None)
        # The values' biases pass through attention unchanged, since its weights add up to 1.
        start = sum(
            (v[1][h * t : (h + 1) * t] @ out[h * t : (h + 1) * t] for h in set(picks)),
            torch.zeros(new.hidden),
        )
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
            return cast(
                list[int],
                choose(centred, goal - goal.mean(0), new, groups=self.source.shape.head_dim).tolist(),
            )
        size = self.source.shape.head_dim
        power = [
            float((outputs[:, h * size : (h + 1) * size] @ out[h * size : (h + 1) * size]).var(0).sum())
            for h in range(own)
        ]
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
        lift, shift = ridge(read, self.saw.ffn_in, penalty=READ_PENALTY, bias=biased, prior=self.basis.T)
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
        name = next(
            getattr(config, key)
            for key in ("hidden_act", "hidden_activation", "activation")
            if hasattr(config, key)
        )
        act = ACT2FN[name]
        if not bound.anatomy.gated_ffn:
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
        module, goal = cast(nn.Linear, self._to(linear)), after @ self.basis
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

    def _to(self, part: str) -> nn.Module:
        return module_at(self.target, part, self.m)

    def _from(self, part: str) -> nn.Module:
        return module_at(self.source, part, self.n - 1)
