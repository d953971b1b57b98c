"""The suite's surroundings, set before transformers is imported: offline, one thread, away from the user's caches."""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module

import pytest
import wrapt

_home = tempfile.mkdtemp(prefix="attar-tests-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HOME=_home,
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    TRANSFORMERS_VERBOSITY="error",
    MPLBACKEND="Agg",
    # torch reads it when it is first imported: two test processes share two cores.
    OMP_NUM_THREADS="1",
)


# Coverage's tracer, before Python 3.12, slows every line of Python, also those of other packages that it does not
# count. What takes longest of these: imports, and calls that run nothing of attar, or what runs elsewhere as well.
IMPORTS = ("torch", "transformers.modeling_utils", "datasets", "scipy.stats", "sklearn.metrics", "hypothesis")
CALLS = {
    "transformers.exporters.exporter_onnx": ("OnnxExporter.export_program",),
    "transformers.modeling_utils": ("PreTrainedModel.from_pretrained", "PreTrainedModel.save_pretrained"),
    "datasets.fingerprint": ("Hasher.hash",),
    "accelerate.optimizer": ("AcceleratedOptimizer.step",),
}


@contextmanager
def uncounted() -> Iterator[None]:
    """Coverage off for the time."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)


def _uncounted(wrapped, _instance, given, named):
    with uncounted():
        return wrapped(*given, **named)


def _patch(module, names):
    for name in names:
        wrapt.wrap_function_wrapper(module, name, _uncounted)


for _module, _names in CALLS.items():
    wrapt.register_post_import_hook(partial(_patch, names=_names), _module)


def pytest_collectstart() -> None:
    """Import ahead of the tests, in the processes that have any."""
    if sys.gettrace():
        with uncounted():
            for name in IMPORTS:
                import_module(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Coverage watches the first case of a test alone: the others run the same lines."""
    if any(getattr(getattr(item, "callspec", None), "indices", {}).values()):
        with uncounted():
            return (yield)
    return (yield)


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collection: to look through it takes most of a second, each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_console() -> None:
    """A test of the command line attaches a console, and what is said goes there and not to the log ever after."""
    from attar import progress

    progress.attach(None)


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """A directory of an embedding model without Dense layers, which normalises."""
    from embedders import saved

    return saved(tmp_path_factory.mktemp("plain") / "t")


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """A directory of an embedding model with Dense layers; many tests have a teacher of their own."""
    from embedders import with_dense

    return with_dense(tmp_path_factory.mktemp("teacher") / "t")
