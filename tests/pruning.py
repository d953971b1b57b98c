"""Plans and prunings of tiny models, in a few steps."""

import attar
import tiny

FAST = {"precision": "fp32", "max_length": 16, "batch_size": 8}
TASKS = {
    "single_label": {"num_labels": 2},
    "multi_label": {"num_labels": 3, "problem_type": "multi_label_classification"},
    "regression": {"num_labels": 1},
}


def plan(model, **options):
    """What a few steps would cut."""
    given = {"texts": tiny.texts(32), "steps": 5, **FAST, **options}
    return attar.plan(model, tokenizer=tiny.tokenizer(), **given)
