"""The answer to a question about a network: its bound, node by node, with the claims that prove it."""

from __future__ import annotations

import hashlib
import html
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specnorm_check import Part

from specnorm.errors import CertificateError, MethodError
from specnorm.proof import NoNumber, Upper, counted, lines, number, visible
from specnorm_networks.certified.propagation import Step, UnknownNode
from specnorm_networks.certified.rules import premises_first
from specnorm_networks.certified.subjects import Map
from specnorm_networks.model import Checked
from specnorm_networks.tables import aligned, html_table, shortened

if TYPE_CHECKING:
    import onnx

MOST_LINES = 40
"""Largest number of lines of an explanation, about: a screen."""
NORM_LEVELS = 2
"""Number of levels of a norm's proof that are explained."""
COMPLETE = "complete"
"""Status of a bound whose search and proof ended before their time limit."""


class AnswerWithFile:
    """An answer; of a live model it is proven of the ONNX file that was exported: ``file`` has its bytes, else None."""

    file: bytes | None

    @property
    def model(self) -> onnx.ModelProto | None:
        """The exported ONNX model; None unless the source was a live model."""
        if self.file is None:
            return None
        import onnx

        return onnx.load_from_string(self.file)

    @property
    def digest(self) -> str:
        """SHA-256 of the exported file, in hexadecimal digits; empty unless the source was a live model."""
        return "" if self.file is None else hashlib.sha256(self.file).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the exported ONNX model.

        Parameters
        ----------
        path : str or PathLike
            A file of this name is written over.

        Raises
        ------
        MethodError
            If the source was no live model: the answer is about a file or a graph of the user's then.
        """
        if self.file is None:
            raise MethodError("the source was not a live model: the result is about the given file or graph.")
        Path(path).write_bytes(self.file)


@dataclass(frozen=True)
class RunBound:
    """Layers and functions in a row, bounded together.

    Parameters
    ----------
    start, end : str
        Names of the values between which the layers lie.
    layers : tuple of tuple of str
        Names of the kernels; each inner tuple has those that are bounded by one proof.
    product : float
        Lipschitz constant of the run by the rules of single nodes.
    claim : Upper
        Lipschitz constant of the run as a whole, less than ``product``.
    statements : tuple of specnorm_check.Part
        What proves ``claim``: layers that are bounded together, each value with one weight a channel, or all units of a
        network, each function with the multipliers of its new units. A certificate states them. Of layers up to a
        matrix that reads their pixels: those of a larger bound, of each part alone.
    """

    start: str
    end: str
    layers: tuple[tuple[str, ...], ...]
    product: float
    claim: Upper
    statements: tuple[Part, ...] = field(default=(), repr=False, compare=False)

    @property
    def upper(self) -> float:
        """Proven Lipschitz constant."""
        return self.claim.value


@dataclass(frozen=True, repr=False)
class NetworkBound(AnswerWithFile, NoNumber):
    """Proven upper bound on the Lipschitz constant of a network in 2-norms.

    Parameters
    ----------
    claim : Upper or None
        ``|f(x) - f(y)| <= claim |x - y|`` for all x and y, all inputs and all outputs together, in real arithmetic.
        None if an output is unknown.
    ends : mapping of str to Upper or None
        The claim about each output by itself, by its name; None if it is unknown.
    nodes : tuple of Step
        Bounds of all values, in the order of computation.
    unknown : tuple of UnknownNode
        Nodes without a rule. All values that are computed from them are unknown, too.
    input_shapes : mapping of str to tuple
        Shapes for which the bound holds.
    product_claim : Upper or None
        The constant by the rules of single nodes, without `runs`.
    runs : tuple of RunBound
        Groups of layers that have a smaller constant together than the product of their norms.
    radius : float or None
        Radius of the ball around the given centre in which all constants hold; None: they hold everywhere.
    input_ranges : mapping of str to (float, float), or None
        Inputs for which a box is stated, by name, with the smallest and the largest number of an entry; None if these
        differ between entries. All constants hold in the box. Other inputs are not restricted.
    checked : Checked
        How the graph was compared with the model that it was read from, and how the answer was attacked.
    note : str
        Further remarks, such as that a module in ``train()`` was bounded as it is in ``eval()``.
    file : bytes or None
        The ONNX file that was exported from a live model and that the bound is about; `model` and `save` return it.
    others : tuple of RunBound
        Bounds by further searches, whose constants are larger. A certificate may use their multipliers.
    status : str
        "complete", or "budget: ..." if the time limit was reached before all searches and proofs ended, with the norms
        and searches that it cut. The bound is proven in both cases.
    """

    claim: Upper | None
    ends: Mapping[str, Upper | None]
    nodes: tuple[Step, ...]
    unknown: tuple[UnknownNode, ...]
    input_shapes: Mapping[str, tuple[int, ...]]
    product_claim: Upper | None = None
    runs: tuple[RunBound, ...] = ()
    radius: float | None = None
    input_ranges: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    checked: Checked = field(default_factory=Checked)
    note: str = ""
    status: str = COMPLETE
    others: tuple[RunBound, ...] = field(default=(), repr=False, compare=False)
    file: bytes | None = field(default=None, repr=False, compare=False)
    use_instead = "whose number is its .upper, which is None if an operator has no rule"
    _statement: Callable[[NetworkBound, str], Any] | None = field(default=None, repr=False, compare=False)
    """Makes the certificate from the bound and the claim's name."""

    def __getstate__(self) -> dict[str, Any]:
        """Put premises before the claims that they prove: else pickling recurses through a chain of thousands."""
        claims = [self.claim, self.product_claim, *self.ends.values(), *(run.claim for run in self.runs)]
        for step in self.nodes:
            claims += [step.own, step.claim]
        claims += [node.claim for node in self.unknown]
        present = [claim for claim in claims if claim is not None]
        order = premises_first(present, lambda claim: claim.of)  # type: ignore[arg-type,return-value]
        return {"_order": order, **self.__dict__, "_statement": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: value for name, value in state.items() if name != "_order"})

    # With Any for None, as in the standard library's stubs, callers who know that every node has a rule need not ask.
    @property
    def upper(self) -> float | Any:
        """Proven Lipschitz constant of all outputs together; None if one is unknown."""
        return None if self.claim is None else self.claim.value

    @property
    def outputs(self) -> dict[str, float | None]:
        """Proven Lipschitz constant of each output, by name; None if it is unknown."""
        return {name: None if claim is None else claim.value for name, claim in self.ends.items()}

    @property
    def product(self) -> float | Any:
        """Proven Lipschitz constant by the rules of single nodes, without `runs`."""
        return None if self.product_claim is None else self.product_claim.value

    @property
    def constants(self) -> dict[str, Upper]:
        """Proven Lipschitz constants of the values, by name, where they are known and finite."""
        claims = {step.name: step.claim for step in self.nodes if step.claim is not None}
        return {name: claim for name, claim in claims.items() if math.isfinite(claim.value)}

    @property
    def infinite(self) -> str:
        """Sentence that says why the constant is no finite number, with the first value with such a constant."""
        beyond = "beyond the largest number"
        infinite_steps = [step for step in self.nodes if step.upper == math.inf]
        if not infinite_steps:
            return f"no finite bound: those of its values are together {beyond}"
        step = infinite_steps[0]
        subject = "its own constant is" if step.factor == math.inf else "the constants up to it are together"
        return f"no finite bound: of {visible(step.name)} ({visible(step.operator)}), {subject} {beyond}"

    def explain(self) -> str:
        """Return the rules that prove ``upper``, one line for each value from the outputs back, with layers' norms."""
        if self.claim is None:
            return str(self)
        proof = {id(claim) for claim in premises_first([self.claim], lambda claim: claim.of)}  # type: ignore[arg-type,return-value]
        text = []
        for step in reversed(self.nodes):
            if step.claim is None or (step.factor == 1 and step.name not in self.ends):
                continue  # it is unknown, or has the constant of the value before it
            if len(self.input_shapes) == 1 and id(step.claim) not in proof:
                continue  # a value between layers that are bounded together
            text.append(f"{step.name} <= {number(step.claim.value, 'upper')}: {step.claim.rule}")
            # The first premise of a product is the node's own constant.
            for claim in (step.claim, *step.claim.of[:1]):
                for premise in claim.of:
                    if not isinstance(premise.what, Map):
                        text += lines(premise, ("upper", "<="), 0, 1, NORM_LEVELS)
        if len(text) > MOST_LINES:
            half = MOST_LINES // 2
            text = [*text[:half], f"... {len(text) - 2 * half} lines between", *text[-half:]]
        return "\n".join(map(visible, text))

    def certificate(self, name: str = "network") -> Any:
        """Return a certificate that can be checked without specnorm: ``python -m specnorm_check``.

        Its proof is searched for anew, with the weights of `runs` and `others`. The certified number is about 1 % above
        ``upper``, and more if the certificate's format lacks a rule that ``upper`` needs, but at most 1 % above
        ``product``. The claim states the number.

        Raises
        ------
        CertificateError
            If the format has no claim about such a network, or only one above ``product``, or if `network_bound` did
            not make the answer.
        """
        if self._statement is None:
            raise CertificateError(
                "this bound does not come from network_bound: call it, and use the certificate of its result."
            )
        return self._statement(self, name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: the field ``network`` of an audit's JSON. Numbers that are not finite become None."""
        data: dict[str, Any] = {"upper": self.upper, "product": self.product, "outputs": self.outputs}
        defaults: dict[str, object] = {
            "radius": None,
            "input_ranges": {},
            "note": "",
            "status": COMPLETE,
            "digest": "",
        }
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != default:
                data[name] = value
        data["checked"] = self.checked.to_dict()
        data["input_shapes"] = self.input_shapes
        data["runs"] = _rows(self.runs, "start", "end", "layers", "product", "upper")
        data["unknown"] = _rows(self.unknown, "name", "operator", "reason", "before")
        data["nodes"] = _rows(self.nodes, "name", "operator", "rule", "layer", "factor", "upper")
        plain: dict[str, Any] = _plain(data)
        return plain

    def __str__(self) -> str:
        """Return a table of the nodes, and the bound in sentences."""
        return "\n".join([*aligned(_rows_of_nodes(self.nodes)), "", *self.lines()])

    def __repr__(self) -> str:
        """Return the table, of at most `MOST_ROWS` nodes, and the sentences."""
        table = [*aligned(shortened(_rows_of_nodes(self.nodes))), ""] if self.nodes else []
        return "\n".join([*table, *self.lines()])

    def _repr_html_(self) -> str:
        sentences = "".join(f"<p>{html.escape(line)}</p>" for line in self.lines())
        return html_table(shortened(_rows_of_nodes(self.nodes))) + sentences

    def lines(self) -> list[str]:
        """Return the bound in sentences, line by line.

        Numbers are rounded up, and names from the network are escaped.
        """
        text: list[str] = []
        shapes = ", ".join(map(self._input_in_words, self.input_shapes))
        for run in self.runs:
            count = sum(map(len, run.layers))
            together = number(run.upper, "upper")
            product = number(run.product, "upper")
            if count < 2 or together == product:
                continue
            text.append(
                f"{count} layers from {visible(run.start)} to {visible(run.end)} together: at most "
                f"{together}, proven; their product is {product}."
            )
        if self.upper is not None:
            within = "" if self.radius is None else f" within {self.radius!r} of the input given"
            finite = f"Lipschitz constant at most {number(self.upper, 'upper')}, proven"
            text.append(f"Network ({shapes}): {finite if self.upper < math.inf else self.infinite}{within}.")
            text += filter(None, [self.origin])
            if self.checked.inputs and not self.checked.pairs:
                text.append("No two inputs could be tried against it.")
        else:
            text.append(f"Network ({shapes}): no bound, since it is unknown from {len(self.unknown)} of its nodes on:")
            for node in self.unknown:
                text.append(
                    f"  {visible(node.name)} ({visible(node.operator)}): {visible(node.reason)}; "
                    f"{self._at_most(node.before)} up to there."
                )
            for name, value in self.outputs.items():
                if value is not None:
                    text.append(f"  Output {visible(name)}: {self._at_most(value)}, proven.")
        if self.status != COMPLETE:
            text.append(f"Cut short: {self.status}.")
        return [*text, self.note] if self.note else text

    def _input_in_words(self, name: str) -> str:
        """Return an input's name, shape and box."""
        sizes = "x".join(map(str, self.input_shapes[name]))
        box = ""
        if name in self.input_ranges:
            ends = self.input_ranges[name]
            box = " in a given box" if ends is None else f" in [{_all_digits(ends[0])}, {_all_digits(ends[1])}]"
        return f"{visible(name)}: {sizes}{box}"

    @property
    def origin(self) -> str:
        """Sentence on which graph the bound is about, and how it was compared with the model.

        Empty for a file of which all values were compared.
        """
        checked = self.checked
        sentence = str(checked) if checked.reason or checked.missed else ""
        if self.file is None:
            return sentence
        if not sentence:
            sentence = f"Compared with the model on {counted(checked.inputs, 'input')}."
        return f"Of the exported graph; {sentence[0].lower()}{sentence[1:]}"

    def _at_most(self, value: float) -> str:
        return f"at most {number(value, 'upper')}" if value < math.inf else self.infinite


def _rows(objects: Sequence[object], *names: str) -> list[dict[str, Any]]:
    """Return the named attributes of each object."""
    rows = []
    for instance in objects:
        rows.append({name: getattr(instance, name) for name in names})
    return rows


def _plain(value: Any) -> Any:
    """Return data with lists for tuples, and None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    is_infinite = isinstance(value, float) and not math.isfinite(value)
    return None if is_infinite else value


def _rows_of_nodes(nodes: Sequence[Step]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("node", "operator", "rule", "factor", "upper", "layer")]
    for step in nodes:
        rows.append(
            (
                visible(step.name),
                visible(step.operator),
                visible(step.rule),
                number(step.factor, "upper"),
                number(step.upper, "upper"),
                visible(step.layer or ""),
            )
        )
    return rows


def _all_digits(end: float) -> str:
    """Return a number with all its digits, and no ".0" after a whole one."""
    return repr(float(end)).removesuffix(".0")
