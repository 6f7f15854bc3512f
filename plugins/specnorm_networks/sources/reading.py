"""The graph of an exported model, with the original to be executed beside it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace

from specnorm.proof import TranslationError
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.model import Computed, NotExecutedError, Trial, equal_but_for_rounding, largest
from specnorm_networks.onnx import read
from specnorm_networks.onnx.reference import given_arrays, unit_of
from specnorm_networks.sources.base import Exported


def graph_of(exported: Exported) -> Graph:
    """Read an exported model; what is compared with it is the original."""
    data = exported.model.SerializeToString()
    graph = read(io.BytesIO(data), "exported", len(data) + 1).graph(None)
    outputs = tuple(each.name for each in exported.model.graph.output)
    note = " ".join(filter(None, (graph.note, exported.note)))
    return replace(graph, model=Original(exported, outputs, data), note=note)


class Original:
    """See `specnorm_networks.model.Model`."""

    def __init__(self, exported: Exported, outputs: tuple[str, ...], file: bytes) -> None:
        self.exported = exported
        self.outputs = outputs
        self.file: bytes | None = file
        self._first_size_of_inputs = 0.0
        self._first_sizes: dict[str, float] = {}
        """Largest absolute value of each output for the first inputs, which are drawn at random."""

    def values(self, inputs: Mapping[str, FloatArray]) -> Mapping[str, Computed]:
        """Inner values that the export names, and what the original returns."""
        given = given_arrays(self.exported.model.graph, inputs)
        arrays = given.values()
        try:
            found = {name: Computed(x, unit_of(x)) for name, x in given.items() if name in inputs}
            found |= self.exported.inner(*arrays) if self.exported.inner is not None else {}
            returned = dict(zip(self.outputs, self.exported.run(*arrays), strict=True))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise NotExecutedError(f"the model does not run on it ({type(error).__name__}: {error})") from error
        usual = self._usual_sizes(inputs, returned)
        for name, value in returned.items():
            if name in found and not equal_but_for_rounding(found[name], value, usual[name]):
                raise TranslationError(
                    f"{self.exported.name} was exported otherwise than it computes: output {name} of the program is "
                    "not the model's. No bound is given. Kernels that move from call to call become plain ones by "
                    "specnorm_torch.bake_."
                )
        return returned | found

    def _usual_sizes(self, inputs: Mapping[str, FloatArray], returned: Mapping[str, Computed]) -> dict[str, float]:
        """Return the size of each output for inputs as large as these; for larger inputs that of the first ones."""
        size_of_inputs = max((largest(x) for x in inputs.values()), default=0.0)
        if not self._first_sizes:
            self._first_sizes = {name: largest(output.value) for name, output in returned.items()}
            self._first_size_of_inputs = size_of_inputs
        share = min(1.0, size_of_inputs / self._first_size_of_inputs) if self._first_size_of_inputs else 0.0
        return {name: share * size for name, size in self._first_sizes.items()}

    def alone(self, inputs: Mapping[str, FloatArray], trial: Trial) -> None:
        """Show every operator to a trial, where the export names them."""
        if self.exported.alone is None:
            return
        arrays = given_arrays(self.exported.model.graph, inputs).values()
        try:
            self.exported.alone(trial, *arrays)
        except TranslationError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise NotExecutedError(f"no operator runs alone ({type(error).__name__}: {error})") from error

    def several(self, inputs: Mapping[str, FloatArray]) -> Mapping[str, Computed] | None:
        """What the original returns for other numbers of samples; None if it fails, or they are not spoken of."""
        if not self.exported.free:
            return None
        arrays = given_arrays(self.exported.model.graph, inputs).values()
        try:
            return dict(zip(self.outputs, self.exported.run(*arrays), strict=True))
        except Exception:  # whatever the model's own code raises
            return None
