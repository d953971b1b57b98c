"""The public verbs, a file each: signature, help, and one call into the package that does the work.

Every option is written in one place: as an argument of its verb, with a line in the docstring. The command line, the
recipe schema and the reference are made from there.
"""

from attar.verbs.anatomy import anatomy
from attar.verbs.augment import augment
from attar.verbs.bench import bench
from attar.verbs.check import check
from attar.verbs.compare import compare
from attar.verbs.compress import compress
from attar.verbs.dimensions import dimensions
from attar.verbs.distill import distill
from attar.verbs.distill_lm import distill_lm
from attar.verbs.evaluate import evaluate
from attar.verbs.export import export
from attar.verbs.finetune import finetune
from attar.verbs.generate import generate
from attar.verbs.mine import mine
from attar.verbs.plan import plan
from attar.verbs.pretrain import pretrain
from attar.verbs.probe import probe
from attar.verbs.prune import prune
from attar.verbs.run import run
from attar.verbs.share import share
from attar.verbs.static import static
from attar.verbs.temperature import temperature
from attar.verbs.tokenizer import tokenizer

__all__ = [
    "anatomy",
    "augment",
    "bench",
    "check",
    "compare",
    "compress",
    "dimensions",
    "distill",
    "distill_lm",
    "evaluate",
    "export",
    "finetune",
    "generate",
    "mine",
    "plan",
    "pretrain",
    "probe",
    "prune",
    "run",
    "share",
    "static",
    "temperature",
    "tokenizer",
]
