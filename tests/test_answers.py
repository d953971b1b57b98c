"""Figures of answers and of tags: SQuAD's official scripts', seqeval's, and what the bootstrap makes of them."""

import warnings

import numpy as np
import pytest

from attar.data.windows import answers_of
from attar.evaluation.answers import (
    answer_f1,
    entities,
    entity_f1,
    entity_precision,
    entity_recall,
    exact_match,
    same_answer,
    tag_accuracy,
)
from attar.maths.statistics import bootstrap, paired_bootstrap

# An answer, the right ones, and (exact match, F1) by the scripts of version 1.1 and 2.0 (None: it cannot run).
OFFICIAL = [
    ("the Denver Broncos", ["Denver Broncos", "The Denver Broncos!"], (1, 1), (1, 1)),
    ("Denver", ["Denver Broncos"], (0, 2 / 3), (0, 2 / 3)),
    ("in the 1990s, a lot", ["1990s"], (0, 0.5), (0, 0.5)),
    ("", ["x"], (0, 0), (0, 0)),
    ("The", ["a"], (1, 0), (1, 1)),
    ("the", ["the the"], (1, 0), (1, 1)),
    ("U.S.", ["US"], (1, 1), (1, 1)),
    ("it's", ["its"], (1, 1), (1, 1)),
    ("24–10", ["24-10"], (0, 0), (0, 0)),
    ("  Carolina \t Panthers ", ["carolina panthers"], (1, 1), (1, 1)),
    ("Über", ["über"], (1, 1), (1, 1)),
    ("Straße", ["strasse"], (0, 0), (0, 0)),
    ("ein Theater", ["theater"], (0, 2 / 3), (0, 2 / 3)),
    ("to be or not to be", ["to be to"], (0, 2 / 3), (0, 2 / 3)),
    ("5 million", ["$5 million", "5"], (1, 1), (1, 1)),
    ("…", ["..."], (0, 0), (0, 0)),
    ("x—y", ["x y"], (0, 0), (0, 0)),
    ("", [], None, (1, 1)),
    ("x", [], None, (0, 0)),
    ("the", [], None, (1, 1)),
    ("", ["the"], (1, 0), (1, 1)),
    ("a b", ["the", "b"], (1, 1), (1, 1)),
    ("", ["the", "b"], (1, 0), (0, 0)),
]
# Right tags, said tags, and F1, precision, recall, accuracy as seqeval 1.2.2 gives them.
SEQEVAL = [
    ("B-PER I-PER O B-LOC", "B-PER I-PER O O", 2 / 3, 1, 0.5, 0.75),
    ("B-PER I-PER O B-LOC", "B-PER O O B-LOC", 0.5, 0.5, 0.5, 0.75),
    ("I-PER I-PER O I-LOC", "B-PER I-PER O B-LOC", 1, 1, 1, 0.5),
    ("B-PER B-PER", "B-PER I-PER", 0, 0, 0, 0.5),
    ("B-PER I-LOC O", "B-PER I-PER O", 0, 0, 0, 2 / 3),
    ("S-PER O B-LOC I-LOC E-LOC", "B-PER O B-LOC I-LOC I-LOC", 1, 1, 1, 0.6),
    ("B-LOC E-LOC S-PER", "B-LOC E-LOC E-PER", 1, 1, 1, 2 / 3),
    ("O O|B-A O", "O O|O O", 0, 0, 0, 0.75),
    ("O O", "B-A O", 0, 0, 0, 0.5),
    ("B-A|I-A", "B-A|I-A", 1, 1, 1, 1),
    ("B-MISC-X I-MISC-X O|B-PER", "B-MISC-X I-MISC-X O|B-ORG", 0.5, 0.5, 0.5, 0.75),
]
FIGURES = (entity_f1, entity_precision, entity_recall, tag_accuracy)
MARKS = ["O", *(f"{mark}-{kind}" for mark in "BIES" for kind in ("PER", "LOC", "A-B"))]


def rows(text):
    return answers_of(tuple(row.split()) for row in text.split("|"))


@pytest.mark.parametrize(("said", "right", "first", "second"), OFFICIAL)
def test_answers_score_as_the_official_scripts_have_it(said, right, first, second):
    if first is not None:
        one = answers_of([said]), answers_of([tuple(right)])
        assert (exact_match(*one), answer_f1(*one)) == pytest.approx(first)
    # A question without an answer, rightly left without one, makes a table one of version 2.0.
    two = answers_of([said, ""]), answers_of([tuple(right), ()])
    found = [2 * metric(*two) - 1 for metric in (exact_match, answer_f1)]
    assert found == pytest.approx(second)


@pytest.mark.parametrize(("right", "said", "f1", "precision", "recall", "accuracy"), SEQEVAL)
def test_entities_count_as_seqeval_has_it(right, said, f1, precision, recall, accuracy):
    found = [metric(rows(said), rows(right)) for metric in FIGURES]
    assert found == pytest.approx([f1, precision, recall, accuracy])


def test_entities_of_random_tags_are_seqevals():
    seqeval = pytest.importorskip("seqeval.metrics")
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(50):
            right = [list(rng.choice(MARKS, size=rng.integers(1, 9))) for _ in range(4)]
            said = [list(rng.choice(MARKS, size=len(row))) for row in right]
            found = [metric(*(answers_of(map(tuple, x)) for x in (said, right))) for metric in FIGURES]
            names = ("f1_score", "precision_score", "recall_score", "accuracy_score")
            assert found == pytest.approx([getattr(seqeval, name)(right, said) for name in names])


def test_the_three_ways_to_write_tags_name_the_same_entities():
    first, second, both = (
        entities(tags.split())
        for tags in ("I-A I-A O I-B B-B O", "B-A I-A O B-B B-B O", "B-A E-A O S-B S-B O")
    )
    assert first == second == both == {("A", 0, 1), ("B", 3, 3), ("B", 4, 4)}


def test_sentences_are_drawn_not_tokens():
    rng = np.random.default_rng(1)
    right = answers_of(tuple(rng.choice(MARKS[:5], size=rng.integers(1, 30))) for _ in range(40))
    said = answers_of(tuple(tag if rng.random() < 0.7 else "O" for tag in row) for row in right)
    found = bootstrap(entity_f1, said, right, resamples=200, seed=3)
    index = np.random.default_rng(3).integers(40, size=(200, 40))
    slow = [entity_f1(said[pick], right[pick]) for pick in index]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))
    kept = paired_bootstrap(entity_f1, said, said, right, resamples=50)
    assert (kept.value, kept.missing) == (1, "no interval: every resample of the 40 texts gives the same")


def test_agreement_of_answers_is_that_of_their_words():
    ours, theirs = answers_of(["The cat", "", "a dog", "x"]), answers_of(["cat.", "", "dogs", "X!"])
    assert same_answer(ours, theirs) == 0.75
