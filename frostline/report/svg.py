"""SVG made part of a page, and the colours that pictures and page share."""

from __future__ import annotations

import re
from collections.abc import Mapping

# blue and vermilion of Okabe and Ito's palette, which the colour-blind tell apart; the rest are greys
PALETTE: Mapping[str, str] = {
    "ink": "#18222c",
    "muted": "#5f6c79",
    "rule": "#d5dce3",
    "paper": "#fffffe",
    "frost": "#0072b2",
    "ember": "#c24e00",
    "quiet": "#9aa6b2",
}


def short(name: str, limit: int = 14) -> str:
    """The end of a long name: layers of one network differ there."""
    return name if len(name) <= limit else "…" + name[1 - limit :]


def clip(name: str, limit: int = 16) -> str:
    """The start of a long name."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def embed(svg: str, name: str) -> str:
    """One SVG document made part of an HTML page; `name` keeps its ids apart from those of other pictures."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg, count=2)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: (?:(bold|normal|\d+) )?([\d.]+)px [^;\"]*", _font, svg)
    for variable, colour in PALETTE.items():
        svg = svg.replace(colour, f"var(--{variable}, {colour})")
    return svg


def _font(found: re.Match[str]) -> str:
    """Size and weight only: the family is the page's."""
    weight = f"; font-weight: {found[1]}" if found[1] else ""
    return f"font-size: {found[2]}px{weight}"
