"""The command line: arguments, progress, exit codes. The only printing in the package; measuring is `audit`'s."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from specnorm import backends
from specnorm.errors import ModelFileError, SpecnormError
from specnorm.problem.spec import Layout
from specnorm.text import visible
from specnorm_audit import audit, gates, help, options, plots
from specnorm_audit.measuring import BUDGET
from specnorm_audit.output import check_outputs, replace_file
from specnorm_audit.processes import Workers, cpus
from specnorm_audit.readers import MAX_BYTES
from specnorm_audit.renderers import FORMATS, render
from specnorm_audit.report import Gate, Outcome, Report
from specnorm_audit.rows import COLUMNS
from specnorm_audit.streams import complain, progress, write

if TYPE_CHECKING:
    import click


OK, GATE_FAILED, TROUBLE, INTERRUPTED = 0, 1, 2, 130


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        None: those of the process.

    Returns
    -------
    int
        Exit code: 0; 1 if a gate failed, whatever else happened; 2 for wrong usage, an unreadable file or a layer that
        could not be measured.
    """
    import click

    text = io.StringIO()
    code: Any = TROUBLE
    try:
        code = _application().main(args=arguments, prog_name="specnorm", standalone_mode=False)
    except click.ClickException as error:
        error.show(text)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit as error:
        if error.code == 1:  # click's, where nobody reads its help any more
            return OK
        raise  # a signal
    except SpecnormError as error:
        complain(str(error))
    except OSError as error:  # click's, where its help cannot be written
        complain(f"the help cannot be written: {error.strerror or error}.")
    except Exception:  # Python's own exit code for a crash is 1, which here says that a gate failed
        traceback.print_exc(file=text)
    write(sys.stderr, text.getvalue())
    printed = _print("")
    return code if isinstance(code, int) and code else OK if printed else TROUBLE


@dataclass(frozen=True)
class Request:
    """What ``specnorm audit`` was asked for."""

    models: tuple[str, ...]
    output_format: str
    output: Path | None
    plot: Path | None
    certificate: Path | None
    fail_above: float | None
    fail_above_network: float | None
    claim: str | None
    jobs: int | None
    """Processes; None: as many as pay."""
    options: dict[str, Any]
    """Keyword arguments of `audit`."""


def list_backends() -> int:
    """Print the registered array libraries, their devices, and what is missing."""
    listing = backends.listing()
    width = max((len(row.name) for row in listing), default=0)
    lines = []
    for row in listing:
        state = row.problem or f"version {row.version}; devices: {', '.join(row.devices) or 'none'}"
        lines.append(visible(f"{row.name:<{width}}  {state}  [{row.distribution}]") + "\n")
    if not listing:
        complain("no array library is registered. Reinstall specnorm-bounds.")
    return OK if _print("".join(lines)) and listing else TROUBLE


def audit_models(request: Request) -> int:
    """Audit every model, report, and judge.

    Returns
    -------
    int
        Exit code.
    """
    reports: list[Report] = []
    # On a device one process is enough.
    here = request.options.get("backend") in (None, "numpy")
    with _executor(request.jobs or (cpus() if here else 1), WORTH if request.jobs is None else 0) as executor:
        for model in request.models:
            try:
                with progress(model) as tick:
                    report = audit(model, progress=tick, executor=executor, **request.options)
                reports.append(replace(report, gates=_gates(report, request)))
            except ModelFileError as error:
                complain(str(error))
    complete = len(reports) == len(request.models)
    written = _emit(reports, request, complete=complete)
    outcome = _judged(reports)
    if outcome == "failed":
        return GATE_FAILED
    bad_rows = any(row.status == "error" for report in reports for row in report.layers)
    return OK if complete and written and not bad_rows and outcome == "passed" else TROUBLE


WORTH = 4 * 2**20
"""Bytes of kernels from which processes of their own save more than the half second that they take to start."""


@contextmanager
def _executor(count: int, worth: int) -> Iterator[Workers | None]:
    """So many processes, where they pay; and one BLAS thread in each and here, so that no number changes a bit."""
    with backends.load("numpy").precise(np.empty(0)):
        if count == 1:
            yield None
            return
        with Workers(count, worth) as workers:
            yield workers


def _emit(reports: list[Report], request: Request, *, complete: bool) -> bool:
    """Print or write the reports, and draw them; False if a file was to be written and could not be."""
    many = len(request.models) > 1
    written = True
    if request.output is None and reports:
        written = _print(render(reports, request.output_format, many=many))
    if request.output is not None:
        text = partial(render, reports, request.output_format, many=many)
        written = _write(request.output, text, complete=complete)
    if request.plot is not None:
        picture = partial(plots.draw, reports, request.plot.suffix[1:].lower())
        written = _write(request.plot, picture, complete=complete) and written
    if request.certificate is not None:
        written = _certify(reports, request.certificate) and written
    return written


