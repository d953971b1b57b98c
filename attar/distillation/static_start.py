"""Start a student of an embedding model as its static student: token vectors, and attention that weighs them.

A static model is a weighted mean of token vectors. One layer of attention computes that mean whatever the queries are:
a key that is the logarithm of a token's weight makes softmax weigh tokens as the static model does, and values that
pass the token vectors on make the head's output their mean. LayerNorm would take the length of a vector away, so it
stands in a dimension of its own. What is left (the FFNs, further layers, other directions of queries and keys) starts
small and at random, and learns what a bag of tokens cannot say.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from attar.anatomy.resolve import Bound, resolve
from attar.errors import ModelError
from attar.model.checkpoint import Loaded
from attar.model.embedding import SentenceEncoder
from attar.model.weights import module_at

# How the static student learns.
EPOCHS, RATE, BATCH_SIZE = 5, 1e-2, 256
# Size of a number of a token vector: with Adam, whose steps are of one size, it says how fast they learn; and of a
# position's, which are noise to a mean.
SCALE, POSITIONS = 0.05, 0.002
# How many times the mean is added to what a token's own place holds.
MEAN = 3.0
# Logarithms of weights, in standard deviations, are cut here.
EXTREME = 4.0
# What is drawn beside that, and how much of their random start FFNs add.
NOISE, INNER = 0.02, 0.5


def check(model: SentenceEncoder) -> None:
    """Refuse a student that has no place for a static start.

    Raises:
        ModelError: its layers norm what they read, turn queries by position, or it embeds without a norm.
    """
    anatomy = resolve(model.encoder).anatomy
    if anatomy.pre_norm or anatomy.fused_qkv or anatomy.causal or not anatomy.embedding_norm:
        raise ModelError(
            expected="a student with BERT's layers (BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT), for init='static'",
            found=anatomy.name,
            fix="init='project' (--init project)",
        )


def dimensions(teacher: SentenceEncoder, *, hidden: int | None, embedding: int | None, **_: Any) -> int:
    """How many numbers of a token vector a student of these sizes holds beside its weight."""
    own = resolve(teacher).shape
    sizes = (embedding or own.embedding, hidden or own.hidden, teacher.width + 1)
    return min(sizes) - 1


def aligned(made: Loaded, tokenizer: Any, size: int) -> Tensor:
    """(V, n) vectors of a static model's tokens in the order of its teacher's; 0 for those of no text or of every one.

    Args:
        made: the static model.
        tokenizer: of the teacher.
        size: V, rows of the teacher's embedding.
    """
    vectors = cast(Tensor, made.model.get_input_embeddings().weight).detach().float()
    places, special = made.tokenizer.get_vocab(), set(tokenizer.all_special_ids)
    own = {token: row for token, row in tokenizer.get_vocab().items() if row not in special}
    pairs = [(row, places[token]) for token, row in own.items() if token in places]
    rows, found = torch.tensor(pairs).T
    table = vectors.new_zeros(size, vectors.shape[1])
    table[rows] = vectors[found]
    return table


@torch.no_grad()
def fill(student: SentenceEncoder, vectors: Tensor, *, seed: int = 0) -> None:
    """Fill a student that was initialised at random, in place.

    Args:
        vectors: (V, n) token vectors, their lengths the weights, 0 for tokens that count for nothing; n below the
            embedding's size and the hidden size.
        seed: of what is drawn.

    Raises:
        ModelError: a student that has no place for a static start.
    """
    check(student)
    bound, generator = resolve(student.encoder), torch.Generator().manual_seed(seed)
    shape = bound.shape
    spread = _fill_embeddings(bound, vectors, generator)
    size, heads = shape.head_dim, shape.heads
    for layer in range(shape.layers):
        cast(nn.Linear, module_at(bound, "ffn_out", layer)).weight.mul_(INNER)
    query, key, value, out = (
        cast(nn.Linear, module_at(bound, part, 0)) for part in ("query", "key", "value", "attention_out")
    )
    for linear in (query, key):
        linear.weight.normal_(0, NOISE, generator=generator)
    query.bias[::size] = size**0.5
    key.weight[::size] = 0
    key.weight[::size, 0] = spread
    value.weight.copy_(torch.eye(heads * size, shape.hidden))
    out.weight.copy_(MEAN * torch.eye(shape.hidden, heads * size))


def _fill_embeddings(bound: Bound, vectors: Tensor, generator: torch.Generator) -> float:
    """Write token vectors, the logarithm of their weight first; return the spread of the logarithms."""
    n = vectors.shape[1]
    weight = vectors.norm(dim=1, keepdim=True)
    known = weight[:, 0] > 0
    logs = weight.clamp(min=1e-6).log()
    mean, spread = float(logs[known].mean()), float(logs[known].std().clamp(min=1e-3))
    rank = ((logs - mean) / spread).clamp(-EXTREME, EXTREME)  # the least of tokens without a vector
    drawn = torch.randn(vectors.shape, generator=generator)
    directions = torch.where(known[:, None], vectors, drawn)
    directions = directions / directions.norm(dim=1, keepdim=True) * n**0.5
    table = cast(nn.Embedding, module_at(bound, "word_embeddings"))
    table.weight.zero_()
    table.weight[:, : n + 1] = SCALE * torch.cat([rank, directions], 1)
    for part, size in (("position_embeddings", POSITIONS), ("type_embeddings", 0.0)):
        if (other := bound.at(getattr(bound.anatomy, part))) is not None:
            cast(Any, other).weight.normal_(0, size, generator=generator)
    if (lift := bound.at(bound.anatomy.embedding_projection)) is not None:
        matrix = cast(nn.Linear, lift).weight
        matrix.normal_(0, NOISE, generator=generator).add_(torch.eye(*matrix.shape))
    return spread
