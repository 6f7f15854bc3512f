"""The graph of an exported model, with the original to be executed beside it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from specnorm.proof import TranslationError
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.operators import Constant, Convolution, Matrix
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.model import Computed, NotExecutedError, Trial, equal_but_for_rounding
from specnorm_networks.onnx import read
from specnorm_networks.sources.base import Exported


def graph_of(exported: Exported) -> Graph:
    """Read an exported model; what is compared with it is the original."""
    data = exported.model.SerializeToString()
    graph = read(io.BytesIO(data), "exported", len(data) + 1).graph(None)
    outputs = tuple(each.name for each in exported.model.graph.output)
    note = " ".join(filter(None, (graph.note, exported.note)))
    return replace(graph, model=Original(exported, outputs), note=note)


_PRECISIONS = {1: ("float32", 2.0**-24), 10: ("float16", 2.0**-11)}
"""Element types whose numbers are rounded, with their unit roundoffs."""


class Original:
    """See `specnorm_networks.model.Model`."""

    def __init__(self, exported: Exported, outputs: tuple[str, ...]) -> None:
        self.exported, self.outputs = exported, outputs

    def _arrays(self, inputs: Mapping[str, FloatArray]) -> list[FloatArray]:
        """One for each input; those that are held are 0."""
        found = []
        for each in self.exported.model.graph.input:
            shape = [dim.dim_value or 1 for dim in each.type.tensor_type.shape.dim]
            found.append(inputs[each.name] if each.name in inputs else np.zeros(shape))
        return found

    def values(self, inputs: Mapping[str, FloatArray]) -> Mapping[str, Computed]:
        """Inner values that the export names, and what the original returns."""
        arrays = self._arrays(inputs)
        try:
            found = dict(self.exported.inner(*arrays)) if self.exported.inner is not None else {}
            returned = dict(zip(self.outputs, self.exported.run(*arrays), strict=True))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise NotExecutedError(f"the model does not run on it ({type(error).__name__}: {error})") from error
        for name, value in returned.items():
            if name in found and not equal_but_for_rounding(found[name], value):
                raise TranslationError(
                    f"The network was exported otherwise than it computes: output {name} of the program is not the "
                    "model's. No bound is given."
                )
        return self._rounded(inputs) | returned | found

    def _rounded(self, inputs: Mapping[str, FloatArray]) -> dict[str, Computed]:
        """Inputs as the original takes them, with the precision that it computes in."""
        kinds = {
            each.name: _PRECISIONS.get(each.type.tensor_type.elem_type) for each in self.exported.model.graph.input
        }
        found = {}
        for name, x in inputs.items():
            dtype, unit = kinds.get(name) or ("float64", 2.0**-53)
            found[name] = Computed(np.asarray(x).astype(dtype).astype(np.float64), unit)
        return found

    def alone(self, inputs: Mapping[str, FloatArray], trial: Trial) -> None:
        """Show every operator to a trial, where the export names them."""
        if self.exported.alone is None:
            return
        try:
            self.exported.alone(trial, *self._arrays(inputs))
        except TranslationError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise NotExecutedError(f"no operator runs alone ({type(error).__name__}: {error})") from error

    def several(self, inputs: Mapping[str, FloatArray]) -> Mapping[str, Computed] | None:
        """What the original returns for other numbers of samples; None if it fails, or they are not spoken of."""
        if not self.exported.free:
            return None
        try:
            return dict(zip(self.outputs, self.exported.run(*self._arrays(inputs)), strict=True))
        except Exception:  # whatever the model's own code raises
            return None

    def computed_constant(self, graph: Graph) -> str | None:
        """A node with numbers that the original does not store; None: there is none."""
        held = {_sorted(x) for x in self.exported.stored()}
        for node in graph.nodes:
            operator, found = node.operator, list[FloatArray]()
            if isinstance(operator, Convolution | Matrix):
                found = [operator.layer.kernel(), *([] if operator.bias is None else [operator.bias()[0]])]
            elif isinstance(operator, Constant):
                found = [operator.run()]
            if any(x.size > 1 and _sorted(x) not in held for x in found):
                return node.name
        return None


def _sorted(x: FloatArray) -> bytes:
    return np.sort(np.asarray(x, np.float64), axis=None).tobytes()