def _certify(reports: Sequence[Report], path: Path) -> bool:
    """Write what somebody else can check, and say what it does not hold."""
    if len(reports) != 1:
        complain(f"{path} is not written: a certificate is of one model.")
        return False
    for line in reports[0].unstated:
        complain(f"not in {path}: {line}")
    found = reports[0].certificate
    if found is None or not found.claims:
        complain(f"{path} is not written: there is no claim to write.")
        return False
    return _write(path, found.dumps, complete=True)


def verify_model(certificate: Path, model: str) -> int:
    """Prove each claim of a certificate and say which are proven; exit code 1 if one is not."""
    from specnorm_audit.certifying import verify_file

    failed = False
    for verdict in verify_file(certificate, model):
        failed |= bool(verdict.reason)
        if not _print(f"{verdict}\n"):
            return TROUBLE
    return GATE_FAILED if failed else OK


def certify_samples(
    model: str,
    data: str,
    output_format: str,
    output: Path | None,
    plot: Path | None,
    fail_below: float | None,
    **given: Any,
) -> int:
    """Certify the label of each sample, report, and judge.

    Returns
    -------
    int
        Exit code: 1 if fewer than a share ``fail_below`` are certified at a radius.
    """
    from specnorm_audit import accuracy, shares

    with progress(model) as tick:
        found = accuracy.certified(model, data, progress=tick, **given)
    text = shares.render(found, output_format)
    written = _print(text) if output is None else _write(output, lambda: text, complete=True)
    if plot is not None:
        written = _write(plot, partial(shares.draw, found, plot.suffix[1:].lower()), complete=True) and written
    failed = shares.below(found, fail_below)
    for line in failed:
        complain(line)
    return GATE_FAILED if failed else OK if written else TROUBLE


def _write(path: Path, content: Callable[[], str | bytes], *, complete: bool) -> bool:
    if not complete:
        complain(f"{path} is left as it was, since not every model could be read.")
        return False
    try:
        replace_file(path, content())
    except OSError as error:
        complain(f"{path} cannot be written: {error.strerror or error}.")
        return False
    return True


def _gates(report: Report, request: Request) -> tuple[Gate, ...]:
    """What the command was asked to judge."""
    found = []
    if request.fail_above is not None:
        found.append(gates.norms(report, request.fail_above))
    if request.fail_above_network is not None:
        found.append(gates.network(report, request.fail_above_network))
    if request.claim:
        found.append(gates.claim(report, request.claim))
    return tuple(found)


def _judged(reports: Sequence[Report]) -> Outcome:
    """Say on stderr what ``--layers`` matched and what the gates found."""
    for report in reports:
        name = f"{report.model}: " if len(reports) > 1 else ""
        for line in gates.matches(report):
            complain(f"{name}{line}")
        for gate in report.gates:
            complain(f"{name}{gate.sentence}")
            for place in gate.places:
                complain(f"  {place}", prefix="")
    return gates.worst(gate.outcome for report in reports for gate in report.gates)


def _check(outputs: Mapping[str, Path | None], inputs: Iterable[str]) -> None:
    """Refuse what could not be written, or would be lost."""
    import click

    try:
        check_outputs(outputs, inputs)
    except OSError as error:
        raise click.UsageError(visible(f"{error}.")) from error


def _print(text: str) -> bool:
    """Write to stdout; False, with a message, if it cannot be."""
    lost = write(sys.stdout, text)
    if lost is not None:
        complain(f"standard output cannot be written: {lost}.")
    return lost is None


