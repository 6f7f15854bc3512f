"""Execute the notebooks: ``python docs/_site/execute.py FOLDER`` writes copies with outputs into a folder.

A notebook whose library is missing or has no device is left out. Outputs are text: what a cell prints, and the value of
its last expression.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import sys
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def can_run(library: str) -> bool:
    """Whether the library that a notebook is named after works here."""
    if importlib.util.find_spec(library) is None:
        return False
    if library != "cupy":
        return True
    import cupy

    return bool(cupy.cuda.is_available())


def execute(cells: list[dict[str, Any]], name: str) -> None:
    """Run the cells of a notebook in one namespace, and put what they print and their values into them."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cell for cell in cells if cell["cell_type"] == "code"):
        tree = ast.parse("".join(cell["source"]), f"{name}[{number}]")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        printed, value = io.StringIO(), None
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, f"{name}[{number}]", "exec"), namespace)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), f"{name}[{number}]", "eval"), namespace)
        cell["execution_count"] = number + 1
        cell["outputs"] = []
        if printed.getvalue():
            cell["outputs"].append({"output_type": "stream", "name": "stdout", "text": printed.getvalue()})
        if value is not None:
            shown = {"text/plain": repr(value)}
            result = {"output_type": "execute_result", "execution_count": number + 1, "data": shown, "metadata": {}}
            cell["outputs"].append(result)


def main(folder: Path) -> None:
    """Execute every notebook that can run here."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        (folder / path.name).unlink(missing_ok=True)
        if not can_run(path.stem):
            print(f"{path.name}: not executed, {path.stem} does not work here")
            continue
        notebook = json.loads(path.read_text(encoding="utf-8"))
        execute(notebook["cells"], path.name)
        (folder / path.name).write_text(json.dumps(notebook, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
