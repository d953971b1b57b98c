"""The tree of exceptions: every message says what was expected, what was found, and what to do."""


class AttarError(Exception):
    """Base of every error that attar raises for a cause the user can mend.

    Args:
        expected: what the code needed.
        found: what it got instead.
        fix: the next thing to do, as an instruction.
    """

    def __init__(self, *, expected: str, found: str, fix: str) -> None:
        super().__init__(f"expected {expected}\nfound {found}\ndo this: {fix}")
        self.expected, self.found, self.fix = expected, found, fix


class ModelError(AttarError):
    """A model that is missing, damaged, of an unknown family, or of a shape that does not fit."""


class DataError(AttarError):
    """A table or text that cannot be used as it is."""


class RecipeError(AttarError):
    """A recipe or an option that says something the schema does not know."""


class PlanError(AttarError):
    """A plan or budget that cannot be met, was made for another model, or says nonsense."""


class OutputError(AttarError):
    """A place to write that is taken, full or not writable."""


class TrainingError(AttarError):
    """Training that went wrong: a loss that is not finite, a checkpoint of another run."""


class ExportError(AttarError):
    """An exported model that differs from its source, or loses more than was allowed."""


class MissingExtraError(AttarError):
    """An optional dependency that is not installed; the message prints its pip line."""
