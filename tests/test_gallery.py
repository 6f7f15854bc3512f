"""Pictures of the documentation, and the scripts that draw them."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shutil
from pathlib import Path

import pytest
from test_docs import ROOT, same

DOCS = ROOT / "docs"
SCRIPTS = sorted((DOCS / "gallery").glob("*.py"))
TRAINING = ("critic", "critic_in_ball", "denoiser")
"""Scripts that train for some seconds; CI runs the others."""


@pytest.mark.parametrize(
    "script",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.nightly] * (path.stem in TRAINING)) for path in SCRIPTS],
)
def test_a_script_prints_what_it_says_and_draws_its_picture(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for needed in ("matplotlib", "safetensors", *(["torch", "onnxscript"] if script.stem in TRAINING else [])):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    shutil.copytree(DOCS / "gallery", tmp_path / "gallery", ignore=shutil.ignore_patterns("*.svg"))
    shutil.copytree(DOCS / "examples" / "resnet20", tmp_path / "examples" / "resnet20")
    import matplotlib as mpl

    monkeypatch.chdir(tmp_path)
    with mpl.rc_context():
        mpl.use("agg")
        runpy.run_path(str(tmp_path / "gallery" / script.name), run_name="__main__")
    printed = capsys.readouterr().out
    expected = "".join(f"{line}\n" for line in re.findall(r"^# > (.*)$", script.read_text("utf-8"), re.MULTILINE))
    # What a training run reaches differs a little from one processor to another.
    assert same(printed, expected, 0.05 if script.stem in TRAINING else 2e-3), printed
    assert (tmp_path / "gallery" / f"{script.stem}.svg").stat().st_size > 5000
    assert (DOCS / "gallery" / f"{script.stem}.svg").stat().st_size < 40_000


def test_every_script_is_on_the_page_of_the_gallery() -> None:
    page = (DOCS / "gallery" / "README.md").read_text(encoding="utf-8")
    assert len(SCRIPTS) == 7
    for script in SCRIPTS:
        title, _, _ = script.read_text(encoding="utf-8").removeprefix('"""').partition("\n")
        assert f"## [{title}]({script.name})\n" in page
        assert f"({script.stem}.svg)" in page


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
