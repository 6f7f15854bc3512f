"""The command line: arguments, messages, exit codes. The only printing in the package; measuring is `audit`'s."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np

import specnorm
from specnorm import SpecnormError
from specnorm.errors import ModelFileError
from specnorm.proof import Layout, backends, padding_rules, visible
from specnorm_audit import answered, options, plots
from specnorm_audit.measuring import ARRAY_API, BUDGET
from specnorm_audit.output import check_outputs, complain, progress, replace_file, write
from specnorm_audit.processes import Workers, cpus
from specnorm_audit.question import Question
from specnorm_audit.readers import MAX_BYTES
from specnorm_audit.renderers import FORMATS, render
from specnorm_audit.report import Report, gates_of
from specnorm_audit.rows import COLUMNS

OK = 0
GATE_FAILED = 1
TROUBLE = 2
INTERRUPTED = 130
LEAST_BYTES_FOR_WORKERS = 4 * 2**20
"""Smallest number of bytes of a model's kernels for which other processes are started, which takes half a second."""

EXIT_CODES = """\b
Exit codes:
  0    every layer was measured, and the gates passed if there were any
  1    a gate failed (--fail-...), whatever else happened, or verify did not prove
  2    wrong usage, a file that cannot be read or written, a layer without bounds or, in a certificate, without a
       claim, or a gate that is not decided
  130  interrupted (143, 129: by SIGTERM, SIGHUP)
"""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code; None: with the arguments of the process."""
    text = io.StringIO()
    code: Any = TROUBLE
    try:
        code = application.main(args=arguments, prog_name="specnorm", standalone_mode=False)
    except click.ClickException as error:
        error.show(text)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit as error:
        if error.code == 1:  # click exits with 1 if nobody reads its output any more
            return OK
        raise  # a signal handler's exit
    except OSError as error:  # click prints its help itself
        complain(f"the help cannot be written: {error}")
    except SpecnormError as error:
        complain(str(error))
    except Exception:  # Python's own exit code for a crash is 1, which here says that a gate failed
        traceback.print_exc(file=text)
    write(sys.stderr, text.getvalue())
    is_flushed = _print("")
    if isinstance(code, int) and code != OK:
        return code
    return OK if is_flushed else TROUBLE


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True}, epilog=EXIT_CODES)
@click.version_option(package_name="specnorm-bounds", prog_name="specnorm")
def application() -> None:
    """Spectral norms of convolution layers: bounded, computed and proved.

    The spectral norm of a layer is the largest factor by which it can stretch an input: its Lipschitz constant. 'audit'
    encloses the norm of every layer of a model file between two proven numbers; 'accuracy' proves within which distance
    of each sample a classifier's label stays the same.
    """


@application.command("backends")
def backends_command() -> int:
    """List the array libraries, and what is missing."""
    listing = backends.listing()
    width = max((len(row.name) for row in listing), default=0)
    lines = []
    for row in listing:
        state = row.problem or f"version {row.version}; devices: {', '.join(row.devices) or 'none'}"
        if row.name == ARRAY_API and row.problem is None:
            state = "any other library of the array API standard: --backend takes the library's name"
        lines.append(visible(f"{row.name:<{width}}  {state}  [{row.distribution}]") + "\n")
    if not listing:
        complain("no array library is registered. Reinstall specnorm-bounds.")
    return OK if _print("".join(lines)) and listing else TROUBLE


# -- audit ------------------------------------------------------------------------------------------------------------
_RANGE = click.option(
    "--input-range", type=(float, float), metavar="LOW HIGH",
    help="Range of the entries of an ONNX network's inputs, such as 0 1; required by squares and products.",
)  # fmt: skip


def _reporting(formats: Sequence[str], picture: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Return a decorator that gives a command the options of a report: its format and file, and a plot of it.

    ``picture`` says what the plot shows.
    """
    shared = (
        click.option(
            "--max-bytes", type=click.IntRange(1), default=MAX_BYTES, metavar="N",
            help="Limit on the total size of a file's arrays.",
        ),
        click.option(
            "-f", "--format", "output_format", type=click.Choice(formats),
            help="Format of the report. Default: by the suffix of --output, or a table.",
        ),
        click.option(
            "-o", "--output", type=options.output_file, metavar="FILE",
            help="Write to this file, whose suffix selects the format; - is standard output.",
        ),
        click.option("-q", "--quiet", is_flag=True, help="Do not show progress and passed gates."),
        click.option(
            "--plot", type=options.plot, metavar="FILE.png|svg", help=f"Also draw {picture}; needs the extra 'plot'."
        ),
    )  # fmt: skip

    def decorated(command: Callable[..., int]) -> Callable[..., int]:
        for option in reversed(shared):  # the last decorator is the first in the help
            command = option(command)
        return command

    return decorated


