"""Which node belongs to which layer, and which layers stay in fp32."""

import pytest

from attar.errors import ExportError
from attar.exporting.int8 import kept_nodes, layer_of

LAYERS = {
    "bert.embeddings.word_embeddings": "bert.embeddings.word_embeddings",
    "bert.encoder.layer.1.output.dense": "bert.encoder.layer.1",
    "bert.encoder.layer.11.output.dense": "bert.encoder.layer.11",
    "bert.encoder.layer.11.output.dense#2": "bert.encoder.layer.11",
}


@pytest.mark.parametrize(
    ("entry", "count"),
    [
        ("layer.1", 1),
        ("layer.11", 2),
        ("bert.encoder.layer.1", 1),
        ("embeddings", 1),
        ("encoder", 3),
        ("dense", 3),
    ],
)
def test_a_layer_is_named_by_whole_steps(entry, count):
    assert len(kept_nodes(LAYERS, [entry])) == count


@pytest.mark.parametrize("entry", ["layer.2", "embed", "ayer.1"])
def test_a_name_that_matches_nothing_lists_those_that_would(entry):
    with pytest.raises(ExportError, match=r"bert\.encoder\.layer\.1, bert\.encoder\.layer\.11"):
        kept_nodes(LAYERS, [entry])


def test_modules_outside_of_layers_are_their_own_layer():
    assert layer_of("bert.encoder.layer.3.attention.self.query") == "bert.encoder.layer.3"
    assert layer_of("transformer.layer.0") == "transformer.layer.0"
    assert layer_of("classifier") == "classifier"
