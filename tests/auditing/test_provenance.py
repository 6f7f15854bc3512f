"""Every number of a report says how it was obtained, and by which versions."""

from __future__ import annotations

import numpy as np

from auditing import files
from specnorm.auditing import audit


def test_every_number_says_how_it_was_obtained() -> None:
    report = audit(files.kernels(), input_shape=8, methods=["tn", "grid", "circular"])
    conv, _, linear = report.layers
    assert list(conv.origins) == ["interval", "tn", "grid", "circular"]
    for name, start in {"interval": "Enclose(", "tn": "TensorNorm(", "grid": "Grid(", "circular": "ExactFFT("}.items():
        assert conv.origins[name].method.startswith(start)
        assert conv.origins[name].computed_in == "float64"
        assert conv.origins[name].place == "numpy, cpu"
    about = {name: origin.about for name, origin in conv.origins.items()}
    assert about == {
        "interval": "the layer at 8x8", "tn": "every input size", "grid": "every input size",
        "circular": "the circular layer at 8x8",
    }  # fmt: skip
    assert (conv.origins["tn"].promise, conv.origins["tn"].detail) == ("upper", "proven")
    assert linear.origins["interval"].about == "the matrix"
    assert set(report.environment) == {"date", "Python", "numpy", "platform"}
    assert report.environment["numpy"] == np.__version__