@application.command("audit", epilog=EXIT_CODES)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option("--layers", multiple=True, metavar="GLOB", help="Only layers whose name matches; repeatable.")
@click.option(
    "--input-shape", multiple=True, type=options.size, callback=options.sizes, metavar="N|NxM|file|NAME=NxM",
    help="Spatial input sizes, such as 32 or 32x48, or those of the file; or the complete shape of a network's "
    "input by its name, such as audio=1x16000; repeatable.",
)  # fmt: skip
@click.option(
    "--geometry", type=options.geometry, metavar="JSON|FILE",
    help="Geometry of layers, as JSON or a JSON file: '{\"*.conv1\": {\"stride\": 2, \"padding\": 1}}'.",
)  # fmt: skip
@click.option(
    "--assume-stored", multiple=True, metavar="GLOB",
    help="Kernels that layers use as they are stored, whatever is beside them; repeatable. The report repeats it.",
)  # fmt: skip
@click.option("--layout", type=click.Choice(get_args(Layout)), help="Order of the kernels' axes. Default: torch's.")
@click.option(
    "--padding-mode", type=click.Choice(get_args(padding_rules.PaddingMode)),
    help="Default: as the file states, or else zeros.",
)  # fmt: skip
@_RANGE
@click.option(
    "--methods", type=options.methods, metavar="NAME,...", help=f"Columns for other methods: {', '.join(COLUMNS)}."
)
@click.option(
    "--smallest", is_flag=True,
    help="Also a lower bound on the smallest singular value, and an upper bound on the condition number; if borders "
    "cut off taps, only for small layers with an --input-shape.",
)  # fmt: skip
@click.option(
    "--all", "all_columns", is_flag=True, help="The columns tn, f4, reshaped; circular with an --input-shape."
)
@click.option(
    "--rtol", type=options.tolerance, default="0.001", metavar="R",
    help="Requested relative width of the proven interval.",
)  # fmt: skip
@click.option(
    "--budget", type=options.seconds, default=f"{BUDGET:g}", metavar="SECONDS",
    help="Time limit for each row; if it ends a search, the row says how wide its interval is. inf: no limit.",
)  # fmt: skip
@click.option("--backend", metavar="NAME", help="Array library to measure with; see 'specnorm backends'.")
@click.option("--device", metavar="NAME", help="Device of that library.")
@click.option(
    "--jobs", type=options.jobs, default="auto", metavar="N|auto",
    help="Number of processes, with one thread each; auto: one per processor.",
)  # fmt: skip
@_reporting(FORMATS, "every layer's interval")
@click.option(
    "--certificate", type=click.Path(path_type=Path), metavar="FILE.npz",
    help="Also write a certificate, for 'specnorm verify' and 'python -m specnorm_check'.",
)  # fmt: skip
@click.option(
    "--fail-above", type=options.bound, metavar="L",
    help="Exit with 1 unless every layer is proven to have a norm of at most L.",
)  # fmt: skip
@click.option(
    "--fail-above-network", type=options.bound, metavar="L",
    help="Exit with 1 unless the network of each ONNX file is proven to have a Lipschitz constant of at most L.",
)  # fmt: skip
@click.option(
    "--fail-below", type=options.bound, metavar="M",
    help="Exit with 1 unless every layer's smallest singular value is proven to be at least M.",
)  # fmt: skip
@click.option(
    "--fail-isometry", type=options.bound, metavar="EPS",
    help="Exit with 1 unless every layer's squared singular values are proven to lie between 1 - EPS and 1 + EPS.",
)  # fmt: skip
def audit_command(
    models: tuple[str, ...],
    output_format: str | None,
    output: Path | None,
    quiet: bool,
    plot: Path | None,
    certificate: Path | None,
    fail_above: float | None,
    fail_above_network: float | None,
    fail_below: float | None,
    fail_isometry: float | None,
    jobs: int | None,
    layers: tuple[str, ...],
    geometry: tuple[dict[str, Any], list[str]] | None,
    all_columns: bool,
    **arguments: Any,
) -> int:
    """Bound the norm of every convolution and linear layer of MODEL.

    MODEL is a safetensors file (also the index of a sharded one), .npz, PyTorch state dict, ONNX or Keras file.

    A file of weights does not tell strides and groups; the last line of the table says what was assumed.
    """
    stated_geometry, geometry_files = geometry or (None, [])
    _check({"--output": output, "--plot": plot, "--certificate": certificate}, [*models, *geometry_files])
    report_format = options.format_of(output_format, output, FORMATS)
    if certificate is not None and (certificate.suffix.lower() != ".npz" or len(models) > 1):
        raise click.UsageError(visible(f"--certificate: {certificate.name} must be a .npz file, and takes one MODEL."))
    columns = arguments["methods"] or ()
    is_for_programs = report_format in ("json", "csv")
    if all_columns or (is_for_programs and not columns):
        columns += options.usual_columns(arguments["input_shape"])
    if fail_isometry is not None:
        columns += ("isometry",)
    arguments |= {
        "layers": layers or None,
        "geometry": stated_geometry,
        "methods": columns,
        "smallest": arguments["smallest"] or fail_below is not None,
        "certificate": certificate is not None,
        "gate": fail_above,
    }

    question = Question.of(**arguments)
    reports: list[Report] = []
    uses_device = question.settings.backend not in (None, "numpy")
    count = jobs or (1 if uses_device else cpus())
    least_bytes = LEAST_BYTES_FOR_WORKERS if jobs is None else 0
    with _executor(count, least_bytes) as executor:
        for model in models:
            report = _audited(model, quiet, executor, question)
            gates = gates_of(
                report,
                layers=fail_above,
                network=fail_above_network,
                smallest=fail_below,
                isometries=fail_isometry,
            )
            reports.append(replace(report, gates=gates))

    text = partial(render, reports, report_format, many=len(models) > 1)
    is_read = [report.error is None for report in reports]
    is_written = True
    if output is not None:
        is_written = _write(output, text, has_content=any(is_read))
    elif any(is_read) or report_format not in ("table", "markdown"):
        is_written = _print(text())  # a table of a model that could not be read would only repeat the message
    if plot is not None:
        picture = partial(plots.draw, reports, plot.suffix[1:].lower())
        is_written &= _write(plot, picture, has_content=all(is_read))
    if certificate is not None:
        is_written &= _write_claims(reports[0], certificate)
    _say_gates(reports, quiet)
    return _exit_code(reports, is_written)


