"""Laws of the pictures of a model's parts: all that stays is on them, what is gone is not, and they travel."""

import json
import re
from dataclasses import replace
from io import StringIO
from xml.etree import ElementTree

import pytest
from rich.console import Console

from attar.anatomy.form import Form, LayerForm
from attar.report.heatmap import HeatMap, heatmap_svg, heatmap_text
from attar.report.page import render
from attar.report.report import Report, Row
from attar.report.shape import Shape, shape_svg, shape_text

BEFORE = Form(768, 768, 30522, (LayerForm(12, 64, 64, 3072),) * 5)
AFTER = Form(
    700, 700, 20011, (LayerForm(11, 61, 62, 3001), LayerForm(12, 64, 64, 2000), LayerForm(9, 8, 7, 15))
)
SHAPE = Shape.of("<b>ert", BEFORE, AFTER, (0, 2, 3))
HEAT = HeatMap(
    "accuracy & more, points",
    ("layer 1", "layer 2"),
    ("1", "2", "FFN", "layer"),
    ((-1.25, 0.5, -3.0, -12.5), (None, -0.75, 0.0, float("nan"))),
)


def drawn(svg):
    """Root, all texts, and all tips of a drawing."""
    root = ElementTree.fromstring(svg)
    return root, [x.text for x in root.iter("text")], [x.text for x in root.iter("title")]


def printed(table, width=80):
    file = StringIO()
    Console(file=file, width=width).print(table)
    return file.getvalue()


def test_every_size_of_every_layer_that_stays_is_drawn():
    _, texts, tips = drawn(shape_svg(SHAPE))
    for layer in AFTER.layers:
        for size in (layer.heads, layer.key, layer.value, layer.ffn):
            assert str(size) in texts
    assert "layer 1: 3,001 of 3,072 ffn" in tips
    assert "layer 4: 7 of 64 value" in tips
    assert texts[0] == "layers 5 → 3 · hidden 768 → 700 · vocabulary 30,522 → 20,011"


def test_layers_that_are_gone_leave_their_places_empty():
    root, texts, tips = drawn(shape_svg(SHAPE))
    assert {int(re.match(r"layer (\d+)", tip)[1]) for tip in tips} == {1, 3, 4}
    assert [text for text in texts if text.startswith("✗")] == ["✗2", "✗5"]
    assert len(list(root.iter("rect"))) == 2 * 4 * 3  # pale and solid, four axes, three layers


def test_bars_are_as_high_as_what_stays():
    root, _, _ = drawn(shape_svg(SHAPE))
    heights = {}
    for group in root.iter("g"):
        pale, solid = (float(rect.get("height")) for rect in group.iter("rect"))
        heights[group.find("title").text] = solid / pale
    assert heights["layer 4: 9 of 12 heads"] == pytest.approx(0.75, abs=0.01)
    assert heights["layer 3: 2,000 of 3,072 ffn"] == pytest.approx(2000 / 3072, abs=0.01)
    assert heights["layer 3: 12 of 12 heads"] == 1


def test_an_embedding_of_its_own_is_named():
    before = Form(1024, 128, 30000, BEFORE.layers)
    after = Form(1024, 96, 30000, BEFORE.layers)
    around = Shape.of("albert", before, after, range(5)).around()
    assert around == "layers 5 · hidden 1,024 · embedding 128 → 96 · vocabulary 30,000"


@pytest.mark.parametrize("layers", [1, 12, 24])
def test_a_terminal_of_80_columns_has_room(layers):
    wide = LayerForm(16, 64, 64, 4096)
    before = Form(1024, 1024, 250002, (wide,) * layers)
    after = Form(1000, 1000, 99999, (LayerForm(15, 63, 62, 4095),) * layers)
    text = printed(shape_text(Shape.of("large", before, after, range(layers))))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("15/16") == text.count("4095/4096") == layers
    assert "…" not in text


def test_the_terminal_shows_what_stays_and_what_is_gone():
    lines = printed(shape_text(SHAPE)).splitlines()
    assert "3001/3072" in lines[2]
    assert "✗2" in lines[3]
    assert "█" not in lines[3]
    assert "2000/3072" in lines[4]


