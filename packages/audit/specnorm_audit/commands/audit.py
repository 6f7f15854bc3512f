"""The command ``audit``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import click
import numpy as np

import specnorm
from specnorm.errors import ModelFileError
from specnorm.proof import Layout, backends, padding_rules, visible
from specnorm_audit import options
from specnorm_audit.auditing import audit
from specnorm_audit.commands import EXIT_CODES, GATE_FAILED, OK, TROUBLE, print_text
from specnorm_audit.commands.reporting import RANGE, check, reporting, write_file
from specnorm_audit.processes import Workers, cpus
from specnorm_audit.renderers import FORMATS, render
from specnorm_audit.report import GATES, Report, gates_of, verdict
from specnorm_audit.rows import CIRCULAR, COLUMNS, USUAL_COLUMNS
from specnorm_audit.settings import BUDGET
from specnorm_audit.streams import complain, in_options, progress

LEAST_BYTES_FOR_WORKERS = 4 * 2**20
"""Smallest number of bytes of a model's kernels for which other processes are started, which takes half a second."""

_BACKENDS = ("numpy", "torch", "jax", "cupy")
"""Libraries that a shell completes; others may be installed."""


@click.command("audit", epilog=EXIT_CODES)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path())
@click.option("--layers", multiple=True, metavar="GLOB", help="Only layers whose name matches; repeatable.")
@click.option(
    "--input-shape", multiple=True, type=options.size, callback=options.sizes, metavar="N|NxM|file|NAME=NxM",
    shell_complete=options.completed("file"),
    help="Spatial input sizes, such as 32 or 32x48, or those of the file; or the complete shape of a network's "
    "input by its name, such as audio=1x16000; repeatable.",
)  # fmt: skip
@click.option(
    "--geometry", type=options.geometry, metavar="JSON|FILE", shell_complete=options.completed(files=True),
    help="Geometry of layers, as JSON or a JSON file: '{\"*.conv1\": {\"stride\": 2, \"padding\": 1}}'.",
)  # fmt: skip
@click.option(
    "--assume-stored", multiple=True, metavar="GLOB",
    help="Kernels that layers use as they are stored, whatever is beside them; repeatable. The report repeats it.",
)  # fmt: skip
@click.option(
    "--ignore", multiple=True, metavar="GLOB",
    help="Arrays that no layer uses; repeatable. The report repeats it.",
)  # fmt: skip
@click.option(
    "--attention", type=options.attention, metavar="auto|JSON|FILE",
    shell_complete=options.completed("auto", files=True),
    help="Also bound the largest logits of attention heads, by the config.json beside MODEL (auto), or by facts in "
    "JSON, which count before it.",
)  # fmt: skip
@click.option("--layout", type=click.Choice(get_args(Layout)), help="Order of the kernels' axes. Default: torch's.")
@click.option(
    "--padding-mode", type=click.Choice(get_args(padding_rules.PaddingMode)),
    help="Default: as the file states, or else zeros.",
)  # fmt: skip
@RANGE
@click.option(
    "--methods", type=options.methods, metavar="NAME,...", help=f"Columns for other methods: {', '.join(COLUMNS)}.",
    shell_complete=options.completed(*COLUMNS, several=True),
)  # fmt: skip
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
    help="Time limit for each row, and for the network's bound; if it ends a search, the row says how wide its "
    "interval is. inf: no limit.",
)  # fmt: skip
@click.option(
    "--backend", metavar="NAME", help="Array library to measure with; see 'specnorm backends'.",
    shell_complete=options.completed(*_BACKENDS),
)  # fmt: skip
@click.option("--device", metavar="NAME", help="Device of that library.")
@click.option(
    "--jobs", type=options.jobs, default="auto", metavar="N|auto", shell_complete=options.completed("auto"),
    help="Number of processes, with one thread each; auto: one per processor.",
)  # fmt: skip
@reporting(FORMATS)
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
def command(
    models: tuple[str, ...],
    output_format: str | None,
    output: Path | None,
    quiet: bool,
    certificate: Path | None,
    jobs: int | None,
    layers: tuple[str, ...],
    geometry: options.Stated | None,
    attention: options.Stated | None,
    all_columns: bool,
    **arguments: Any,
) -> int:
    """Bound the norm of every convolution and linear layer of MODEL.

    MODEL is a safetensors file (also the index of a sharded one), .npz, PyTorch state dict, ONNX or Keras file; - reads
    one from standard input. The table [tool.specnorm] of pyproject.toml in the current folder has defaults for options.

    A file of weights does not state strides and groups; below the table, the report says what was assumed.
    """
    bounds = {option: arguments.pop(option) for option in GATES}
    stated_geometry, geometry_files = geometry or (None, [])
    stated_attention, attention_files = attention or (None, [])
    inputs = [*models, *geometry_files, *attention_files]
    check({"--output": output, "--certificate": certificate}, inputs)
    report_format = options.format_of(output_format, output, FORMATS)
    if certificate is not None and certificate.suffix.lower() != ".npz":
        raise click.UsageError(visible(f"--certificate: {certificate.name} does not end in .npz: give such a name."))
    if certificate is not None and len(models) > 1:
        raise click.UsageError(f"--certificate: {len(models)} models are given; it is for one: audit each by itself.")
    columns = arguments["methods"] or ()
    is_for_programs = report_format in ("json", "csv")
    if all_columns or (is_for_programs and not columns):
        columns += USUAL_COLUMNS
        if not isinstance(arguments["input_shape"], dict | None):
            columns += (CIRCULAR,)
    if bounds["fail_isometry"] is not None:
        columns += ("isometry",)
    arguments |= {
        "layers": layers or None,
        "geometry": stated_geometry,
        "attention": stated_attention,
        "methods": columns,
        "smallest": arguments["smallest"] or bounds["fail_below"] is not None,
        "certificate": certificate is not None,
        "gate": bounds["fail_above"],
    }

    reports: list[Report] = []
    uses_device = arguments["backend"] not in (None, "numpy")
    count = jobs or (1 if uses_device else cpus())
    least_bytes = LEAST_BYTES_FOR_WORKERS if jobs is None else 0
    with _executor(count, least_bytes) as executor:
        for model in models:
            with _from_stdin(arguments["max_bytes"]) if model == "-" else nullcontext(model) as path:
                report = _of_command(_audited(path, model, quiet, executor, arguments))
            reports.append(replace(report, gates=gates_of(report, bounds)))

    text = partial(render, reports, report_format, many=len(models) > 1)
    if quiet and output_format is None and output is None:
        text = partial(_verdicts, reports)
    is_read = [report.error is None for report in reports]
    is_written = True
    if output is not None:
        is_written = write_file(output, text, has_content=any(is_read))
    elif any(is_read) or report_format not in ("table", "markdown"):
        is_written = print_text(text())  # a table of a model that could not be read would only repeat the message
    if certificate is not None:
        is_written &= _write_claims(reports[0], certificate)
    _say_gates(reports, quiet)
    return _exit_code(reports, is_written)


