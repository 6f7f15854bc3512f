"""The graph of an exported model, with the original to be executed beside it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import helper

from specnorm.proof import TranslationError
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.operators.executed import UNITS
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
            each.name: helper.tensor_dtype_to_np_dtype(each.type.tensor_type.elem_type)
            for each in self.exported.model.graph.input
        }
        given = {name: np.asarray(x).astype(kinds.get(name, np.float64)) for name, x in inputs.items()}
        return {name: Computed(x, UNITS.get(x.dtype.name, UNITS["float64"])) for name, x in given.items()}

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