def _audited(model: str, quiet: bool, executor: Workers | None, question: Question) -> Report:
    """Audit one model; a model that cannot be read has a report that says why."""
    try:
        with progress(model, shown=not quiet) as tick:
            return answered(model, question, progress=tick, executor=executor)
    except ModelFileError as error:
        complain(str(error))
        stored = question.assume_stored
        return Report(specnorm.__version__, model, (), (), error=str(error), assume_stored=stored)


def _exit_code(reports: Sequence[Report], is_written: bool) -> int:
    """Return the exit code of an audit: `EXIT_CODES`."""
    outcomes: set[str] = set()
    statuses: set[str] = set()
    for report in reports:
        outcomes |= {gate.outcome for gate in report.gates}
        statuses |= {row.status for row in report.layers}
    if "failed" in outcomes:
        return GATE_FAILED
    is_read = all(report.error is None for report in reports)
    is_complete = is_read and "error" not in statuses and "undecided" not in outcomes
    return OK if is_complete and is_written else TROUBLE


@contextmanager
def _executor(count: int, least_bytes: int) -> Iterator[Workers | None]:
    """Start processes that measure models of at least ``least_bytes``; None if ``count`` is 1: this process measures.

    Each process has one BLAS thread, and so has this one meanwhile: numbers do not depend on the number of processes.
    """
    with _one_blas_thread():
        if count == 1:
            yield None
            return
        with Workers(count, least_bytes) as workers:
            yield workers


def _one_blas_thread() -> AbstractContextManager[object]:
    """Context manager in which BLAS has one thread: that of NumPy's plugin for a small array."""
    context: AbstractContextManager[object] = backends.load("numpy").precise(np.empty(0))
    return context


def _write_claims(report: Report, path: Path) -> bool:
    """Write the certificate of a report, and messages on what has no claim; return False if that fails, or if any."""
    for line in report.without_claim:
        complain(f"not in {path}: {line}")
    certificate = report.certificate
    if certificate is None or not certificate.claims:
        complain(f"{path} is not written: there is no claim to write.")
        return False
    from specnorm_audit.certifying import are_all_claimed  # most audits need no certificates

    return _write(path, certificate.dumps) and are_all_claimed(certificate, report)


