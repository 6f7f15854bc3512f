"""Write reports as JUnit's XML, which continuous integration shows: a suite a model, a case a layer and a gate."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as Xml

from specnorm.proof import number, visible
from specnorm_audit.report import Gate, Report, verdict
from specnorm_audit.rows import Row

_OF_GATES = {"failed": "failure", "undecided": "error"}


def junit(reports: Sequence[Report]) -> str:
    """Return one document; what a model calls its layers cannot become markup."""
    suites = Xml.Element("testsuites", name="specnorm audit")
    for report in reports:
        suites.append(_suite(report))
    Xml.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + Xml.tostring(suites, encoding="unicode") + "\n"


def _suite(report: Report) -> Xml.Element:
    model = visible(report.model or "the arrays")
    suite = Xml.Element("testsuite", name=model)
    properties = Xml.SubElement(suite, "properties")
    _property(properties, "version", report.version)
    _property(properties, "verdict", verdict(report))
    for argument in ("assume_stored", "ignore"):
        for pattern in getattr(report, argument):
            _property(properties, argument, visible(pattern))
    if report.error is not None:
        _say(_case(suite, model, "the model"), "error", report.error)
    for row in (*report.layers, *report.unmeasured):
        _layer(_case(suite, model, visible(row.name)), row)
    for gate in report.gates:
        _gate(_case(suite, model, gate.option), gate)
    for kind, word in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(kind, str(len(list(suite.iter(word)))))
    return suite


def _property(properties: Xml.Element, name: str, value: str) -> None:
    Xml.SubElement(properties, "property", name=name, value=value)


def _case(suite: Xml.Element, model: str, name: str) -> Xml.Element:
    return Xml.SubElement(suite, "testcase", classname=model, name=name)


def _say(case: Xml.Element, kind: str, message: str, text: str = "") -> None:
    Xml.SubElement(case, kind, message=visible(message)).text = text or None


def _layer(case: Xml.Element, row: Row) -> None:
    """Say what is proven of a layer, or why nothing is."""
    if row.status == "ok":
        interval = f"{number(row.lower, 'lower')} <= norm <= {number(row.upper, 'upper')}"
        assumed = f"; assumed: {', '.join(map(visible, row.assumed))}" if row.assumed else ""
        Xml.SubElement(case, "system-out").text = interval + assumed
        return
    _say(case, "skipped" if row.status == "skipped" else "error", row.reason or "its bounds are no numbers")


def _gate(case: Xml.Element, gate: Gate) -> None:
    places = "\n".join(map(visible, gate.places))
    if gate.outcome == "passed":
        Xml.SubElement(case, "system-out").text = gate.sentence
        return
    _say(case, _OF_GATES[gate.outcome], gate.sentence, places)
