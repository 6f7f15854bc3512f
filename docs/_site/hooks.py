"""What the site makes of pages that are written for GitHub: gallery, outputs apart from code, links to the geometry."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
CHECKER = "packages/check/specnorm_check/README.md"
"""The checker's proofs lie beside its code, in the folder that is to be copied; the site has them as a page."""
PROOFS = "check-proofs.md"
KINDS = ROOT / "build" / "kinds.md"
"""Where `docs/_site/kinds.py` writes."""
TABLE_OF_KINDS = re.compile(r"(<!-- kinds: .*? -->\n).*?(<!-- end of kinds -->)", re.DOTALL)
SCRIPT = re.compile(r"^## \[(.+)\]\((\w+\.py)\)\n\n(!.+\))\n", re.MULTILINE)
"""A section of the gallery: the script's title and name, its picture."""
OUTPUT = re.compile(r'<span class="c1"># &gt; ?(.*?)</span>\n')
"""A comment ``# > ...``, which stands for what a script prints."""
PRINTED = re.compile(r'<span class="go">([^<]*)</span>\n')
GEOMETRY = "<code>specnorm.Geometry</code>"
"""How docstrings name the one list of the keywords that describe a layer."""
SHAPE = re.compile(r"\(array, shape(\([^<]*?\))\)")
"""How the parser of docstrings shows the type of an array with a shape."""
FOR_AUTHORS = (
    "specnorm.methods.Method", "specnorm.methods.Stepped", "specnorm.plugin.Backend", "specnorm_networks.Graph",
    "specnorm.ConvSpec",
)  # fmt: skip
"""Classes whose members are on the page, but not in its menu."""


def on_config(config: Any) -> Any:
    """Put the version into the footer; without a repository, link to no source."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["version"]
    config.copyright = f"specnorm {settings['fallback-version']} · MIT license"
    if not config.repo_url:
        config.edit_uri = config.repo_url = None
    return config


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the checker's proofs."""
    files.append(File.generated(config, PROOFS, content=(ROOT / CHECKER).read_text(encoding="utf-8")))
    return files


def with_script(section: re.Match[str]) -> str:
    """A picture of the gallery between what its script's docstring says and the script, folded."""
    title, name, picture = section.groups()
    text = (ROOT / "docs" / "gallery" / name).read_text(encoding="utf-8")
    _, _, words = (ast.get_docstring(ast.parse(text)) or "").partition("\n")
    code = text.split('"""\n', 1)[1].strip("\n")
    folded = f"<details markdown>\n<summary>{name}</summary>\n\n```python\n{code}\n```\n\n</details>"
    return f"## {title}\n{words}\n\n{picture}{{ .picture }}\n\n{folded}\n"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Link to pages of the site instead of files; mark examples with prompts as sessions of an interpreter."""
    markdown = re.sub(rf"\]\(\.\./((?:\.\./)*){re.escape(CHECKER)}", rf"](\1{PROOFS}", markdown)
    markdown = re.sub(r"\]\((?:\.\./)+README\.md", "](index.md", markdown)
    if page.file.src_uri == "gallery/README.md":
        markdown = SCRIPT.sub(with_script, markdown)
    if page.file.src_uri == "guarantees.md" and KINDS.is_file():
        table = KINDS.read_text(encoding="utf-8")
        markdown = TABLE_OF_KINDS.sub(lambda marks: f"{marks[1]}\n{table}\n{marks[2]}", markdown)
    return re.sub(r"^```python\n(?=>>> )", "```pycon\n", markdown, flags=re.MULTILINE)


def without_members(entries: Any) -> None:
    """Take the members of classes for authors out of a page's menu."""
    for entry in entries:
        if entry.id in FOR_AUTHORS:
            entry.children = []
        without_members(entry.children)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Set outputs apart from code; in code of a table, take away the backslash that escapes a bar for GitHub."""
    without_members(page.toc)
    if page.file.src_uri.startswith("api/"):
        place = "" if page.file.src_uri == "api/layer.md" else "layer.html"
        html = SHAPE.sub(r"array, shape \1", html)
        html = html.replace(GEOMETRY, f'<a href="{place}#specnorm.Geometry">{GEOMETRY}</a>')

    html = OUTPUT.sub(r'<span class="go">\1</span>\n', html)
    # The line's end belongs to the output, so that the code is copied without empty lines.
    html = PRINTED.sub('<span class="go">\\1\n</span>', html)
    return re.sub(r"<td.*?</td>", lambda cell: cell.group().replace("\\|", "|"), html, flags=re.DOTALL)
