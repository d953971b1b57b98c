"""What groups of options are made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]


class Options(BaseModel):
    """A group of options: no key but those named, no change once made."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
