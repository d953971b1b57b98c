"""`attar.bench`: size and speed of models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from attar.options.base import Count, Flag, Input, Pooling, PreTrainedModel
from attar.options.registry import verb
from attar.options.signature import options_of

if TYPE_CHECKING:
    from attar.report.report import Report


@verb()
def bench(
    models: Annotated[
        Sequence[str | Path | PreTrainedModel] | Mapping[str, str | Path | PreTrainedModel], Input()
    ],
    *,
    batch_sizes: Annotated[Sequence[Count], Flag("--batch-size")] = (1,),
    lengths: Annotated[Sequence[Count], Flag("--length")] = (128,),
    pooling: Pooling = None,
    repeats: Count = 50,
    threads: Count | None = None,
    clock: Literal["wall", "cpu"] = "wall",
    memory: bool = False,
) -> "Report":
    """Measure size and speed of models, in turns in one run; the first is the reference.

    Args:
        models: Model directories, exports or models; by name, or named after their directories.
        batch_sizes: Batch sizes; may be given several times.
        lengths: Lengths in tokens; may be given several times.
        pooling: Makes an embedding model of an encoder alone; others say it themselves.
        repeats: Timed calls of each model and shape.
        threads: Threads of each model; as many as PyTorch uses now where left out.
        clock: Seconds on the wall, or of the processor.
        memory: Measure the peak memory too, each model in a process of its own.

    Returns:
        A report with a row for each model and shape.

    Raises:
        ModelError: two models of one name, or one that cannot be loaded.

    Examples:
        attar bench teacher small small-onnx/int8 --length 32 --length 128
    """
    from attar.evaluation.reports import bench as work

    return work(models, options=options_of(bench, locals()))
