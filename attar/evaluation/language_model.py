"""What a language model knows: of hidden or next tokens in batches, and of whole documents by a sliding window."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from attar.data.blocks import CausalLanguage, Tokens, tokens_of
from attar.data.language_modeling import TextBatches, causal_head
from attar.data.masking import IGNORED, MaskedLanguage
from attar.errors import DataError
from attar.maths.chunks import LOGITS, slices
from attar.maths.statistics import Interval, too_few
from attar.model.lm_head import last_hidden, output
from attar.model.onnx import OnnxModel
from attar.progress import track

Array = NDArray[Any]
LanguageModel: TypeAlias = PreTrainedModel | OnnxModel
# The figure that a language model is judged by, of masked and of causal ones.
MAIN = {False: "masked_accuracy", True: "token_accuracy"}
LOSS = {False: "mlm_loss", True: "clm_loss"}


@torch.no_grad()
def measure(model: LanguageModel, batches: TextBatches) -> dict[str, float]:
    """What a model knows of the tokens of the first epoch; of an exported one, what a masked model knows.

    Returns:
        A loss (a mean over tokens, in nats), its exponential, and the share of the tokens that it finds the likeliest:
        `mlm_loss`, `pseudo_perplexity`, `masked_accuracy` (and `nsp_accuracy` of pairs) of a masked model, `clm_loss`,
        `perplexity`, `token_accuracy` of a causal one.
    """
    causal = isinstance(model, PreTrainedModel) and causal_head(model)
    loss, right, tokens, follow, pairs = 0.0, 0, 0, 0, 0
    with _still(model) as device:
        for batch in track(batches.epoch(0), "evaluate", len(batches)):
            there, follows = batch.to(device), None
            if isinstance(model, OnnxModel):
                assert there.labels is not None
                asked = there.labels != IGNORED
                logits, wanted = torch.from_numpy(model(there.inputs))[asked], there.labels[asked]
            elif causal:
                each, hit = _predicted(model, *CausalLanguage(model).predicted(there))
                loss, right, tokens = loss + float(each.sum()), right + int(hit.sum()), tokens + len(each)
                continue
            else:
                logits, wanted, follows = MaskedLanguage(model).predictions(there)
            loss += F.cross_entropy(logits.float(), wanted, reduction="sum").item()
            right += int((logits.argmax(-1) == wanted).sum())
            tokens += len(wanted)
            following = getattr(there, "following", None)
            if following is not None and follows is not None:
                follow += int((follows.argmax(-1) == following).sum())
                pairs += len(following)
    mean = loss / max(1, tokens)
    perplexity = "perplexity" if causal else "pseudo_perplexity"
    found = {LOSS[causal]: mean, perplexity: _exp(mean), MAIN[causal]: right / max(1, tokens)}
    return found | ({"nsp_accuracy": follow / pairs} if pairs else {})


def pseudo_bits_per_byte(loss: float, texts: Sequence[str], tokenizer: Any) -> float:
    """Bits that a masked model needs for a byte of text, which compare across tokenizers better than its loss does.

    The loss of a masked token in nats, times the tokens of a byte. "Pseudo" since every token is predicted from both
    sides (pseudo-likelihood, 1910.14659), and several are masked at once: it bounds nothing.

    Args:
        loss: `mlm_loss` of `measure`.
        texts: in full; what of them was cut off counts as if its tokens were as hard as the others.
    """
    rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    tokens, letters = sum(map(len, rows)), sum(len(text.encode()) for text in texts)
    return loss / math.log(2) * tokens / letters


@contextlib.contextmanager
def _still(model: LanguageModel) -> Iterator[torch.device]:
    """A model in evaluation mode for the time, and where it is."""
    if isinstance(model, OnnxModel):
        yield torch.device("cpu")
        return
    training = model.training
    model.eval()
    try:
        yield next(model.parameters()).device
    finally:
        model.train(training)


def _states(model: LanguageModel, ids: Tensor, lengths: Tensor) -> Tensor:
    """What `_predicted` reads of rows padded on the right: last hidden states; logits of a graph."""
    places = torch.arange(ids.shape[1], device=ids.device)
    if isinstance(model, OnnxModel):
        mask = places < lengths[:, None]
        return torch.from_numpy(model({"input_ids": ids, "attention_mask": mask}))
    return last_hidden(model, {"input_ids": ids, "position_ids": places.expand_as(ids)})


def _predicted(model: LanguageModel, states: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Loss in nats and whether it is the likeliest, of each token, (N,) both."""
    losses, hits = [], []
    weight, bias = (None, None) if isinstance(model, OnnxModel) else output(model)
    vocabulary = states.shape[-1] if weight is None else len(weight)
    for part in slices(len(states), max(1, LOGITS // vocabulary)):
        logits = (states[part] if weight is None else F.linear(states[part], weight, bias)).float()
        losses.append(F.cross_entropy(logits, wanted[part], reduction="none"))
        hits.append(logits.argmax(-1) == wanted[part])
    if not losses:
        return states.new_zeros(0), wanted.new_zeros(0)
    return torch.cat(losses), torch.cat(hits)


@dataclass(frozen=True, eq=False)
class DocumentLoss:
    """How surprised a causal model is by texts, window by window.

    Attributes:
        nats, tokens, hits: (W,) of the predicted tokens of each window: their loss, how many, how many were likeliest.
        document: (W,) the number of the text that a window is in.
        bytes, words: of all texts, in UTF-8 and parted by blanks.
    """

    nats: Array
    tokens: Array
    hits: Array
    document: Array
    bytes: int
    words: int

    @property
    def metrics(self) -> dict[str, float]:
        """`perplexity` (of a token), `bits_per_byte` and `word_perplexity`, which compare across tokenizers."""
        total, tokens = float(self.nats.sum()), int(self.tokens.sum())
        return {
            "perplexity": _exp(total / tokens),
            "bits_per_byte": total / math.log(2) / self.bytes,
            "word_perplexity": _exp(total / max(1, self.words)),
            "token_accuracy": float(self.hits.sum()) / tokens,
        }


@torch.no_grad()
def sliding_window_loss(
    model: LanguageModel,
    texts: Iterable[str],
    tokenizer: Any,
    *,
    max_length: int = 1024,
    stride: int | None = None,
    batch_size: int = 8,
) -> DocumentLoss:
    """Read documents through a window that slides: every token is predicted once, after as many as fit before it.

    Args:
        texts: documents.
        max_length: tokens of the window.
        stride: tokens that it moves; at least max_length - stride stand before each predicted token but the first ones.
            Half of the window where None.

    Raises:
        DataError: no text.
    """
    stride = max_length // 2 if stride is None else stride
    if not 0 < stride <= max_length:
        raise DataError(
            expected=f"a stride from 1 to the window's {max_length}",
            found=str(stride),
            fix="take half of the window",
        )
    documents = [text for text in texts if text.strip()]
    tokens = tokens_of(documents, tokenizer, end=False)
    windows = _windows(tokens, max_length, stride)
    if isinstance(model, OnnxModel):
        batch_size = whole_logits(batch_size, max_length, tokenizer)
    with _still(model) as device:
        found = [
            row
            for part in track(list(slices(len(windows), batch_size)), "read")
            for row in _read(model, tokens.ids, windows[part], device)
        ]
    nats, hits = (np.array(column, dtype=np.float64) for column in zip(*found, strict=True))
    predicted = np.array([last - first for _, first, last in windows])
    letters, words = (
        sum(len(text.encode()) for text in documents),
        sum(len(text.split()) for text in documents),
    )
    document = np.searchsorted(tokens.begins, [first for _, first, _ in windows], side="right") - 1
    return DocumentLoss(nats, predicted, hits, document, letters, words)


def whole_logits(batch_size: int, length: int, tokenizer: Any) -> int:
    """Rows of a batch of which all logits are held at once, as an exported model gives them."""
    return max(1, min(batch_size, LOGITS // (length * len(tokenizer))))


def ratio(student: DocumentLoss, teacher: DocumentLoss, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """95% interval of the student's perplexity over the teacher's, over resampled windows of the same texts."""
    value = math.exp((student.nats - teacher.nats).sum() / teacher.tokens.sum())
    if missing := too_few(len(teacher.nats), "windows of text"):
        return Interval.without(value, missing)
    generator = np.random.default_rng(seed)
    rows = generator.integers(len(teacher.nats), size=(resamples, len(teacher.nats)))
    apart = student.nats - teacher.nats
    low, high = np.quantile(np.exp(apart[rows].sum(1) / teacher.tokens[rows].sum(1)), [0.025, 0.975])
    return Interval(value, float(low), float(high))


def kept_bits(
    student: DocumentLoss, teacher: DocumentLoss, *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """95% interval of the teacher's bits per byte over the student's, over resampled texts; their tokens may differ."""
    ours, theirs = (np.bincount(found.document, weights=found.nats) for found in (student, teacher))
    value = float(theirs.sum() / ours.sum())
    if missing := too_few(len(theirs), "texts"):
        return Interval.without(value, missing)
    if len(ours) != len(theirs):
        return Interval.without(value, "one of the two finds no token in some text")
    rows = np.random.default_rng(seed).integers(len(theirs), size=(resamples, len(theirs)))
    low, high = np.quantile(theirs[rows].sum(1) / ours[rows].sum(1), [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _windows(tokens: Tokens, max_length: int, stride: int) -> list[tuple[int, int, int]]:
    """(begin, first, last): what a window sees from its begin, and predicts what follows the tokens [first, last)."""
    found = []
    for begin, end in zip(tokens.begins, [*tokens.begins[1:], len(tokens.ids)], strict=True):
        first = int(begin)
        while first < end - 1:
            last = int(min(end - 1, max(begin + max_length, first + stride)))
            found.append((int(max(begin, last - max_length)), first, last))
            first = last
    # Windows of like length go together.
    return sorted(found, key=lambda window: window[0] - window[2])


def _read(
    model: LanguageModel, ids: Array, windows: Sequence[tuple[int, int, int]], device: torch.device
) -> list[tuple[float, int]]:
    """Nats and hits of each window."""
    lengths = [last - begin for begin, _, last in windows]
    rows = [np.pad(ids[begin:last], (0, max(lengths) - last + begin)) for begin, _, last in windows]
    shown = torch.from_numpy(np.stack(rows).astype(np.int64)).to(device)
    states = _states(model, shown, torch.tensor(lengths, device=device))
    found = []
    for row, (begin, first, last) in zip(states, windows, strict=True):
        wanted = torch.from_numpy(ids[first + 1 : last + 1].astype(np.int64)).to(device)
        loss, hit = _predicted(model, row[first - begin : last - begin], wanted)
        found.append((float(loss.sum()), int(hit.sum())))
    return found


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))  # a float ends at e^709
