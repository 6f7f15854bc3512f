"""Text tables for people: no colours, no markup, control characters shown as escapes."""

from __future__ import annotations

from collections.abc import Sequence

from specnorm_audit.report import Report


def render(reports: Sequence[Report], *, many: bool) -> str:
    """One table a model, however ``many`` were asked for."""
    del many
    return "\n".join(map(str, reports))