def test_every_change_has_its_cell():
    root, texts, tips = drawn(heatmap_svg(HEAT))
    assert tips == [
        "layer 1, 1: -1.25",
        "layer 1, 2: +0.5",
        "layer 1, FFN: -3",
        "layer 1, layer: -12.5",
        "layer 2, 2: -0.75",
        "layer 2, FFN: +0",
    ]
    assert {"layer 1", "layer 2", *HEAT.columns} <= set(texts)
    gains = [g.find("title").text for g in root.iter("g") if g.find("circle") is not None]
    assert gains == ["layer 1, 2: +0.5"]
    assert root.get("aria-label") == HEAT.title


def test_losses_and_gains_have_colours_of_their_own():
    svg = heatmap_svg(HEAT)
    loss, gain = (re.search(rf"<g><title>{name}.*", svg)[0] for name in ("layer 1, 1:", r"layer 1, 2:"))
    assert "--bad" in loss
    assert "--good" not in loss
    assert "--good" in gain


def test_a_terminal_has_numbers_where_there_is_room_and_shades_where_not():
    text = printed(heatmap_text(HEAT))
    assert "-12.5" in text
    assert "+0.5" in text
    close = printed(heatmap_text(HEAT, width=24), width=24)
    assert "-12\n" in close
    assert "-12.5" not in close
    narrow = printed(heatmap_text(HEAT, width=20), width=20)
    assert "+" in narrow
    assert "█" in narrow
    assert max(map(len, narrow.splitlines())) <= 20


@pytest.mark.parametrize("layers", [1, 12, 24])
def test_twelve_heads_have_numbers_in_80_columns(layers):
    columns = (*map(str, range(1, 13)), "attn", "ffn", "layer")
    rows = tuple(f"layer {n + 1}" for n in range(layers))
    text = printed(heatmap_text(HeatMap("points", rows, columns, ((-12.3, *[0.4] * 14),) * layers)))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("+0.4") == 14 * layers
    assert text.count("-12") == layers


def test_what_may_be_chance_is_pale_and_no_gain():
    unsure = replace(HEAT, sure=((False, False, True, True), (False,) * 4))
    root, _, tips = drawn(heatmap_svg(unsure))
    assert len(tips) == 6
    assert all(g.find("circle") is None for g in root.iter("g"))
    assert "+" not in printed(heatmap_text(unsure, width=20), width=20).partition("░▒▓█")[0]
    styles = [cell.style for cell in list(heatmap_text(unsure).columns[2].cells)]
    assert styles == ["dim", "dim"]
    assert "pale: may be chance" in heatmap_svg(unsure)
    assert "chance" not in heatmap_svg(HEAT) + printed(heatmap_text(HEAT))


def test_small_changes_are_told_apart():
    small = HeatMap("f1", ("layer 1",), ("1", "2"), ((-0.0123, 0.0041),))
    text = printed(heatmap_text(small))
    assert "-.012" in text
    assert "+.004" in text
    nothing = HeatMap("f1", ("layer 1",), ("1",), ((0.0,),))
    assert "layer 1" in printed(heatmap_text(nothing))
    assert drawn(heatmap_svg(nothing))


def test_pictures_travel_with_the_report():
    report = Report("pruned", rows=(Row("a", "teacher"),), shapes=(SHAPE, SHAPE), heat=HEAT)
    again = Report.from_json(report.to_json())
    assert again.shapes == report.shapes
    assert again.heat.values == ((-1.25, 0.5, -3.0, -12.5), (None, -0.75, 0.0, None))
    assert render(again) == render(report)


def test_reports_from_before_there_were_pictures_are_read():
    old = json.loads(Report("old", rows=(Row("a", "teacher"),)).to_json())
    del old["shapes"], old["heat"]
    assert Report.from_json(json.dumps(old)) == Report("old", rows=(Row("a", "teacher"),))


def test_the_page_has_a_section_where_there_is_a_picture():
    without = render(Report("plain"))
    assert "<h2>Shape</h2>" not in without
    assert "What each part is worth" not in without
    page = render(Report("pruned", shapes=(SHAPE,), heat=HEAT))
    assert "<h2>Shape</h2>" in page
    assert "accuracy &amp; more, points" in page
    assert page.count("<svg") == page.count("</svg>") == 2
    assert "<b>ert" not in page
