"""The README in the distributions' metadata, where relative links lead nowhere.

With the environment variable ``SPECNORM_REPOSITORY`` (https://github.com/OWNER/NAME, which the release sets), its links
and pictures are absolute, at the version's tag. Without it, links become text and pictures are left out.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PICTURE = re.compile(r"!\[([^\]]*)\]\((?!https?:)([^)]*)\)\n*")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)]*)\)")


def published(readme: str, repository: str, version: str) -> str:
    """Return the README with absolute links and pictures, or, without a repository, with none."""
    if not repository:
        return LINK.sub(r"\1", PICTURE.sub("", readme))
    pictures = PICTURE.sub(rf"![\1]({repository}/raw/v{version}/\2)\n\n", readme)
    return LINK.sub(rf"[\1]({repository}/blob/v{version}/\2)", pictures)


class CustomMetadataHook(MetadataHookInterface):
    """Fills the field ``readme`` of `pyproject.toml`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Put the README into the metadata."""
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = published(readme, os.environ.get("SPECNORM_REPOSITORY", ""), metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
