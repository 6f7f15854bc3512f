"""The pictures show the rows' numbers where the axis says, survive any row, and leave matplotlib as it was."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from specnorm_audit import audit, plots, render
from specnorm_audit.rows import USUAL_COLUMNS

from audit import files

SVG = "{http://www.w3.org/2000/svg}"


def _group(svg: bytes, name: str) -> list[ElementTree.Element]:
    """The marks of a group: its paths and uses."""
    found = [e for e in ElementTree.fromstring(svg).iter() if e.get("id") == name]
    assert len(found) == 1, name
    return [e for e in found[0].iter() if e.tag == f"{SVG}use" or (e.tag == f"{SVG}path" and "id" not in e.attrib)]


def _line_through(values: Sequence[float], places: Sequence[float]) -> float:
    """Pixels per decade, checked: the places are an affine function of the logarithms."""
    x = np.log10(values)
    slope, start = np.polyfit(x, places, 1)
    np.testing.assert_allclose(start + slope * x, places, atol=1e-3)
    return float(slope)


# -- the intervals ---------------------------------------------------------------------------------------------------
def test_marks_stand_where_the_numbers_say() -> None:
    arrays = {**files.kernels(), "zero.weight": np.zeros((2, 2)), "bad.weight": np.full((2, 2), np.nan)}
    report = audit(arrays, input_shape=8, methods=(*USUAL_COLUMNS, "circular"))
    svg = plots.draw([report], "svg")
    good = report.layers[:3]
    values, places, heights = [], [], []
    for column in ("tn", "f4", "reshaped", "circular"):
        marks = _group(svg, f"m0-{column}")
        assert len(marks) == 3  # the zero and the error have none
        values += [row.values[column] for row in good]
        places += [float(e.attrib["x"]) for e in marks]
        heights.append([float(e.attrib["y"]) for e in marks])
    bars = _group(svg, "m0-interval")
    ends = [[float(x) for x in re.findall(r"-?[\d.]+", e.attrib["d"])] for e in bars]
    values += [x for row in good for x in (row.lower, row.upper)]
    places += [x for start, _, end, _ in ends for x in (start, end)]
    slope = _line_through([float(x) for x in values if isinstance(x, float)], places)
    assert slope > 50  # larger numbers to the right
    assert heights == [heights[0]] * 4
    np.testing.assert_allclose([y for _, y, _, _ in ends], heights[0], atol=1e-3)
    assert heights[0] == sorted(heights[0])


def test_other_formats_are_refused() -> None:
    with pytest.raises(ValueError, match=r"neither \.png nor \.svg"):
        plots.draw([], "pdf")
    with pytest.raises(ValueError, match="'xml' is none of table"):
        render([], "xml")
