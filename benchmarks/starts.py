"""What a fresh process spends on an import, a first call and the command, beside NumPy's import.

``python -m benchmarks starts --before COMMIT --out FILE`` measures a commit in the same turns, and prints a table.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import facts
from benchmarks.facts import ROOT, Row
from benchmarks.page import span, table

TURNS = 15
FOLDERS = ".", "plugins", "packages/networks", "packages/audit", "packages/check", "packages/train"
KERNEL = "numpy.ones((8, 3, 3, 3))"
COMMAND = "from specnorm_audit.__main__ import main; import sys; sys.argv"
STARTS = {
    "import numpy": "import numpy",
    "import specnorm": "import specnorm",
    "import numpy, tn_bound": f"import numpy, specnorm; specnorm.tn_bound({KERNEL})",
    "import numpy, enclose": f"import numpy, specnorm; specnorm.enclose({KERNEL})",
    "import numpy, conv_norm, 32 pixels": f"import numpy, specnorm; specnorm.conv_norm({KERNEL}, 32)",
    "specnorm --help": f"{COMMAND} = ['specnorm', '--help']; main()",
    "specnorm audit, one layer": f"{COMMAND} = ['specnorm', 'audit', 'model.npz']; main()",
}
COUNT = "import atexit, sys; atexit.register(lambda: print(sum(n.startswith('specnorm') for n in sys.modules)))"


def write(before: str, out: Path) -> None:
    """Measure this tree and a commit in turns; write the lines, and print their table."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", before], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        earlier = Path(folder, "before")
        earlier.mkdir()
        subprocess.run(["tar", "x", "-C", str(earlier)], input=archive.stdout, check=True)
        np.savez(Path(folder, "model.npz"), weight=np.random.default_rng(0).standard_normal((8, 3, 3, 3)))
        found = {(name, tree): _started(name, tree, folder)[0] for name in STARTS for tree in (ROOT, earlier)}
        seconds: dict[tuple[str, Path], list[float]] = {key: [] for key in found}
        for _ in range(TURNS):
            for (name, tree), values in seconds.items():
                values.append(_started(name, tree, folder)[1])
    rows: list[Row] = []
    for name in STARTS:
        old = {"seconds": statistics.median(seconds[name, earlier]), "modules": found[name, earlier], "commit": before}
        new = {"seconds": statistics.median(seconds[name, ROOT]), "modules": found[name, ROOT]}
        rows.append(facts.about("numpy") | {"case": name} | new | {"before": old})
    facts.write(out, rows)
    print(_table(rows))


def _started(name: str, tree: Path, folder: str) -> tuple[int, float]:
    """Number of specnorm's modules, and processor seconds, of a new process; bytecode is kept, as pip keeps it."""
    paths = os.pathsep.join(str(tree / part) for part in FOLDERS)
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    earlier = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", f"{COUNT}; {STARTS[name]}"]
    ended = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int(ended.stdout.split()[-1]), spent.ru_utime + spent.ru_stime - earlier.ru_utime - earlier.ru_stime


def _table(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        before = row["before"]
        cells = [f"{span(each['seconds'])}, {each['modules']}" for each in (row, before)]
        lines.append([f"`{row['case']}`" if row["case"].startswith("import ") else row["case"], *cells])
    return table(["process", "time, modules of specnorm", "before"], lines)
