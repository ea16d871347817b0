"""Reports as one HTML page each: nothing is loaded from anywhere, no script runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #5d6670; --line: #dfe3e8; --paper: #fff;
  --c0: #2f6fb5; --c1: #d9822b; --c2: #3a9a5c; --c3: #8c5fb0; --c4: #9aa3ad; --c5: #b8475c; --c6: #3f9aa6;
  --muted: #9aa3ad; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa4af; --line: #353b43;
  --paper: #16191d; --c0: #6ba6e8; --c1: #f0a356; --c2: #67c48a; --c3: #b996dd; --c4: #6c7681;
  --c5: #e27d90; --c6: #6fc3ce; --muted: #6c7681; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p, dd { color: var(--soft); } code { overflow-wrap: anywhere; }
figure { margin: 1rem 0; } figcaption { font-weight: 600; margin-bottom: .3rem; }
svg { width: 100%; max-width: 760px; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .tick { fill: var(--soft); } svg .grid { stroke: var(--line); }
svg polyline { fill: none; stroke-width: 2; }
.c0 { fill: var(--c0); } .c1 { fill: var(--c1); } .c2 { fill: var(--c2); } .c3 { fill: var(--c3); }
.c4 { fill: var(--c4); } .c5 { fill: var(--c5); } .c6 { fill: var(--c6); } .muted { fill: var(--muted); }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); } .s3 { stroke: var(--c3); }
.s4 { stroke: var(--c4); } .s5 { stroke: var(--c5); } .s6 { stroke: var(--c6); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
"""


def page(title: str, body: Sequence[str], style: str = "") -> str:
    """The whole page. ``body``: HTML, text in it escaped. ``style``: CSS beyond what all reports have."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style><body>"
        + "\n".join(body)
        + "</body></html>\n"
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, which are escaped."""
    head = "".join(f"<th>{escape(word)}</th>" for word in heads)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{lines}</table></div>'


def svg_file(chart: str) -> str:
    """A chart of ``charts`` as a file of its own, in the colours of the pages."""
    begin, _, shapes = chart[chart.index("<svg") :].partition(">")
    shapes = shapes.partition("</svg>")[0]
    named = begin.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f"{named}><style>{_STYLE}</style>{shapes}</svg>\n"
