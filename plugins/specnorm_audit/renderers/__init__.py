"""Reports -> text, one file per output format. Nothing is written to disk or terminal here."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from specnorm_audit.report import Report

FORMATS = ("table", "json", "csv", "markdown", "html")


def render(reports: Sequence[Report], output_format: str, *, many: bool = False) -> str:
    """Render reports as text that ends in a newline.

    Parameters
    ----------
    output_format : str
        One of `FORMATS`.
    many : bool
        Whether several models were asked for: JSON is then a list, whatever became of them.
    """
    # Imported on demand: pages need Jinja2.
    module = importlib.import_module(f"{__name__}.{output_format}")
    text: str = module.render(reports, many=many)
    return text
