"""Linear algebra of projecting a network onto fewer dimensions: leading directions, weighted low rank, ridge.

Everything is solved in float64 and handed back in the type it came in: Gram matrices of hidden states have
condition numbers that float32 does not survive.
"""

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

# Eigenvalues below this part of the largest are rounding: dividing by their root would blow noise up.
RANK_TOLERANCE = 1e-9


def second_moment(x: Tensor, *, weights: Tensor | None = None, centred: bool = False) -> Tensor:
    """Second moment of rows, `E[x xᵀ]`, (N, D) to (D, D).

    Args:
        x: (N, D).
        weights: (N,) not negative; equal where None.
        centred: subtract the mean first, which gives the covariance.
    """
    x = x.double()
    w = torch.ones(len(x), dtype=x.dtype) if weights is None else weights.double()
    w = w / w.sum()
    if centred:
        x = x - w @ x
    return (x * w[:, None]).T @ x


def leading_directions(moment: Tensor, count: int) -> Tensor:
    """Orthonormal eigenvectors of a symmetric matrix with the largest eigenvalues: (D, D) to (D, d), best first.

    Signs are fixed (the entry of largest size is positive), so the same matrix gives the same directions.
    """
    vectors = torch.linalg.eigh(moment.double())[1].flip(1)[:, :count]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    found: Tensor = vectors * largest.sign()
    return found


def nearest_orthonormal(x: Tensor) -> Tensor:
    """The matrix of orthonormal columns that is nearest to one of full rank (D, d): its polar factor."""
    left, _, right = torch.linalg.svd(x.double(), full_matrices=False)
    found: Tensor = left @ right
    return found.to(x.dtype)


def explained(moment: Tensor, directions: Tensor) -> float:
    """Share of a second moment (D, D) inside the span of orthonormal directions (D, d): 0 to 1."""
    inside = (directions.double().T @ moment.double() @ directions.double()).trace()
    return float(inside / moment.double().trace())


@dataclass(frozen=True)
class Metric:
    """Symmetric square root of a second moment, and the inverse of that root, (p, p) each."""

    root: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, moment: Tensor) -> "Metric":
        """The metric of a second moment (p, p)."""
        values, vectors = torch.linalg.eigh(moment.double())
        values = values.clamp_min(values.max() * RANK_TOLERANCE)
        return cls(vectors * values.sqrt() @ vectors.T, vectors / values.sqrt() @ vectors.T)


def low_rank(
    p: Tensor, q: Tensor, rank: int, *, left: Metric, right: Metric | None = None, skip: int = 0
) -> tuple[Tensor, Tensor]:
    """Factors of given rank of the matrix `M = P Qᵀ`, nearest to it in the metric of the data.

    Minimises `E |lᵀ (M - A Bᵀ) r|²` over independent l and r with the given second moments (Eckart-Young after
    whitening). With `right` None it minimises `E ‖(M - A Bᵀ)ᵀ l‖²`: M as a linear map of l.

    Args:
        p: (m, k).
        q: (n, k).
        rank: columns of the factors; those above the rank of M are zero.
        left: metric of l, (m, m).
        right: metric of r, (n, n).
        skip: leave out that many leading components, and give the `rank` that follow them.

    Returns:
        A (m, rank) and B (n, rank), singular values shared evenly between them.
    """
    basis_p, core_p = torch.linalg.qr(left.root @ p.double())
    basis_q, core_q = torch.linalg.qr(q.double() if right is None else right.root @ q.double())
    u, s, vt = torch.linalg.svd(core_p @ core_q.T)
    keep = slice(skip, skip + rank)
    a = left.inverse @ (basis_p @ u[:, keep] * s[keep].sqrt())
    b = basis_q @ vt[keep].T * s[keep].sqrt()
    if right is not None:
        b = right.inverse @ b
    lacking = (0, rank - a.shape[1])
    return F.pad(a, lacking), F.pad(b, lacking)


