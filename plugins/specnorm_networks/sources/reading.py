"""The graph of an exported model, with the original to be executed beside it."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from specnorm.errors import TranslationError
from specnorm_networks import onnx
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.model import Computed, NotExecutedError, Trial
from specnorm_networks.sources.base import Exported


def graph_of(exported: Exported) -> Graph:
    """Read an exported model; what is compared with it is the original."""
    data = exported.model.SerializeToString()
    graph = onnx.read(io.BytesIO(data), "exported", len(data) + 1).graph(None)
    outputs = tuple(each.name for each in exported.model.graph.output)
    return replace(graph, model=Original(exported, outputs), note=exported.note)


class Original:
    """See `specnorm_networks.model.Model`."""

    def __init__(self, exported: Exported, outputs: tuple[str, ...]) -> None:
        self.exported, self.outputs = exported, outputs
        self.inputs = tuple(each.name for each in exported.model.graph.input)

    def values(self, inputs: Mapping[str, FloatArray]) -> Mapping[str, Computed]:
        """Inner values that the export names, and what the original returns."""
        arrays = [inputs[name] for name in self.inputs]
        try:
            found = dict(self.exported.inner(*arrays)) if self.exported.inner is not None else {}
            returned = dict(zip(self.outputs, self.exported.run(*arrays), strict=True))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise NotExecutedError(f"the model does not run on it ({type(error).__name__}: {error})") from error
        for name, value in returned.items():
            if name in found and not alike(found[name], value):
                raise TranslationError(
                    f"The network was exported otherwise than it computes: output {name} of the program is not the "
                    "model's. No bound is given."
                )
        return returned | found

    def alone(self, inputs: Mapping[str, FloatArray], trial: Trial) -> None:
        """Nothing yet."""

    def several(self, inputs: Mapping[str, FloatArray]) -> Mapping[str, Computed] | None:
        """What the original returns for other numbers of samples; None if it fails, or they are not spoken of."""
        if not self.exported.free:
            return None
        try:
            return dict(zip(self.outputs, self.exported.run(*(inputs[name] for name in self.inputs)), strict=True))
        except Exception:  # whatever the model's own code raises
            return None


def alike(one: Computed, other: Computed) -> bool:
    """Whether two results of a whole network differ by no more than rounding may make: by the root of its unit."""
    if one.value.shape != other.value.shape:
        return False
    near = math.sqrt(2 * max(one.unit, other.unit))
    with np.errstate(all="ignore"):
        size = float(np.max(np.where(np.isfinite(one.value), abs(one.value), 0.0), initial=0.0))
    return np.allclose(one.value, other.value, rtol=near, atol=near * size, equal_nan=True)
