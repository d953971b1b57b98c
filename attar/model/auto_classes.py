"""Model types of attar's own, known to transformers from `import attar` on, though nothing is imported for them."""

from types import ModuleType
from typing import Any

import wrapt

from attar.anatomy.families import ENCODERS, STATIC

# Where every Auto class (of configs, models and tokenizers) looks a directory's model type up.
PLACE = "transformers.models.auto.configuration_auto"


def register_types() -> None:
    """Make slim and static types known as soon as transformers' Auto classes are imported, or now where they are."""
    wrapt.register_post_import_hook(_register, PLACE)


class _LazyConfig:
    """Stands in the Auto classes for a config class until one is asked for.

    The classes themselves import the modelling code of every family, which takes seconds: too long for a process that
    only tokenizes. On first use all of them are registered, in place of these.
    """

    model_type = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real()(*args, **kwargs)

    @classmethod
    def from_dict(cls, *args: Any, **kwargs: Any) -> Any:
        """As of the config class."""
        return cls._real().from_dict(*args, **kwargs)

    @classmethod
    def _real(cls) -> Any:
        from transformers import CONFIG_MAPPING

        from attar.model import slim, static

        slim.register()
        static.register()
        return CONFIG_MAPPING[cls.model_type]


def _register(module: ModuleType) -> None:
    for name in (*(f"slim-{name}" for name in ENCODERS), STATIC):
        lazy = type("LazyConfig", (_LazyConfig,), {"model_type": name})
        module.AutoConfig.register(name, lazy, exist_ok=True)
