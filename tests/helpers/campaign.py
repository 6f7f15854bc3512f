"""Which tests notice which mistakes: ``python -m helpers.campaign OUT FILES KINDS [-- ] PYTEST...`` in the folder ``tests``.

`FILES` is a folder or a file below the project's root, several of them with commas; `KINDS` are words of kinds, with
commas, or "all". The tests that pytest collects run once as they are, which says what each of them calls. Then each
mistake is planted in a process of its own, in which the tests that call its function run, the fastest first. A line of
``OUT`` has the mistake, the tests that failed, and the seconds. Lines that are there are not done again.

``SPECNORM_CAMPAIGN_EVERY=n`` takes each n-th mistake, ``SPECNORM_CAMPAIGN_ALL=1`` does not stop at the first test
that fails, ``SPECNORM_CAMPAIGN_SECONDS`` limits each mistake.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from _pytest.runner import runtestprotocol
from test_house import ROOT

from helpers.mutants import KINDS, Mistake, functions_in, mistakes

REFUSES = re.compile("refus|damaged|hostile|_not_|no_|mistake|wrong|false")
OURS = ("specnorm", "helpers", "networks", "core", "check", "audit", "plugins", "test_")


def forget_all() -> None:
    for x in gc.get_objects():
        if type(x) is functools._lru_cache_wrapper and (x.__module__ or "").startswith(OURS):
            x.cache_clear()


class Campaign:
    def __init__(self, out: Path, files: list[Path], kinds: list[str]) -> None:
        self.out = out
        functions = [f for path in files for f in functions_in(path)]
        every = int(os.environ.get("SPECNORM_CAMPAIGN_EVERY", "1"))
        self.mistakes = [m for m in mistakes(functions, kinds) if crc32(str(m).encode()) % every == 0]
        self.seconds = int(os.environ.get("SPECNORM_CAMPAIGN_SECONDS", "40"))
        self.whole = "SPECNORM_CAMPAIGN_ALL" in os.environ
        self.targets = {(str(m.function.path), m.function.name) for m in self.mistakes}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: Any) -> bool:
        calls, seconds, outcome = {}, {}, {}
        kept = self.out.with_suffix(".calls")
        if kept.exists():
            for line in kept.open():
                name, time_, how, names = json.loads(line)
                seconds[name], outcome[name] = time_, how
                calls[name] = {t for t in self.targets if t[1] in names}
            session.items[:] = [x for x in session.items if x.nodeid in calls]
        for item in session.items if not kept.exists() else []:
            found: set[tuple[str, str]] = set()

            def note(frame: Any, event: str, _: object) -> None:
                if event == "call":
                    code = frame.f_code
                    key = (code.co_filename, code.co_qualname.partition(".<locals>")[0])
                    if key in self.targets:
                        found.add(key)

            forget_all()
            start = time.process_time()
            sys.setprofile(note)
            try:
                reports = runtestprotocol(item, log=False, nextitem=None)
            finally:
                sys.setprofile(None)
            seconds[item.nodeid] = time.process_time() - start
            calls[item.nodeid] = found
            outcome[item.nodeid] = "failed" if any(r.failed for r in reports) else "passed"
        with kept.open("w") as file:
            for name, found in calls.items():
                print(json.dumps([name, round(seconds[name], 3), outcome[name], [n for _, n in found]]), file=file)
        print(f"{len(session.items)} tests, {sum(seconds.values()):.0f} s, failed as they are: "
              f"{[n for n, o in outcome.items() if o == 'failed']}", flush=True)
        done = set()
        if self.out.exists():
            done = {json.loads(line)["mistake"] + str(json.loads(line)["number"]) for line in self.out.open()}
        part, of = map(int, os.environ.get("SPECNORM_CAMPAIGN_PART", "0/1").split("/"))
        for m in self.mistakes[part::of]:
            if str(m) + str(m.number) in done:
                continue
            key = (str(m.function.path), m.function.name)
            items = [x for x in session.items if key in calls[x.nodeid] and outcome[x.nodeid] == "passed"]
            items.sort(key=lambda x: seconds[x.nodeid] * (0.1 if REFUSES.search(x.nodeid) else 1))
            self.one(m, items)
        return True

    def one(self, m: Mistake, items: list[Any]) -> None:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (self.seconds, self.seconds + 5))
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1), os.dup2(null, 2)
            os.close(read)
            try:
                with m.planted():
                    forget_all()
                    for item in items:
                        reports = runtestprotocol(item, log=False, nextitem=None)
                        failed = any(r.failed for r in reports)
                        os.write(write, f"{'-' if failed else '+'} {item.nodeid}\n".encode())
                        if failed and not self.whole:
                            break
            except BaseException as error:
                os.write(write, f"! {type(error).__name__}\n".encode())
            os._exit(0)
        os.close(write)
        start = time.perf_counter()
        text = b""
        while data := os.read(read, 65536):
            text += data
        os.close(read)
        _, status = os.waitpid(child, 0)
        lines = text.decode().splitlines()
        row = {
            "mistake": str(m), "number": m.number, "file": str(m.function.path.relative_to(ROOT)),
            "noticed": [x[2:] for x in lines if x[0] == "-"], "ran": sum(x[0] in "+-" for x in lines),
            "of": len(items), "error": [x[2:] for x in lines if x[0] == "!"], "status": status,
            "seconds": round(time.perf_counter() - start, 1),
        }
        if self.whole:
            row["passed"] = [x[2:] for x in lines if x[0] == "+"]
        with self.out.open("a") as file:
            print(json.dumps(row), file=file)


def main() -> None:
    out, files, kinds, *words = sys.argv[1:]
    paths: list[Path] = []
    for each in files.split(","):
        where = ROOT / each
        paths += sorted(where.rglob("*.py")) if where.is_dir() else [where]
    chosen = [k for k in KINDS if kinds == "all" or any(w in k for w in kinds.split(","))]
    sys.exit(pytest.main(["-n0", "-q", "-p", "no:cacheprovider", *words], plugins=[Campaign(Path(out), paths, chosen)]))


if __name__ == "__main__":
    main()
