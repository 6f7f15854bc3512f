"""Pictures of the documentation, and the scripts that draw them."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
from pathlib import Path

import pytest
from helpers.processes import ran
from test_docs import ROOT, blocks, name_of, pages, same

DOCS = ROOT / "docs"
SCRIPTS = sorted((DOCS / "gallery").glob("*.py"))
TRAINING = ("critic", "critic_in_ball", "denoiser")
"""Scripts that train for some seconds; CI runs the others."""
WIDTH = 115
"""Characters of code beside the contents of a page, in a window of 1280 pixels."""


@pytest.mark.parametrize(
    "script",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.nightly] * (path.stem in TRAINING)) for path in SCRIPTS],
)
def test_a_script_prints_what_it_says_and_draws_its_picture(script: Path, tmp_path: Path) -> None:
    for needed in ("matplotlib", "safetensors", *(["torch", "onnxscript"] if script.stem in TRAINING else [])):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    shutil.copytree(DOCS / "gallery", tmp_path / "gallery", ignore=shutil.ignore_patterns("*.svg"))
    shutil.copytree(DOCS / "examples" / "resnet20", tmp_path / "examples" / "resnet20")
    printed = ran(str(tmp_path / "gallery" / script.name), cwd=tmp_path, OMP_NUM_THREADS="1", MPLBACKEND="agg")
    expected = "".join(f"{line}\n" for line in re.findall(r"^# > (.*)$", script.read_text("utf-8"), re.MULTILINE))
    # What a training run reaches differs a little from one processor to another.
    assert same(printed, expected, 0.05 if script.stem in TRAINING else 2e-3), printed
    assert (tmp_path / "gallery" / f"{script.stem}.svg").stat().st_size > 5000
    assert (DOCS / "gallery" / f"{script.stem}.svg").stat().st_size < 40_000


def test_every_script_is_on_the_page_of_the_gallery() -> None:
    page = (DOCS / "gallery" / "README.md").read_text(encoding="utf-8")
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert len(SCRIPTS) == 7
    for script in SCRIPTS:
        assert f"]({script.name})" in page
        assert f"({script.stem}.svg)" in page
        assert f"gallery/{script.stem}.md" in site


def test_pictures_show_what_is_computed_and_measured() -> None:
    pytest.importorskip("safetensors", reason="pip install '.[cli]'")
    spec = importlib.util.spec_from_file_location("draw", DOCS / "pictures" / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    assert {path.name for path in draw.FOLDER.glob("*.svg")} == draw.PICTURES.keys()
    for name, picture in draw.PICTURES.items():
        committed = (draw.FOLDER / name).read_text(encoding="utf-8")
        assert same(picture(), committed, 2e-3), f"{name} shows something else: python docs/pictures/draw.py"


def code(block: str, language: str) -> list[str]:
    """Lines that a reader types: not what a session or a command prints, whose lines may go on in the next."""
    lines = block.splitlines()
    if language == "console" or block.startswith(">>> "):
        return [line for line in lines if line.startswith((">>> ", "... ", "$ "))]
    return lines


def test_no_code_is_wider_than_its_column() -> None:
    wide = [
        f"{name_of(path)}: {line}"
        for path in pages()
        for language in ("python", "py", "console")
        for _, block in blocks(path.read_text(encoding="utf-8"), language)
        for line in code(block, language)
        if len(line) > WIDTH
    ]
    assert not wide


def test_pages_quote_what_the_constraint_was_measured_to_do() -> None:
    """An upper bound is needed for "at most": a line that has the lower bound alone says it to 0.3 %."""
    worst: dict[str, dict[str, float]] = {"default": {}, "torch": {}}
    upper = 0.0
    for line in (DOCS / "benchmarks" / "constraint.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        if run["method"] in worst and "skipped" not in run:
            earlier = worst[run["method"]].get(run["loop"], 0.0)
            worst[run["method"]][run["loop"]] = max(earlier, run["worst"])
            if run["method"] == "default":
                upper = max(upper, run.get("worst_upper", 1.003 * run["worst"]))
    default = f"at most {math.ceil(1000 * upper) / 1000:.3f}"
    torch = worst["torch"]
    largest = f"{max(torch.values()):.1f}"
    least = f"at least {math.floor(min(torch.values()) * 10) / 10}"
    convolutions = f"at least {math.floor(min(torch[loop] for loop in torch if loop != 'perceptron') * 10) / 10}"
    says = {name: " ".join((DOCS / name).read_text(encoding="utf-8").split()) for name in (
        "../README.md", "index.md", "benchmarks/index.md", "recipes.md", "training.md",
    )}  # fmt: skip
    for name, page in says.items():
        assert default in page, name
    assert least in says["index.md"]
    assert f"norm was {largest}" in says["index.md"]
    assert f"{convolutions} in each loop" in says["recipes.md"]
