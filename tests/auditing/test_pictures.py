"""What a report draws of its worst layers: right values, the right layers, and never at the report's expense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracle import all_singular_values

from auditing import files
from specnorm.auditing import audit, pictures, provenance
from specnorm.auditing.rows import Picture, Row
from specnorm.errors import NoBackend
from specnorm.problem.spec import ConvSpec


def _kernel(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal(shape)


def _picture(kernel: np.ndarray, **geometry: Any) -> Picture:
    return pictures.picture(0, kernel, ConvSpec.of(kernel.shape, **geometry))


@pytest.mark.parametrize(
    ("shape", "geometry"),
    [
        ((3, 2, 5), {}),
        ((3, 2, 3, 3), {}),
        ((2, 2, 2, 2, 2), {}),
        ((4, 2, 3, 3), {"groups": 2}),
        ((3, 2, 3, 3), {"stride": 2}),
        ((3, 2, 2, 3), {"transposed": True, "groups": 3}),
        ((3, 3, 2, 4), {"layout": "HWIO"}),
        ((5, 3), {}),
    ],
)
def test_spectrum_is_that_of_the_circular_layer_of_the_grid_s_size(
    shape: tuple[int, ...], geometry: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_FINEST", {0: 1, 1: 256, 2: 8, 3: 8})
    monkeypatch.setattr(pictures, "_KEPT", 10**6)
    kernel = _kernel(*shape)
    found = _picture(kernel, **geometry)
    plain = dict(geometry)
    if plain.pop("layout", None):
        kernel = np.moveaxis(kernel, (-1, -2), (0, 1))
    size = [n * plain.get("stride", 1) for n in found.grid]
    expected = all_singular_values(kernel, size, **plain)
    assert len(expected) == len(found.spectrum)
    assert found.ranks == tuple(range(len(expected)))
    np.testing.assert_allclose(found.spectrum, expected, rtol=1e-10, atol=1e-12)
    assert max(found.norms) == found.spectrum[0]


def test_norms_are_where_the_grid_says() -> None:
    kernel = _kernel(3, 2, 2, 5)
    found = _picture(kernel)
    assert found.grid == (48, 48)
    norms = np.reshape(found.norms, found.grid)
    for i, j in [(0, 0), (1, 0), (0, 1), (7, 30), (47, 13), (24, 24)]:
        taps = np.exp(2j * np.pi * (i * np.arange(2)[:, None] / 48 + j * np.arange(5)[None, :] / 48))
        assert norms[i, j] == pytest.approx(np.linalg.norm((kernel * taps).sum((2, 3)), 2), rel=1e-12)


def test_long_lists_are_thinned_and_keep_their_ends() -> None:
    found = _picture(_kernel(3, 2, 3, 3))
    assert len(found.spectrum) == len(found.ranks) == 513
    assert (found.ranks[0], found.ranks[-1]) == (0, 48 * 48 * 2 - 1)
    assert list(found.spectrum) == sorted(found.spectrum, reverse=True)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e200])
def test_scale_does_not_matter(scale: float) -> None:
    kernel = _kernel(3, 2, 3)
    np.testing.assert_allclose(_picture(kernel * scale).norms, np.asarray(_picture(kernel).norms) * scale, rtol=1e-9)


def test_axes_with_one_tap_are_constant() -> None:
    assert _picture(_kernel(2, 2, 3, 1)).grid == (256, 1)
    assert _picture(_kernel(2, 2, 1, 1)).grid == (1, 1)
    assert _picture(_kernel(2, 2)).grid == ()
    assert _picture(np.zeros((2, 2, 3))).spectrum[0] == 0


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [((1, 64, 64, 3, 3), (48, 48)), ((1, 512, 512, 3, 3), (8, 8)), ((1, 256, 256, 3, 3), (14, 14)),
     ((960, 1, 1, 3, 3), (36, 36)), ((1, 4, 4, 15, 15), (60, 60)), ((1, 32, 32, 3, 3, 3), (20, 20, 20))],
)  # fmt: skip
def test_wide_layers_get_coarser_grids(blocks: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert pictures.grid(blocks) == expected


def test_layers_whose_decomposition_takes_minutes_are_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_LIMIT", 4000)
    assert _picture(_kernel(3, 3)).spectrum
    found = _picture(_kernel(30, 30))
    assert (found.spectrum, found.reason) == ((), "the layer is too large: its singular values would take minutes.")


# -- which layers ----------------------------------------------------------------------------------------------------
def test_the_worst_come_first_and_errors_and_zeros_not_at_all() -> None:
    def row(upper: float | None, reason: str | None = None) -> Row:
        return Row("x", "linear", (2, 2), ConvSpec.of((2, 2)), lower=0.0, upper=upper, reason=reason)

    rows = [row(1.0), row(3.0), row(9.0, "bad"), row(0.0), row(3.0), row(None)]
    assert pictures.worst(rows, 2) == [1, 4]
    assert pictures.worst(rows, 9) == [1, 4, 0]
    assert pictures.worst(rows, 0) == []


def test_an_audit_keeps_pictures_on_request() -> None:
    arrays = files.kernels()
    assert audit(arrays).pictures == ()
    report = audit(arrays, pictures=2)
    uppers = [report.layers[p.row].upper for p in report.pictures]
    assert uppers == sorted((row.upper or 0 for row in report.layers), reverse=True)[:2]
    for picture in report.pictures:
        row = report.layers[picture.row]
        assert row.lower is not None
        assert row.upper is not None
        # The grid holds the maximum or comes close to it, and never exceeds what is proven.
        assert 0.99 * row.lower < max(picture.norms) <= row.upper
    assert report.to_dict() == audit(arrays).to_dict()


def test_a_picture_that_fails_does_not_lose_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr(pictures, "picture", fails)
    report = audit(files.kernels(), pictures=1)
    assert report.pictures[0].reason == "MemoryError: too large"
    assert all(row.status == "ok" for row in report.layers)


# -- where the numbers come from -------------------------------------------------------------------------------------
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


def test_the_library_that_measured_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    report = audit({"k": torch.ones(2, 2, 3)}, pictures=1, methods=["tn"])
    assert report.environment["torch"] == torch.__version__
    assert report.layers[0].origins["tn"].place == "torch, cpu"
    assert max(report.pictures[0].norms) == pytest.approx(6)

    def renamed(name: str) -> None:
        raise NoBackend(name)

    monkeypatch.setattr("specnorm.backends.load", renamed)
    assert provenance.environment(report.layers)["torch"] == "unknown"


def test_large_layers_say_that_their_interval_is_wide() -> None:
    row = audit({"k": np.ones((1, 1, 2, 2))}, input_shape=400, padding_mode="replicate").layers[0]
    assert "wider than rtol asks" in row.origins["interval"].detail
