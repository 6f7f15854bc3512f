"""Certificates of strangers, each read and proven in this process: ``python -m networks.hostile_certificates FOLDER``.

Run by `test_hostile_certificates.py` as a process of its own, with a limit on its memory and on the time for each.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from networks.dense_networks import draw, graph_of

from specnorm.errors import CertificateError
from specnorm.networks import Certificate, Graph, Multipliers, bound, verify


class TooLong(BaseException):
    """Nothing catches this by accident."""


SECONDS = 10
MEMORY = 2**30
"""What each may take, and all together, beyond what the process has at its start."""
NUMBERS: dict[str, Any] = {
    "negative": -1.0, "0": 0, "tiny": 1e-300, "1e-20": 1e-20, "subnormal": 5e-324, "huge": 1e308, "infinite": 1e999,
    "NaN": float("nan"), "of 4000 digits": 10**4000, "text": "1", "true": True, "none": None, "a list": [],
    "nested": [[1]],
}  # fmt: skip
PLACES: dict[str, Callable[[Any, Any], None]] = {
    "rtol": lambda data, value: data.update(rtol=value),
    "upper": lambda data, value: data.update(upper=value),
    "part": lambda data, value: data["runs"][0]["parts"].__setitem__(0, value),
    "weight": lambda data, value: data["runs"][0]["weights"][0].__setitem__(0, value),
    "format": lambda data, value: data.update(specnorm_certificate=value),
    "units": lambda data, value: data.update(units=value),
}
TEXTS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "no text": lambda: b"\xff\xfe\0",
    "many lists": lambda: b"[" + b"[]," * (LONG // 3) + b"[]]",
    "deep lists": lambda: b"[" * LONG,
    "deep objects": lambda: b'{"a":' * (LONG // 5),
    "many texts": lambda: b"[" + b'"ab",' * (LONG // 5) + b"1]",
    "many objects": lambda: b"[" + b"{}," * (LONG // 3) + b"1]",
    "long number": lambda: b'{"specnorm_certificate":' + b"9" * LONG + b"}",
    "many names": lambda: b"{" + b",".join(b'"%d":1' % at for at in range(LONG // 10)) + b"}",
    "many numbers": lambda: b"[" + b"0.5," * (LONG // 4) + b"1]",
}
LONG = 2**25


def hostile(good: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each."""
    for place, put in PLACES.items():
        for name, value in NUMBERS.items():
            data = copy.deepcopy(good)
            put(data, value)
            yield f"{place}: {name}", json.dumps(data).encode()
    for name, write in TEXTS.items():
        yield name, write()
    changes: dict[str, Callable[[Any], None]] = {
        "runs twice": lambda data: data["runs"].extend(data["runs"]),
        "no runs": lambda data: data.update(runs=[]),
        "100,000 runs": lambda data: data.update(runs=data["runs"] * 100_000),
        "100,000 parts": lambda data: data["runs"][0].update(parts=list(range(100_000))),
        "a million weights": lambda data: data["runs"][0]["weights"].__setitem__(0, [1.0] * 1_000_000),
        "a ball without a centre": lambda data: data.update(near={"radius": 1, "units": True, "centre": {}}),
        "a ball of another shape": lambda data: data.update(near=_ball([2**30, 0], [])),
        "a ball of shape -1": lambda data: data.update(near=_ball([-1], [1.0])),
        "a ball of a huge shape": lambda data: data.update(near=_ball([10**30], [1.0])),
        "a ball far away": lambda data: data.update(near=_ball([1], [1e300])),
        "another network's": lambda data: data.update(network_sha256="0" * 64),
    }
    for name, change in changes.items():
        data = copy.deepcopy(good)
        change(data)
        yield name, json.dumps(data).encode()


def _ball(shape: list[int], values: list[float]) -> dict[str, Any]:
    return {"radius": 1.0, "units": True, "centre": {"x": {"shape": shape, "values": values}}}


def outcome(path: Path, graph: Graph) -> str:
    """Refused, proven, or without a bound; anything but a `CertificateError` passes through."""
    try:
        found = verify(Certificate.load(path), graph)
    except CertificateError as error:
        return "refused" if str(error) else "refused without a word"
    return "proven" if found.upper is not None else "no bound"


def main(folder: Path) -> None:
    """Read each and write what became of it, in how many seconds; a pipe, a device and a folder at last."""
    import resource

    graph = graph_of(draw(3, layers=4, plain=True), (6,))
    found = bound(graph, method=Multipliers(steps=20))
    assert found.certificate is not None
    good = found.certificate.to_dict()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    path = folder / "c.json"
    told: dict[str, tuple[str, float]] = {}

    def late(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGPROF, late)

    def judge(name: str, path: Path) -> None:
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            said = outcome(path, graph)
        except (Exception, TooLong) as error:
            said = type(error).__name__
        signal.setitimer(signal.ITIMER_PROF, 0)
        told[name] = (said, round(time.process_time() - start, 2))

    for name, content in hostile(good):
        path.write_bytes(content)
        judge(name, path)
    os.mkfifo(folder / "pipe")
    for name, place in (("a pipe", folder / "pipe"), ("a device", Path("/dev/zero"))):
        judge(name, place)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    (folder / "tally.json").write_text(json.dumps({"most MiB": most, "certificates": told}, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
