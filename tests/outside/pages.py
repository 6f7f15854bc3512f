"""Write the Python blocks of all pages as programs, for type checkers: ``python tests/outside/pages.py FOLDER``.

A page's blocks for one framework are one program, in the order of the page, as a user pastes them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from test_docs import examples_of, is_script, name_of, pages, source_of


def program(page: Path, framework: str) -> str:
    """Blocks as a program; ``_ = `` at a prompt only keeps a value from being printed."""
    sources = [source for name, _, source in examples_of(page) if name == framework]
    pasted = [source if is_script(source) else source_of(source) for source in sources]
    return re.sub(r"^( *)_ = ", r"\1", "\n".join(pasted), flags=re.MULTILINE)


def main(folder: Path) -> None:
    """Write a file for each page and framework."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.py"):
        old.unlink()
    for page in pages():
        for framework in {name for name, _, _ in examples_of(page)}:
            name = re.sub(r"\W", "_", f"{name_of(page)}_{framework or 'numpy'}")
            (folder / f"{name}.py").write_text(program(page, framework), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
