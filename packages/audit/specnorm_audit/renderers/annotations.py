"""Write what a report finds for programs that review code: GitHub's workflow commands, and SARIF 2.1.0."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from specnorm.proof import visible
from specnorm_audit.report import Report, verdict

Level = Literal["error", "warning", "note"]
_LEVELS: dict[str, Level] = {"failed": "error", "undecided": "error", "passed": "note"}
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


class _Finding(NamedTuple):
    """A sentence about a model, or about one of its layers.

    ``rule``: the option of a gate, "layer" or "model".
    """

    rule: str
    level: Level
    text: str
    layer: str = ""


def github(reports: Sequence[Report]) -> str:
    """Return GitHub's workflow commands, one a line: a log that prints them annotates the model's file."""
    lines = []
    for report in reports:
        file = _property(report.model or "")
        for finding in _findings(report):
            command = "notice" if finding.level == "note" else finding.level
            title = _property(f"specnorm {finding.rule}")
            lines.append(f"::{command} file={file},title={title}::{_message(finding.text)}\n")
    return "".join(lines)


def sarif(reports: Sequence[Report]) -> str:
    """Return one document of the Static Analysis Results Interchange Format."""
    found = [(report, finding) for report in reports for finding in _findings(report)]
    driver = {
        "name": "specnorm",
        "version": reports[0].version,
        "rules": [{"id": rule} for rule in dict.fromkeys(finding.rule for _, finding in found)],
    }
    run = {"tool": {"driver": driver}, "results": [_result(report, finding) for report, finding in found]}
    document = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _findings(report: Report) -> Iterator[_Finding]:
    """Yield the verdict, the layers without bounds, and the answers of the gates with the layers that they name."""
    yield _Finding("model", "error" if report.error is not None else "note", verdict(report))
    for row in (*report.layers, *report.unmeasured):
        if row.status == "error":
            yield _Finding("layer", "warning", f"{visible(row.name)}: {visible(row.reason or 'no bounds')}", row.name)
    for gate in report.gates:
        answer = "\n".join([gate.sentence, *map(visible, gate.places)])
        yield _Finding(gate.option.split()[0], _LEVELS[gate.outcome], answer)


def _result(report: Report, finding: _Finding) -> dict[str, Any]:
    uri = quote(visible(report.model or "arrays"))
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": uri}}}
    if finding.layer:
        location["logicalLocations"] = [{"name": visible(finding.layer)}]
    return {
        "ruleId": finding.rule, "level": finding.level, "message": {"text": finding.text}, "locations": [location]
    }  # fmt: skip


def _message(text: str) -> str:
    """Escape what would end a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape what would end a property of a workflow command."""
    return _message(visible(text)).replace(":", "%3A").replace(",", "%2C")
