"""A figure's SVG as a part of a page: ids that do not collide, the page's colours and font, words for each mark."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from specnorm.auditing.plots import COLOURS

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"
_REFERENCE = re.compile(r"url\(#([^)]*)\)")
_FAMILY = re.compile(r"(font-family:|font: [^;']*px) [^;]*")
_ROLES = {colour: f"var(--plot-{role})" for role, colour in COLOURS.items()}
_COLOUR = re.compile("|".join(_ROLES))


def inline(svg: bytes, name: str, label: str, titles: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return a figure to stand in a page.

    Parameters
    ----------
    svg : bytes
        From `plots.to_bytes`: our own, so that its structure can be relied on.
    name : str
        Put before every id.
    label : str
        What the picture shows, for those who do not see it.
    titles : mapping of str to sequence of str, optional
        For the group with an id, what each of its marks says of itself.

    Returns
    -------
    str
        One ``<svg>`` element without ``<style>`` and metadata.
    """
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for group, words in (titles or {}).items():
        _tell(root, group, words)
    for element in root.iter():
        _prefix(element, name)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"class": "plot", "role": "img", "aria-label": label}
    ElementTree.register_namespace("", _SVG.strip("{}"))
    ElementTree.register_namespace("xlink", _XLINK.strip("{}"))
    return ElementTree.tostring(root, encoding="unicode")


def _tell(root: ElementTree.Element, group: str, words: Sequence[str]) -> None:
    """Give each mark of a group a title, which browsers show under the pointer."""
    found = root.find(f".//*[@id='{group}']")
    drawn = [] if found is None else [e for e in found.iter() if e.tag == f"{_SVG}use" or _is_bar(e)]
    for element, word in zip(drawn, words, strict=True):
        ElementTree.SubElement(element, f"{_SVG}title").text = word


def _is_bar(element: ElementTree.Element) -> bool:
    return element.tag == f"{_SVG}path" and "id" not in element.attrib


def _prefix(element: ElementTree.Element, name: str) -> None:
    for key, value in list(element.attrib.items()):
        if key == "id":
            value = f"{name}-{value}"
        elif key == f"{_XLINK}href" and value.startswith("#"):
            value = f"#{name}-{value[1:]}"
        elif key == "style":
            value = _COLOUR.sub(lambda found: _ROLES[found.group()], value)
            value = _FAMILY.sub(r"\1 var(--sans)", value)
        element.attrib[key] = _REFERENCE.sub(rf"url(#{name}-\1)", value)
