"""The graph of an exported model, with the original to be executed beside it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from specnorm.errors import MethodError, SpecnormError, TranslationError
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.operators.splines import CLAMP_LAST
from specnorm_networks.model import UNITS, Computed, Inputs, NotExecutedError, equal_but_for_rounding, largest
from specnorm_networks.onnx import read
from specnorm_networks.onnx.reference import arrays_for_inputs
from specnorm_networks.sources.base import Array, Exported, in_words


def graph_of(exported: Exported) -> Graph:
    """Return the graph of an exported model, to be compared with the original model."""
    if not exported.model.graph.output:
        raise MethodError(f"{exported.name} returns no array: it has to return its outputs.")
    content = exported.model.SerializeToString()
    graph = read(io.BytesIO(content), "exported", len(content) + 1).graph(None)
    if exported.again is not None and any(node.is_fixed and not node.is_constant for node in graph.nodes):
        with suppress(MethodError):
            return graph_of(exported.again())
    output_names = tuple(output.name for output in exported.model.graph.output)
    note = " ".join(filter(None, (graph.note, exported.note)))
    return replace(graph, model=Original(exported, output_names, content), note=note)


SMALLEST_SHARE = 2.0**-12
"""Least share of the usual size that an output has: the tolerance of it is about a rounding of usual size."""


@dataclass(eq=False)
class Original:
    """The original of an exported model: a `specnorm_networks.model.Model`."""

    exported: Exported
    output_names: tuple[str, ...]
    file: bytes | None
    _first_size_of_inputs: float = 0.0
    _first_sizes: dict[str, float] = field(default_factory=dict)
    """Largest absolute value of each output for the first inputs, which are drawn at random."""

    def values(self, inputs: Inputs) -> Mapping[str, Computed]:
        """Return the inputs, the inner values that the export names, and the original's outputs."""
        arrays_by_name = arrays_for_inputs(self.exported.model.graph, inputs)
        arrays = arrays_by_name.values()
        values = {name: Computed(x, UNITS["float64"]) for name, x in arrays_by_name.items() if name in inputs}
        try:
            if self.exported.inner is not None:
                values |= self.exported.inner(*arrays)
            outputs = self._run(arrays)
        except (SpecnormError, NotExecutedError):
            raise
        except Exception as error:  # whatever the model's own code raises
            raise NotExecutedError(f"the model does not run on it. {in_words(error)}".rstrip(".")) from error
        usual_sizes = self._usual_sizes(inputs, outputs)
        for name, output in outputs.items():
            if name in values and not equal_but_for_rounding(values[name], output, usual_sizes[name]):
                raise TranslationError(
                    f"{self.exported.name} was exported otherwise than it computes: output {name} of the program is "
                    f"not the model's. No bound is given. {self._advice()}"
                )
        return outputs | values

    def _run(self, arrays: Iterable[Array]) -> dict[str, Computed]:
        """Return the original's outputs by their names."""
        return dict(zip(self.output_names, self.exported.run(*arrays), strict=True))

    def _advice(self) -> str:
        """Return what may be done about a program that computes something else than its model."""
        if any(node.op_type == "Floor" for node in self.exported.model.graph.node):
            return f"The program's floor jumps at whole numbers, where a rounding decides: {CLAMP_LAST}."
        return (
            "Kernels that move from call to call become plain ones by specnorm_torch.bake_. If a layer takes its scale "
            "from the first input that it sees (ActNorm), call the model once on data before."
        )

    def _usual_sizes(self, inputs: Inputs, outputs: Mapping[str, Computed]) -> dict[str, float]:
        """Return the size of each output for inputs as large as these; for larger inputs that of the first ones.

        Inner values may be of usual size for the smallest inputs, too, where biases are added.
        """
        size_of_inputs = max((largest(x) for x in inputs.values()), default=0.0)
        if not self._first_sizes:
            self._first_sizes = {name: largest(output.value) for name, output in outputs.items()}
            self._first_size_of_inputs = size_of_inputs
        share = min(1.0, size_of_inputs / self._first_size_of_inputs) if self._first_size_of_inputs else 0.0
        return {name: max(share, SMALLEST_SHARE) * size for name, size in self._first_sizes.items()}

    def several(self, inputs: Inputs) -> Mapping[str, Computed] | None:
        """Return the original's outputs for another number of samples; None if it fails, or the number is fixed."""
        if not self.exported.free:
            return None
        arrays = arrays_for_inputs(self.exported.model.graph, inputs).values()
        try:
            return self._run(arrays)
        except Exception:  # whatever the model's own code raises
            return None
