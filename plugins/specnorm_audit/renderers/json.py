"""JSON: everything, for programs. Numbers round-trip; what is not finite is null."""

from __future__ import annotations

import json
from collections.abc import Sequence

from specnorm_audit.report import Report


def render(reports: Sequence[Report], *, many: bool) -> str:
    """One object, or a list of them where several models were asked for."""
    data = [report.to_dict() for report in reports]
    # ASCII, so that no character of a layer's name can act on a terminal.
    return json.dumps(data if many else data[0], indent=2, allow_nan=False) + "\n"
