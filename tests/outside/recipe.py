"""Render the conda recipe, and build it where conda-forge can be reached: ``python recipe.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.request import Request, urlopen

import rattler_build

RECIPE = Path(__file__).parents[2] / "conda" / "recipe.yaml"
CHANNEL = "https://conda.anaconda.org/conda-forge/"


def main(folder: Path) -> None:
    """Render, then build into the folder and test what was built."""
    (variant,) = rattler_build.Stage0Recipe.from_file(RECIPE).render()
    print(f"rendered: {variant}")
    try:
        urlopen(Request(f"{CHANNEL}noarch/repodata.json.zst", method="HEAD"), timeout=20).close()
    except OSError as error:
        print(f"NOT BUILT, since conda-forge cannot be reached: {error}")
        return
    tools = rattler_build.ToolConfiguration(test_strategy="native")
    print(f"built: {variant.run_build(tools, output_dir=folder, channels=[CHANNEL])}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
