"""The README as a page of the site: it lies outside of docs/, where MkDocs does not look. Bars in tables' code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

README = Path(__file__).parents[2] / "README.md"


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add README.md as readme.md, its links relative to docs/."""
    text = README.read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "readme.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to the README lead to that page."""
    return markdown.replace("](../README.md", "](readme.md")


def on_page_content(html: str, **_: Any) -> str:
    """Code in a table: a bar is escaped there for GitHub, and Python-Markdown leaves the backslash."""
    return re.sub(r"<td.*?</td>", lambda cell: cell.group().replace("\\|", "|"), html, flags=re.DOTALL)
