"""The suite's surroundings, set before transformers is imported: offline, one thread, away from the user's caches."""

import atexit
import os
import shutil
import tempfile

import pytest

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


@pytest.fixture(autouse=True)
def _no_console() -> None:
    """A test of the command line attaches a console, and what is said goes there and not to the log ever after."""
    from attar import progress

    progress.attach(None)
