"""The benchmark suite runs, says what it measured, and notices what got slower. Figures are not looked at."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the textbook methods are written in torch", exc_type=ImportError)

from bench import beside, networks_page, pictures, yardsticks
from bench.__main__ import COMMITTED, main
from bench.facts import FOLDER, read
from bench.libraries import LIBRARIES
from bench.regressions import KEY, slower, worse

Row = dict[str, Any]
ALWAYS = {*KEY, "yardstick", "date", "commit", "machine", "versions", "clock"}
SECTIONS = {
    "tensor norm", "uniform grid", "unfoldings", "circular", "gram", "gram, zeros", "power", "PROPACK", "rescaling",
    "rescaling, backward", "tolerance", "libraries", "network", "network bound", "training step",
}  # fmt: skip
UPPER = (
    "tn_bound, proven", "enclose 1e-3", "f4_bound", "grid_bound", "gram_bound", "gram_bound, 3 steps",
    "gram_bound, 5 steps", "enclose 1e-01",
)  # fmt: skip


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "suite.jsonl"
    assert main(["run", "--size", "smoke", "--out", str(out)]) == 0
    return out


def check_rows(rows: list[Row]) -> None:
    """Every line is complete and every bound on its side."""
    assert {row["section"] for row in rows} <= SECTIONS
    assert len({repr([row[name] for name in KEY]) for row in rows}) == len(rows)
    for row in rows:
        assert row.keys() >= ALWAYS
        assert row["versions"].keys() >= {"python", "numpy", "torch"}
        if "skipped" in row:
            assert row["skipped"]
            assert "seconds" not in row
            continue
        assert row["seconds"] > 0
        assert row["repeats"] >= 1
        if row["family"] == "network":
            continue
        assert math.isfinite(row["value"])
        if row["section"].startswith("rescaling"):
            continue
        assert row["value_over_norm"] > (1 - 1e-6 if row["contestant"] in UPPER else 0.5)
        if "faster" in row:
            low, high = row["faster_range"]
            assert 0 < low <= row["faster"] <= high


@pytest.mark.nightly
def test_a_run_is_complete(smoke: Path) -> None:
    rows = read(smoke)
    check_rows(rows)
    assert {row["section"] for row in rows} == SECTIONS
    measured = {row["library"] for row in rows if row["section"] == "libraries"}
    assert measured == {library.name for library in LIBRARIES.values()}
    for library in LIBRARIES.values():
        mine = [row for row in rows if row["section"] == "libraries" and row["library"] == library.name]
        assert all(("skipped" in row) == bool(library.missing) for row in mine)


def test_what_got_slower_is_told(smoke: Path) -> None:
    old = [row for row in read(smoke) if "faster" in row]
    assert slower(old, old) == []
    new = copy.deepcopy(old)
    row = next(row for row in new if row["contestant"] == "f4_bound")
    row["faster"] /= 4
    row["faster_range"] = [x / 4 for x in row["faster_range"]]
    before = next(x for x in old if x["contestant"] == "f4_bound")
    before["faster_range"] = [before["faster"]] * 2
    (said,) = slower(new, old)
    assert "f4_bound" in said
    assert before["commit"] in said
    lost = [row for row in old if row["contestant"] != "f4_bound"]
    assert any("not measured any more" in line and "f4_bound" in line for line in slower(lost, old))
    # Another size of run: nothing in common, nothing to say.
    assert slower([row for row in old if row["section"] == "power"], old) == []


def test_the_command_tells_it_by_its_exit_code(smoke: Path, tmp_path: Path) -> None:
    rows = read(smoke)
    for row in rows:
        if "faster" in row:
            row["faster_range"] = [x / 100 for x in row["faster_range"]]
    worse = tmp_path / "worse.jsonl"
    worse.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["compare", str(smoke), str(smoke)]) == 0
    assert main(["compare", str(worse), str(smoke)]) == 1


def test_the_page_is_made_of_the_lines(smoke: Path) -> None:
    assert main(["page", str(smoke)]) == 0
    page = (smoke.parent / "index.md").read_text(encoding="utf-8")
    assert "`f4_bound`" in page
    assert "nan" not in page


def test_the_committed_lines_are_complete() -> None:
    check_rows(read(COMMITTED))


def test_the_committed_page_is_made_of_the_committed_lines(tmp_path: Path) -> None:
    (tmp_path / COMMITTED.name).write_bytes(COMMITTED.read_bytes())
    main(["page", str(tmp_path / COMMITTED.name)])
    made = (tmp_path / "index.md").read_text(encoding="utf-8")
    assert made == (COMMITTED.parent / "index.md").read_text(encoding="utf-8")


def test_the_table_beside_others_is_made_of_its_lines() -> None:
    """And every value of them was held against the truth."""
    assert beside.page() == beside.PAGE.read_text(encoding="utf-8")
    rows = [row for name in beside.FILES.values() for row in read(FOLDER / f"beside-{name}.jsonl")]
    assert rows
    assert all(row["held"] for row in rows)


def test_the_pictures_are_of_the_committed_lines(tmp_path: Path) -> None:
    """Every figure is a mark, and the ticks are plain numbers."""
    pytest.importorskip("matplotlib", reason="pip install '.[plot]'")
    for name in ("suite.jsonl", "price-1.jsonl", "sizes-curves.jsonl"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    pictures.write(tmp_path)
    pages = {"circular": ("64 channels", "1024"), "price": ("flat", "0.1"), "sizes": ("espnet", "best circulant", "32")}
    for name, words in pages.items():
        drawn, stored = ((folder / f"{name}.svg").read_text("utf-8") for folder in (tmp_path, FOLDER))
        for text in (drawn, stored):
            assert all(f">{word}</text>" in text for word in words)
            assert "mathdefault" not in text
        assert drawn.count("<use ") == stored.count("<use ")


def test_a_textbook_method_is_as_its_formula_says() -> None:
    """Gram steps are a Schatten norm at a size, and fall towards the norm without one; the others on 1x1 kernels."""
    import torch

    kernel = torch.tensor(np.random.RandomState(0).standard_normal((5, 4, 3, 3)))
    norm = float(yardsticks.rfft_svd(kernel, 12))
    symbols = torch.fft.fft2(kernel, s=(12, 12)).permute(2, 3, 0, 1)
    assert norm == pytest.approx(float(torch.linalg.matrix_norm(symbols, 2).max()), rel=1e-9)
    schatten = float((torch.linalg.svdvals(symbols) ** 64).sum(-1).max() ** (1 / 64))
    assert float(yardsticks.gram_rfft(kernel, 12)) == pytest.approx(schatten, rel=1e-9)
    assert float(yardsticks.gram_rfft(kernel.transpose(0, 1), 12)) == pytest.approx(schatten, rel=1e-9)
    bounds = [float(yardsticks.gram_conv(kernel, steps)) for steps in (1, 2, 3)]
    assert norm < bounds[2] < bounds[1] < bounds[0]
    flat = kernel[:, :, 1:2, 1:2]  # 1x1: row sums of the Gram matrix
    sums = (flat[:, :, 0, 0].mT @ flat[:, :, 0, 0]).abs().sum(1)
    assert float(yardsticks.gram_conv(flat, 1)) == pytest.approx(float(sums.max().sqrt()))
    scaled = torch.linalg.vector_norm(flat[:, :, 0, 0] * sums.rsqrt())
    assert float(yardsticks.aol(flat)) == pytest.approx(float(scaled))
    assert float(yardsticks.hopm_einsum(flat)) == pytest.approx(float(torch.linalg.matrix_norm(flat[:, :, 0, 0], 2)))


# -- whole networks --------------------------------------------------------------------------------------------------
def test_the_committed_networks_lie_in_order() -> None:
    """What inputs reach, multipliers, scaled, product; and beside eclipse-nn never above."""
    rows = read(FOLDER / networks_page.LINES)
    for name in networks_page.TITLES:
        found = {row["method"]: row["value"] for row in rows if row["network"] == name and "ended" not in row}
        ladder = [found[key] for key in ("below", "multipliers", "product") if key in found]
        assert ladder == sorted(ladder), name
        assert "product" in found, name
        if "scaled" in found:
            assert ladder[0] <= found["scaled"] <= found["product"]
    dense = [row for row in rows if row["method"] == "dense" and "ended" not in row]
    assert dense
    for row in dense:
        others = [
            row[key]["value"] for key in ("ECLipsE", "ECLipsE_Fast", "ECLipsE, Clarabel", "product") if key in row
        ]
        assert row["specnorm"]["value"] <= min(others)
        if "LipSDP" in row:
            assert row["LipSDP"]["value"] <= row["specnorm"]["value"] * (1 + 1e-6)


def test_the_networks_page_is_made_of_its_lines(tmp_path: Path) -> None:
    (tmp_path / networks_page.LINES).write_bytes((FOLDER / networks_page.LINES).read_bytes())
    networks_page.write(tmp_path)
    assert (tmp_path / "networks.md").read_text("utf-8") == (FOLDER / "networks.md").read_text("utf-8")


def test_what_inputs_reach_of_a_matrix_is_its_norm() -> None:
    """Of x -> Wx on images: every point has the norm; and a function with a kink is ascended."""
    import torch
    from bench.networks_models import reached, stretched

    random = np.random.RandomState(0)
    matrix = torch.tensor(random.standard_normal((5, 27)))
    found = reached(lambda x: x.flatten(1) @ matrix.T, (3, 3, 3), 3)["value"]
    assert found == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-3)
    assert stretched(lambda x: 3 * torch.relu(x), torch.ones((1, 1, 2, 2), dtype=torch.float64)) == pytest.approx(3)


def test_of_two_processors_the_smaller_ratio_is_kept() -> None:
    same = dict.fromkeys(KEY)
    one = [{**same, "name": "a", "faster": 2.0}, {**same, "name": "b", "faster": 1.0}, {**same, "name": "c"}]
    other = [{**same, "name": "b", "faster": 3.0}, {**same, "name": "a", "faster": 1.5}]
    assert worse(one, other) == [other[1], one[1], one[2]]