# -- arguments: click is imported where it is used, so that this module loads without it -----------------------------
def _application() -> click.Group:
    # Long, since every option is declared here: a table, without a branch.
    import click

    settings = {"help_option_names": ["-h", "--help"], "show_default": True}

    @click.group(cls=help.auditing(), context_settings=settings, help=help.ABOUT, epilog=help.EPILOG)
    @click.version_option(package_name="specnorm-bounds", prog_name="specnorm")
    def application() -> None:
        """What is common to all commands: nothing."""

    help.add_completion(application)

    @application.command("backends")
    def backends_command() -> int:
        """List the array libraries that can be used here, their devices, and what is missing."""
        return list_backends()

    @application.command("audit", cls=help.grouped(), epilog=help.EPILOG)
    @click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=str))
    @click.option("--format", "output_format", type=click.Choice(FORMATS), default="table", help="Form of the report.")
    @click.option("--output", type=click.Path(path_type=Path), help="Write to this file instead.")
    @click.option(
        "--plot", type=click.Path(path_type=Path), callback=options.plot, metavar="FILE.png|svg",
        help="Also draw every layer's interval; needs the extra 'plot'.",
    )  # fmt: skip
    @click.option(
        "--certificate", type=click.Path(path_type=Path), metavar="FILE.npz",
        help="Also write claims of the layers with their proofs, for 'specnorm verify' and specnorm_check.py.",
    )  # fmt: skip
    @options.of_inputs
    @click.option("--layers", multiple=True, metavar="GLOB", help="Only layers whose name matches; repeatable.")
    @click.option("--layout", type=click.Choice(get_args(Layout)), help="Order of the kernels' axes. Default: torch's.")
    @click.option(
        "--padding-mode",
        type=click.Choice(["zeros", "circular", "reflect", "replicate"]),
        help="Default: as the file says, or zeros as an assumption.",
    )
    @click.option(
        "--geometry", callback=options.geometry, metavar="JSON|FILE",
        help="What is known of layers, in JSON or a file of it: '{\"*.conv1\": {\"stride\": 2, \"padding\": 1}}'.",
    )  # fmt: skip
    @click.option(
        "--methods", callback=options.methods, metavar="NAME,...",
        help=f"What other methods say, out of {', '.join(COLUMNS)}.",
    )  # fmt: skip
    @click.option("--all", "every", is_flag=True, help="What JSON and CSV have: tn, f4, reshaped; circular at a size.")
    @click.option(
        "--rtol", type=float, default=1e-3, show_default=True, callback=options.tolerance, metavar="R",
        help="Relative width of the proven interval asked for.",
    )  # fmt: skip
    @click.option(
        "--budget", type=float, callback=options.seconds, default=BUDGET, metavar="SECONDS",
        help="Time for the interval of one layer; a row that it ends says how wide its interval is. inf: all it takes.",
    )  # fmt: skip
    @click.option(
        "--fail-above", type=float, callback=options.bound, metavar="L",
        help="Exit with 1 unless every layer is proven to have a norm of at most L.",
    )  # fmt: skip
    @click.option(
        "--fail-above-network", type=float, callback=options.bound, metavar="L",
        help="Exit with 1 unless the network of each ONNX file is proven to have a Lipschitz constant of at most L.",
    )  # fmt: skip
    @click.option(
        "--claim", type=click.Choice(["nonexpansive", "residual-nonexpansive"]),
        help="Exit with 1 unless the network f of an ONNX file, or x - f(x), is proven to have a constant up to 1.",
    )  # fmt: skip
    @click.option("--backend", metavar="NAME", help="Array library to measure with; see 'specnorm backends'.")
    @click.option("--device", metavar="NAME", help="Device of that library.")
    @click.option(
        "--jobs", callback=options.jobs, default="auto", metavar="N|auto",
        help="Processes to measure in, a thread each; auto: as many as processors.",
    )  # fmt: skip
    @click.option(
        "--max-bytes", type=click.IntRange(min=1), default=MAX_BYTES, show_default=False, metavar="N",
        help=f"Refuse files whose arrays claim more in all; {MAX_BYTES >> 30} GiB unless given.",
    )  # fmt: skip
    def audit_command(
        models: tuple[str, ...],
        output_format: str,
        output: Path | None,
        plot: Path | None,
        certificate: Path | None,
        fail_above: float | None,
        fail_above_network: float | None,
        claim: str | None,
        jobs: int | None,
        layers: tuple[str, ...],
        geometry: tuple[dict[str, Any] | None, list[str]],
        every: bool,
        **given: Any,
    ) -> int:
        """Bound the norm of every convolution and linear layer of MODEL.

        MODEL is a safetensors file (also the index of a sharded one), .npz, PyTorch state dict, ONNX or Keras file.

        A file of weights does not tell strides and groups; the last line of the table says what was assumed.
        """
        given["layers"] = layers or None
        given["geometry"], stated = geometry
        every |= output_format in ("json", "csv") and not given["methods"]
        given["methods"] += options.standard(given["input_shape"]) if every else ()
        given["residual"] = claim == "residual-nonexpansive"
        given["certificate"] = certificate is not None
        _check({"--output": output, "--plot": plot, "--certificate": certificate}, [*models, *stated])
        return audit_models(
            Request(
                models, output_format, output, plot, certificate, fail_above, fail_above_network, claim, jobs, given
            )
        )  # fmt: skip

    @application.command("certify", cls=help.grouped(), epilog=help.EXIT_CODES)
    @options.of_samples
    def certify_command(model: str, data: str, output: Path | None, plot: Path | None, **given: Any) -> int:
        """Prove how far the label of each sample of DATA stays what it is.

        MODEL is the ONNX file of a classifier; DATA a file with the arrays x (samples, ...) and y (labels), as
        numpy.savez writes them.
        """
        _check({"--output": output, "--plot": plot}, [model, data])
        return certify_samples(model, data, output=output, plot=plot, **given)

    @application.command("verify", epilog=help.EXIT_CODES)
    @click.argument("certificate", type=click.Path(path_type=Path))
    @click.argument("model", type=click.Path(path_type=str))
    def verify_command(certificate: Path, model: str) -> int:
        """Prove the claims of the CERTIFICATE about MODEL's layers, as 'python -m specnorm_check' does.

        Nothing is searched for: the certificate's numbers are put into the proofs.
        """
        return verify_model(certificate, model)

    return application
