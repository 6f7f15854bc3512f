"""What the standard says of the operators that the ONNX reader knows, and which of it the reader names."""

from __future__ import annotations

from typing import Any

import onnx
from specnorm_networks.onnx.binding import parameters
from specnorm_networks.onnx.constants import OLDEST
from specnorm_networks.onnx.operators import OPERATORS

HISTORY: dict[str, list[Any]] = {}
for _schema in onnx.defs.get_all_schemas_with_history():
    if _schema.domain == "" and not _schema.deprecated:
        HISTORY.setdefault(_schema.name, []).append(_schema)


def versions(operator: str) -> dict[int, Any]:
    """Operator sets in which an operator changed, from the first that is known on, and what the standard says there."""
    since = OPERATORS[operator].since if operator in OPERATORS else OLDEST
    sets = sorted({max(schema.since_version, since) for schema in HISTORY[operator]})
    return {opset: onnx.defs.get_schema(operator, opset) for opset in sets}


def places(operator: str) -> list[str]:
    """Names of the inputs, as the newest operator set has them."""
    *_, newest = versions(operator).values()
    return [each.name for each in newest.inputs]


def attributes(operator: str) -> set[str]:
    """Attributes that the reader knows, of whatever operator set; those that are ignored, too."""
    known = OPERATORS.get(operator)
    every = {name for schema in versions(operator).values() for name in schema.attributes}
    # Of constants alone all that the standard has: they are evaluated.
    return every if known is None else every & {*known.ignored, *parameters(known.build)}