class Ridge:
    """Least squares `x W + b ≈ y` from the same x to any y, drawn towards a prior.

    Minimises `Σ wᵢ‖xᵢW + b - yᵢ‖² + λ‖W - W₀‖²`; a prior W₀ that fits already comes back unchanged.

    Args:
        x: (N, p).
        penalty: λ as a part of the mean diagonal of the Gram matrix of x, so it has no unit.
        bias: fit b as well (it is not penalised); else b is 0.
        weights: (N,) of the rows; equal where None.
    """

    def __init__(
        self, x: Tensor, *, penalty: float, bias: bool = True, weights: Tensor | None = None
    ) -> None:
        w = torch.ones(len(x), dtype=x.dtype) if weights is None else weights.to(x.dtype)
        self.weights, self.bias = w / w.sum(), bias
        self.mean = self.weights @ x if bias else torch.zeros_like(x[0])
        self.x = x - self.mean
        self.weighted = (self.x * self.weights[:, None]).T
        gram = (self.weighted @ self.x).double()
        gram.diagonal().add_(max(penalty * gram.diagonal().mean().item(), torch.finfo(torch.float64).tiny))
        self.factor = torch.linalg.cholesky(gram)

    def fit(self, y: Tensor, *, prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """W (p, q) and b (q,) for y (N, q), prior W₀ (p, q) or 0, in the type of x."""
        mean = self.weights @ y if self.bias else torch.zeros_like(y[0])
        start = (
            torch.zeros(self.x.shape[1], y.shape[1], dtype=y.dtype) if prior is None else prior.to(y.dtype)
        )
        cross = (self.weighted @ (y - mean - self.x @ start)).double()
        found = start + torch.cholesky_solve(cross, self.factor).to(y.dtype)
        return found, mean - self.mean @ found


def ridge(
    x: Tensor, y: Tensor, *, penalty: float, bias: bool = True, prior: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`Ridge` for one target: W (p, q) and b (q,) of `x W + b ≈ y`."""
    return Ridge(x, penalty=penalty, bias=bias).fit(y, prior=prior)


def principal(embeddings: Tensor | NDArray[Any], width: int) -> Tensor:
    """(E, n), the directions that keep most of the dot products of unit embeddings (N, E).

    Not centred: a mean that is taken away changes cosines, and the best approximation of a Gram matrix of rank n is by
    its leading eigenvectors (Eckart and Young 1936).
    """
    unit = F.normalize(torch.as_tensor(embeddings).float(), dim=-1)
    return leading_directions(second_moment(unit), width).float()


def choose(features: Tensor, target: Tensor, count: int, *, groups: int = 1, rounds: int = 48) -> Tensor:
    """Greedy choice of the features that together explain a target best (orthogonal matching pursuit).

    Args:
        features: (N, p); centre them where a bias will be fitted.
        target: (N, q).
        count: how many groups to take.
        groups: features in one group, side by side: they are taken together (the dimensions of a head).
        rounds: about how many groups are taken one by one, each after what the ones before it explain is taken out;
            where `count` is larger, several are taken at a time.

    Returns:
        (count,) group numbers, in rising order.
    """
    gram = (features.T @ features).double()
    cross = (features.T @ target).double()
    # A thousandth of ridge keeps features that are copies of others from dividing by nothing.
    gram.diagonal().add_(1e-3 * gram.diagonal().mean().clamp_min(1e-30))
    total = len(gram) // groups
    if count >= total:
        return torch.arange(total)
    index = torch.arange(len(gram)).view(total, groups)
    blocks = gram[index[:, :, None], index[:, None, :]]
    # Rows of a pivoted block Cholesky factor: far cheaper than taking each choice out of the whole Gram matrix.
    done = gram.new_zeros(0, len(gram))
    taken: list[int] = []
    while len(taken) < count:
        part = cross.view(total, groups, -1)
        gain = (torch.linalg.solve(blocks, part) * part).sum((1, 2))
        gain[taken] = -1.0
        best = gain.topk(min(-(-count // rounds), count - len(taken))).indices
        taken += best.tolist()
        mine = index[best].flatten()
        rest = gram[mine] - done[:, mine].T @ done
        factor = torch.linalg.cholesky(rest[:, mine])
        new = torch.linalg.solve_triangular(factor, rest, upper=False)
        cross = cross - new.T @ torch.linalg.solve_triangular(factor, cross[mine], upper=False)
        spread = new.view(-1, total, groups).transpose(0, 1)
        blocks = blocks - spread.transpose(1, 2) @ spread
        # What is chosen has no variance left; a floor keeps its block invertible.
        blocks.diagonal(dim1=1, dim2=2).clamp_min_(1e-9 * float(gram.diagonal().mean()))
        done = torch.cat([done, new])
    return torch.tensor(sorted(taken))
