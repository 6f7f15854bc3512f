"""Render the conda recipe, and build it where conda-forge can be reached: ``python recipe.py FOLDER``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import rattler_build

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "conda" / "recipe.yaml"
CHANNEL = "https://conda.anaconda.org/conda-forge/"


def main(folder: Path) -> None:
    """Render, then build into the folder and test what was built."""
    (variant,) = rattler_build.Stage0Recipe.from_file(recipe()).render()
    print(f"rendered: {variant}")
    try:
        urlopen(Request(f"{CHANNEL}noarch/repodata.json.zst", method="HEAD"), timeout=20).close()
    except OSError as error:
        print(f"NOT BUILT, since conda-forge cannot be reached: {error}")
        return
    tools = rattler_build.ToolConfiguration(test_strategy="native")
    print(f"built: {variant.run_build(tools, output_dir=folder, channels=[CHANNEL])}")


def recipe() -> Path:
    """The recipe, with the version of the source distribution that is there: between tags it is that of the commit."""
    sources = [*(ROOT / "build" / "dist").glob("specnorm_bounds-*.tar.gz")]
    if not sources:
        return RECIPE
    version = sources[0].name.removeprefix("specnorm_bounds-").removesuffix(".tar.gz")
    text = re.sub(
        r'^  version: ".*"$', f'  version: "{version}"', RECIPE.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    path = ROOT / "build" / "recipe" / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("../build/dist/", "../dist/"), encoding="utf-8")
    return path


if __name__ == "__main__":
    main(Path(sys.argv[1]))
