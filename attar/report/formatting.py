"""Figures as people read them: one function per unit, used by the table, the page and the model card alike."""

import math
from typing import Any

from attar.maths.statistics import Interval

# A metric is shown in percent unless it is named here.
_PLAIN = {
    "matthews",
    "pearson",
    "spearman",
    "kl",
    "mlm_loss",
    "clm_loss",
    "pseudo_perplexity",
    "perplexity",
    "word_perplexity",
    "bits_per_byte",
    "pseudo_bits_per_byte",
}
_NAMES = {
    "f1": "F1",
    "exact_match": "exact match",
    "micro_f1": "micro-F1",
    "macro_f1": "macro-F1",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
    "ndcg@10_in_teachers_index": "nDCG@10, teacher's index",
    "top_1_agreement": "top-1 agreement",
    "agreement": "agreement with the teacher",
    "kl": "KL to the teacher",
    "masked_accuracy": "accuracy on masked tokens",
    "mlm_loss": "loss on masked tokens",
    "pseudo_perplexity": "pseudo-perplexity",
    "clm_loss": "loss on next tokens",
    "token_accuracy": "accuracy on next tokens",
    "word_perplexity": "perplexity of a word",
    "bits_per_byte": "bits per byte",
    "pseudo_bits_per_byte": "pseudo-bits per byte",
    "nsp_accuracy": "next-sentence accuracy",
}


def metric_name(metric: str) -> str:
    """The field's own word for a metric."""
    return _NAMES.get(metric, metric)


def figure(metric: str, value: float | None) -> str:
    """A metric's value in its unit: percent, or a coefficient as it is."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if metric in _PLAIN else percent(value)


def percent(value: float | None) -> str:
    """0.968 -> 96.8%."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f}%"


def percent_interval(interval: Interval | None) -> str:
    """0.968 and its ends -> 96.8% (95.9 to 97.6); the figure alone where it has no interval."""
    if interval is None or interval.missing:
        return "–" if interval is None else percent(interval.value)
    return f"{percent(interval.value)} ({ends(interval)})"


def ends(interval: Interval) -> str:
    """The ends of an interval in percent, or why there are none."""
    return interval.missing or f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def count(value: float | None) -> str:
    """22713216 -> 22.7M; FLOPs too."""
    if value is None or not math.isfinite(value):
        return "–"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def size(value: float | None) -> str:
    """Bytes in decimal units, as disks are sold: 90900000 -> 90.9 MB."""
    if value is None:
        return "–"
    if value < 1e4:  # of an embedding, not of a model
        return f"{value:.0f} B"
    return f"{value / 1e6:.3g} MB" if value < 1e9 else f"{value / 1e9:.3g} GB"


def duration(value: float | None) -> str:
    """Seconds -> 7.85 ms."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def times(value: float | None) -> str:
    """11.234 -> 11.2×."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.0f}×" if value >= 100 else f"{value:.1f}×"


def change(ratio: float, up: str, down: str) -> str:
    """7.66 -> "7.7× smaller", 0.5 -> "2.0× larger"."""
    return f"{times(ratio)} {up}" if ratio >= 1 else f"{times(1 / ratio)} {down}"


def plain_text(renderable: Any, width: int) -> str:
    """What rich prints, as text `width` letters wide: for `print` in a script."""
    from io import StringIO

    from rich.console import Console

    file = StringIO()
    Console(file=file, width=width).print(renderable)
    return file.getvalue().rstrip()