def _say_gates(reports: Sequence[Report], quiet: bool) -> None:
    """Write the gates' answers to stderr; if ``quiet``, without gates that passed."""
    for report in reports:
        name = f"{report.model}: " if len(reports) > 1 else ""
        for gate in report.gates:
            if quiet and gate.outcome == "passed":
                continue
            complain(f"{name}{gate.sentence}")
            for place in gate.places:
                complain(f"  {place}", prefix="")


# -- accuracy, verify -------------------------------------------------------------------------------------------------
_SAMPLE_FORMATS = ("table", "json", "csv")


@application.command("accuracy", epilog=EXIT_CODES)
@click.argument("model", metavar="MODEL.onnx")
@click.argument("data", metavar="DATA.npz")
@click.option(
    "--radius", "radii", type=options.radius, multiple=True, required=True, metavar="R",
    help="Radius of the ball around each sample, in the 2-norm; repeatable.",
)  # fmt: skip
@_RANGE
@click.option(
    "--margin", type=options.margin, metavar="M", default="0",
    help="The label's logit must exceed every other one by more than M. Default: 0.",
)  # fmt: skip
@click.option(
    "--budget", type=options.seconds, metavar="SECONDS",
    help="Time limit for each sample and radius. Default: a fixed number of steps.",
)  # fmt: skip
@_reporting(_SAMPLE_FORMATS, "the share that is certified over the radius")
@click.option(
    "--fail-below", type=options.share, metavar="SHARE",
    help="Exit with 1 unless at least this share of the labels is certified, from 0 to 1, at every radius.",
)  # fmt: skip
def accuracy_command(
    model: str,
    data: str,
    output_format: str | None,
    output: Path | None,
    quiet: bool,
    plot: Path | None,
    fail_below: float | None,
    **arguments: Any,
) -> int:
    """Prove within which distance the label of each sample of DATA does not change.

    MODEL is the ONNX file of a classifier; DATA a file with the arrays x (samples, ...) and y (labels), as numpy.savez
    writes them.
    """
    from specnorm_audit import accuracy  # with networks, which few need

    _check({"--output": output, "--plot": plot}, [model, data])
    report_format = options.format_of(output_format, output, _SAMPLE_FORMATS)
    with progress(model, shown=not quiet) as tick:
        answer = accuracy.certified(model, data, progress=tick, **arguments)
    text = partial(accuracy.render, answer, report_format)
    is_written = _print(text()) if output is None else _write(output, text)
    if plot is not None:
        picture = partial(plots.to_bytes, accuracy.curve(answer), plot.suffix[1:].lower())
        is_written &= _write(plot, picture)
    failures = accuracy.radii_below_share(answer, fail_below)
    for line in failures:
        complain(line)
    if failures:
        return GATE_FAILED
    return OK if is_written else TROUBLE


@application.command("verify", epilog=EXIT_CODES)
@click.argument("certificate", type=click.Path(path_type=Path))
@click.argument("model")
def verify_command(certificate: Path, model: str) -> int:
    """Prove what the CERTIFICATE claims about MODEL.

    Nothing is searched for: the certificate's numbers are put into the proofs, as 'python -m specnorm_check' does. The
    last line names arrays that may be layers and that no claim is about.
    """
    from specnorm_audit.certifying import verify_file

    are_proven = True
    for verdict in verify_file(certificate, model):
        if not isinstance(verdict, str):
            are_proven &= not verdict.reason
        if not _print(f"{verdict}\n"):
            return TROUBLE
    return OK if are_proven else GATE_FAILED


# -- what is written --------------------------------------------------------------------------------------------------
def _check(outputs: Mapping[str, Path | None], inputs: Iterable[str]) -> None:
    """Refuse outputs that cannot be written, or that would replace an input."""
    try:
        check_outputs(outputs, inputs)
    except OSError as error:
        raise click.UsageError(visible(f"{error}.")) from error


def _write(path: Path, content: Callable[[], str | bytes], has_content: bool = True) -> bool:
    """Replace a file; return False, with a message, if that fails or if there is no content."""
    if not has_content:
        complain(f"{path} is left as it was, because its new content could not be read.")
        return False
    try:
        replace_file(path, content())
    except OSError as error:
        complain(f"{path} cannot be written: {error.strerror or error}.")
        return False
    return True


def _print(text: str) -> bool:
    """Write to stdout, and flush it; False, with a message, if that fails."""
    failure = write(sys.stdout, text)
    if failure is not None:
        complain(f"standard output cannot be written: {failure}.")
    return failure is None
