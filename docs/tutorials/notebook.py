"""Make notebooks of the PyTorch tutorial and of three scripts of the gallery: ``python docs/tutorials/notebook.py``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("torch.md")
GALLERY = PAGE.parents[1] / "gallery"
SCRIPTS = tuple(GALLERY / f"{name}.py" for name in ("deconvolution", "heuristic", "orthogonal"))
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r"^# > ?(.*\n)", re.MULTILINE)
OUTPUTS = re.compile(r"(?:^# >.*\n)+", re.MULTILINE)
WHERE = "docs/gallery of a checkout, where this notebook is"
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)[^)]*\)")
"""A link to another page, which a notebook elsewhere does not find."""
NOTICE = "To run it outside of a checkout, first install specnorm: `pip install '.[torch,networks]'` in a checkout.\n"


def notebooks() -> dict[Path, str]:
    """Return all notebooks as JSON, by their paths."""
    made = {path.with_suffix(".ipynb"): of_script(path) for path in SCRIPTS}
    return {PAGE.with_suffix(".ipynb"): of_page(PAGE), **made}


def of_page(path: Path) -> str:
    """Return the notebook of a page: a cell for each text and each block of code."""
    parts = BLOCK.split(path.read_text(encoding="utf-8"))
    return whole([text(part) if at % 2 == 0 else code(part, at // 2 + 1) for at, part in enumerate(parts)])


def of_script(path: Path) -> str:
    """Return the notebook of a script: its docstring, a cell for each part that prints, and the picture."""
    _, docstring, source = path.read_text(encoding="utf-8").split('"""', 2)
    title, _, story = docstring.partition("\n")
    source = source.replace("HERE = Path(__file__).parent", f"HERE = Path.cwd()  # {WHERE}")
    source = re.sub(r"figure\.savefig\(.*\)\n", "plt.show()\n", source)
    parts = [part for part in re.split(r"(?<=\n)(?=\n)", OUTPUTS.sub(r"\g<0>\n", source)) if part.strip()]
    groups: list[str] = []
    for part in parts:
        if groups and not OUTPUT.search(groups[-1]):
            groups[-1] += part
        else:
            groups.append(part)
    cells = [text(f"# {title}\n{story}"), *(code(group, at) for at, group in enumerate(groups, 1))]
    picture = {"image/svg+xml": lines(path.with_suffix(".svg").read_text(encoding="utf-8"))}
    cells[-1]["outputs"].append({"output_type": "display_data", "data": picture, "metadata": {}})
    return whole(cells)


def whole(cells: list[dict[str, Any]]) -> str:
    """Return a notebook of cells as JSON."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": [cell for cell in cells if cell["source"]],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def text(markdown: str) -> dict[str, Any]:
    """A cell of text, without links and without the sentences about pasting."""
    words = re.sub(r" Paste the\s+blocks in order.*?`# >`\.", "", markdown, flags=re.DOTALL)
    words = words.replace("Install from a checkout with `pip install '.[torch,networks]'`.\n", NOTICE)
    words = LINK.sub(r"\1", words).strip()
    return {"cell_type": "markdown", "id": name_of(words), "metadata": {}, "source": lines(words)}


def code(block: str, number: int) -> dict[str, Any]:
    """A cell of code; its outputs are the page's comments ``# > ...``."""
    printed = "".join(OUTPUT.findall(block))
    stream = {"name": "stdout", "output_type": "stream", "text": lines(printed)}
    return {
        "cell_type": "code",
        "execution_count": number,
        "id": f"code-{number}",
        "metadata": {},
        "outputs": [stream] if printed else [],
        "source": lines(OUTPUT.sub("", block).strip()),
    }


def lines(words: str) -> list[str]:
    """The lines of a text, as notebooks store them."""
    return words.splitlines(keepends=True)


def name_of(words: str) -> str:
    """A cell's name: its first words."""
    return re.sub(r"\W+", "-", words.partition("\n")[0].lower()).strip("-")[:60] or "text"


if __name__ == "__main__":
    for path, notebook in notebooks().items():
        path.write_text(notebook, encoding="utf-8")