def _verdicts(reports: Sequence[Report]) -> str:
    """Return a line for each model, with its name if there are several."""
    names = [f"{visible(report.model or '')}: " if len(reports) > 1 else "" for report in reports]
    return "".join(f"{name}{verdict(report)}\n" for name, report in zip(names, reports, strict=True))


def _audited(path: str, model: str, quiet: bool, executor: Workers | None, arguments: dict[str, Any]) -> Report:
    """Audit the file of one model; a model that cannot be read has a report that says why."""
    name = "standard input" if model == "-" else model
    try:
        with progress(name, shown=not quiet) as tick:
            return replace(audit(path, progress=tick, executor=executor, **arguments), model=name)
    except ModelFileError as error:
        message = str(error).replace(path, name)
        complain(in_options(message, [name]))
        return Report(
            specnorm.__version__, name, (), (), error=message, assume_stored=arguments["assume_stored"],
            ignore=arguments["ignore"],
        )  # fmt: skip


def _of_command(report: Report) -> Report:
    """Return a report whose reasons and remarks name options of the command, not parameters of the function."""
    rows: tuple[Any, ...] = (*report.layers, *report.unmeasured, *report.attention)
    names = [report.model or "", *report.skipped, *(row.name for row in rows)]

    def told(row: Any) -> Any:
        texts = {name: getattr(row, name, None) for name in ("reason", "note", "unsettled")}
        return replace(row, **{name: in_options(text, names) for name, text in texts.items() if text is not None})

    network = report.network
    if network is not None:
        names += [node.name for node in network.unknown]
        network = replace(network, unknown=tuple(map(told, network.unknown)))
    return replace(
        report,
        error=report.error and in_options(report.error, names),
        network=network,
        layers=tuple(map(told, report.layers)),
        unmeasured=tuple(map(told, report.unmeasured)),
        attention=tuple(map(told, report.attention)),
        without_claim=tuple(in_options(line, names) for line in report.without_claim),
    )


def _exit_code(reports: Sequence[Report], is_written: bool) -> int:
    """Return the exit code of an audit: `EXIT_CODES`."""
    outcomes: set[str] = set()
    statuses: set[str] = set()
    for report in reports:
        outcomes |= {gate.outcome for gate in report.gates}
        statuses |= {row.status for row in report.layers} | {row.status for row in report.attention}
    if "failed" in outcomes:
        return GATE_FAILED
    is_read = all(report.error is None for report in reports)
    is_complete = is_read and "error" not in statuses and "undecided" not in outcomes
    return OK if is_complete and is_written else TROUBLE


@contextmanager
def _from_stdin(max_bytes: int) -> Iterator[str]:
    """Write standard input to a file that is removed at the end, since formats are read at several places."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "standard-input"
        size = 0
        with path.open("wb") as file:
            while part := sys.stdin.buffer.read(2**20):
                size += len(part)
                if size > max_bytes:
                    raise click.UsageError(f"standard input has more than {max_bytes} bytes: see --max-bytes.")
                file.write(part)
        yield str(path)


@contextmanager
def _executor(count: int, least_bytes: int) -> Iterator[Workers | None]:
    """Start processes that measure models of at least ``least_bytes``; None if ``count`` is 1: this process measures.

    Each process has one BLAS thread, and so has this one meanwhile: numbers do not depend on the number of processes.
    """
    one_thread = backends.load("numpy").precise(np.empty(0))
    with one_thread, nullcontext() if count == 1 else Workers(count, least_bytes) as workers:
        yield workers


def _write_claims(report: Report, path: Path) -> bool:
    """Write the certificate of a report, and messages on what has no claim; return False if that fails, or if any."""
    for line in report.without_claim:
        complain(f"not in {path}: {line}")
    certificate = report.certificate
    if certificate is None or not certificate.claims:
        complain(f"{path} is not written: there is no claim to write.")
        return False
    from specnorm_audit.certifying import are_all_claimed  # with networks, which take a fifth of an audit's start

    return write_file(path, certificate.dumps) and are_all_claimed(certificate, report)


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
