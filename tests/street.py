"""Draw who imports whom, from the imports themselves: ``python tests/street.py`` writes docs/street.svg.

A box is a package; an arrow goes from one to another whose names it takes at run time.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from test_house import ARRAYS, CORE, PLUGINS, ROOT, STREET, parsed
from trusted import imported

PICTURE = ROOT / "docs" / "street.svg"
WIDTH, HEIGHT = 190, 54
PLACES = {
    "specnorm_audit": (20, 20), "specnorm_networks": (280, 120), "specnorm": (280, 320),
    "specnorm_check": (20, 420), "specnorm_keras": (20, 220),
    "specnorm_numpy": (540, 220), "specnorm_torch": (540, 120), "specnorm_jax": (540, 320), "specnorm_cupy": (540, 420),
}  # fmt: skip
"""Left upper corners; what may import lies above or beside what it imports."""


def files(package: str) -> list[Path]:
    """Every file of a package, or the one that it is."""
    folder = CORE if package == "specnorm" else PLUGINS / package
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def arrows() -> dict[tuple[str, str], set[str]]:
    """Pairs of packages, and the names that the first takes from the second."""
    found = defaultdict(set)
    for package in ("specnorm", *STREET):
        for path in files(package):
            for name in imported(parsed(path)):
                other = name.split(".")[0]
                if other in PLACES and other != package:
                    found[package, other].add(name)
    return dict(found)


def picture() -> str:
    """The drawing, as SVG."""
    drawn = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 750 500" font-family="sans-serif" font-size="14">',
        '<defs><marker id="end" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs>',
    ]
    for package, other in sorted(arrows()):
        (x, y), (to_x, to_y) = (
            (PLACES[name][0] + WIDTH / 2, PLACES[name][1] + HEIGHT / 2) for name in (package, other)
        )
        # From the rim of one box to the rim of the other.
        dx, dy = to_x - x, to_y - y
        rim = min(WIDTH / 2 / abs(dx) if dx else 1, HEIGHT / 2 / abs(dy) if dy else 1)
        x1, y1, x2, y2 = x + rim * dx, y + rim * dy, to_x - rim * dx, to_y - rim * dy
        drawn.append(
            f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke="#555" marker-end="url(#end)"/>'
        )
    for package, (x, y) in PLACES.items():
        fill = "#e8f0fe" if package == "specnorm" else "#f3f3f3" if package in ARRAYS else "#fff7e0"
        drawn.append(
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{fill}" stroke="#333"/>'
            f'<text x="{x + WIDTH / 2:.0f}" y="{y + 32}" text-anchor="middle" font-weight="bold">{package}</text>'
        )
    return "\n".join([*drawn, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
