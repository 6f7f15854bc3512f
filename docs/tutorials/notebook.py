"""Make the notebook of the PyTorch tutorial from its page: ``python docs/tutorials/notebook.py`` writes torch.ipynb."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("torch.md")
NOTEBOOK = PAGE.with_suffix(".ipynb")
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r"^# > ?(.*\n)", re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)[^)]*\)")
"""A link to another page, which a notebook elsewhere does not find."""
NOTICE = "To run it outside of a checkout, first install specnorm: `pip install '.[torch,networks]'` in a checkout.\n"


def notebook() -> str:
    """Return the notebook as JSON."""
    parts = BLOCK.split(PAGE.read_text(encoding="utf-8"))
    cells = [text(part) if at % 2 == 0 else code(part, at // 2 + 1) for at, part in enumerate(parts)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {
        "cells": [cell for cell in cells if cell["source"]],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


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
    NOTEBOOK.write_text(notebook(), encoding="utf-8")
