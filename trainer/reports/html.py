"""Report HTML: the frame of the page, its style sheet, and the few shapes that its sections use.

One file that needs nothing else: no script, no font, no picture from elsewhere. Everything that is handed in as text
is escaped here; what is handed in as `Html` was made here or in chart_svg.py.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NewType

from PIL import Image

from .chart_svg import draw_svg
from .charts import Chart

Html = NewType("Html", str)

_WIDEST = 1400
"""Pixels; a larger picture is scaled down, or three sheets of an SDXL run would weigh 30 MB."""
_DRAWN_BY_PIXELS = 400
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def page(title: str, body: Sequence[Html]) -> str:
    """The whole HTML file."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def escape_text(words: str) -> Html:
    """Escaped; what stands between backquotes becomes code, as in the messages of the command line."""
    parts = escape(words, quote=True).split("`")
    if len(parts) % 2 == 0:  # one without its partner is an ordinary sign
        return Html("`".join(parts))
    return Html("".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts)))


def element(tag: str, *inside: Html, kind: str = "") -> Html:
    """kind: its classes in the style sheet."""
    attribute = f' class="{kind}"' if kind else ""
    return Html(f"<{tag}{attribute}>{''.join(inside)}</{tag}>")


def paragraph(words: str, kind: str = "") -> Html:
    return element("p", escape_text(words), kind=kind)


def section(title: str, *inside: Html, kind: str = "") -> Html:
    return element("section", element("h2", escape_text(title)), *inside, kind=kind)


def table(rows: Sequence[Sequence[object]], header: bool = True) -> Html:
    """rows: the first is the header where there is one. A cell is shown as its str()."""
    if not rows:
        return Html("")
    head = element("thead", _row(rows[0], "th")) if header else Html("")
    body = element("tbody", *(_row(row, "td") for row in rows[1 if header else 0 :]))
    return element("div", element("table", head, body), kind="scroll")


def facts(rows: Sequence[tuple[str, object]]) -> Html:
    """Names and values, one pair a line."""
    return element("dl", *(element("dt", escape_text(n)) + element("dd", escape_text(str(v))) for n, v in rows))  # type: ignore[arg-type]


def picture(file: Path, description: str) -> Html:
    """The picture inside the page, or a sentence where it cannot be read."""
    try:
        with Image.open(file) as image:
            image.load()
            source, width = _inlined(image)
    except _UNREADABLE:
        return paragraph(f"{file.name} cannot be read as a picture.", "empty")
    kind = "pixels" if width <= _DRAWN_BY_PIXELS else "smooth"
    return Html(f'<img class="{kind}" src="{source}" alt="{escape(description, quote=True)}">')


def chart_card(chart: Chart, steps: int) -> Html:
    """A chart over 0 to `steps`, with what a good one looks like."""
    names = [Html(f'<li class="{line.tone}">{escape(line.label)}</li>') for line in chart.lines]
    return element(
        "div",
        element("h3", escape_text(chart.title)),
        paragraph(chart.good),
        element("ul", *names, kind="key") if len(names) > 1 else Html(""),
        Html(draw_svg(chart, steps)),
        kind="card",
    )


def enlargeable(image: Html, caption: str) -> Html:
    """A picture with its caption; a click makes it as wide as the page, which needs no script, only a target."""
    name = "large-" + "".join(sign if sign.isalnum() else "-" for sign in caption.lower())
    smaller = f'<a class="smaller" href="#{name}-not">make it smaller</a>'
    return Html(
        f'<figure id="{name}"><a class="larger" href="#{name}">{image}</a>'
        f"<figcaption>{escape_text(caption)} {smaller}</figcaption></figure>"
    )


def _inlined(image: Image.Image) -> tuple[str, int]:
    """A data URI, and the picture's width: small ones exactly, large ones as a good JPEG."""
    image = image.convert("RGB")
    data = io.BytesIO()
    if image.width * image.height <= 512 * 512:
        image.save(data, "PNG", optimize=True)
        kind = "png"
    else:
        image.thumbnail((_WIDEST, 4 * _WIDEST), Image.Resampling.LANCZOS)
        image.save(data, "JPEG", quality=90, subsampling=0)  # outlines keep their colours
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode('ascii')}", image.width


def _row(cells: Sequence[object], tag: str) -> Html:
    return element("tr", *(element(tag, escape_text(str(cell))) for cell in cells))


_STYLE = """
:root {
  --paper: #f6f5f2; --card: #ffffff; --ink: #1f2125; --soft: #62656d; --hair: #dedcd6; --code: #efede7;
  --one: #1f6fb2; --two: #c4571b; --three: #5f6b7a; --good: #2c7a4b; --bad: #b3261e; --wait: #8a6100;
  --alarm: #fff1e6; --alarm-edge: #d9722e; --note: #fbf6e3; --note-edge: #c9a227;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #17181b; --card: #1f2125; --ink: #e8e6e1; --soft: #a3a6ad; --hair: #34373d; --code: #2a2d33;
    --one: #6db3ee; --two: #f0965a; --three: #98a3b2; --good: #76c893; --bad: #f2867e; --wait: #e0b64c;
    --alarm: #38241a; --alarm-edge: #e0854a; --note: #2d2919; --note-edge: #b9962c;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 44px 24px 72px; }
h1 { font: 600 clamp(26px, 3.4vw, 36px)/1.22 Charter, "Iowan Old Style", Cambria, Georgia, "Liberation Serif", serif;
  margin: 0 0 14px; letter-spacing: -.01em; overflow-wrap: anywhere; text-wrap: balance; }
h1 em { font-style: normal; color: var(--one); white-space: nowrap; }
h2 { font: 600 21px/1.3 Charter, "Iowan Old Style", Cambria, Georgia, "Liberation Serif", serif; margin: 0 0 12px; }
h3 { font-size: 15px; margin: 0 0 2px; }
p { margin: 0 0 10px; max-width: 72ch; overflow-wrap: anywhere; }
section { margin-top: 40px; }
code { font: .9em/1.4 ui-monospace, "Cascadia Mono", Menlo, Consolas, "Liberation Mono", monospace;
  background: var(--code); border-radius: 4px; padding: .12em .35em; overflow-wrap: anywhere;
  display: inline-block; max-width: 100%; }
.eyebrow { color: var(--soft); font-size: 14px; margin-bottom: 18px; }
.eyebrow b { font-weight: 600; }
.finished b { color: var(--good); } .failed b { color: var(--bad); } .stopped b, .open b { color: var(--wait); }
.soft, .empty { color: var(--soft); }
.empty { font-style: italic; margin: 0; }
.hero { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 28px; align-items: center; }
.card { background: var(--card); border: 1px solid var(--hair); border-radius: 10px; padding: 16px 18px 12px;
  min-width: 0; }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 18px; }
.card p { font-size: 14px; color: var(--soft); margin: 0 0 8px; }
.key { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 13px; color: var(--soft); margin: 0 0 4px; padding: 0;
  list-style: none; }
.key li::before { content: ""; display: inline-block; width: 14px; height: 3px; border-radius: 2px;
  background: var(--tone); margin-right: 6px; vertical-align: 4px; }
.key .one { --tone: var(--one); } .key .two { --tone: var(--two); } .key .three { --tone: var(--three); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg .grid { stroke: var(--hair); stroke-width: 1; }
svg .guide { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 4 4; }
svg .axis { fill: var(--soft); font-size: 11.5px; }
svg .end { font-size: 12px; font-weight: 600; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .rough { fill: none; stroke-width: 1; opacity: .28; stroke-linejoin: round; }
svg polyline.one { stroke: var(--one); } svg circle.one, svg text.one { fill: var(--one); }
svg polyline.two { stroke: var(--two); } svg circle.two, svg text.two { fill: var(--two); }
svg polyline.three { stroke: var(--three); } svg circle.three, svg text.three { fill: var(--three); }
svg .band { fill: var(--one); opacity: .14; }
svg .whisker { stroke: var(--one); opacity: .35; stroke-width: 6; }
.alarm, .note { border-left: 4px solid var(--note-edge); background: var(--note); border-radius: 0 8px 8px 0;
  padding: 12px 16px; margin: 20px 0 0; max-width: none; }
.alarm { border-color: var(--alarm-edge); background: var(--alarm); }
.strip { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 18px; align-items: start; }
figure { margin: 0; max-width: 520px; min-width: 0; }
figcaption { font-size: 14px; color: var(--soft); margin-top: 6px; }
figure:target { grid-column: 1 / -1; max-width: none; }
.larger { cursor: zoom-in; } :target .larger { cursor: default; }
.smaller { display: none; color: var(--one); } :target .smaller { display: inline; }
img { display: block; max-width: 100%; height: auto; border-radius: 6px; border: 1px solid var(--hair); }
img.pixels { width: 480px; image-rendering: pixelated; } .strip img { width: 100%; }
.columns { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 18px; align-items: start; }
.three { grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); }
dl { display: grid; grid-template-columns: minmax(0, max-content) minmax(0, 1fr); gap: 5px 20px; margin: 0;
  font-size: 15px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: 12px 0 0; }
table { border-collapse: collapse; font-size: 15px; min-width: 50%; }
th, td { text-align: left; vertical-align: top; padding: 7px 18px 7px 0; border-bottom: 1px solid var(--hair);
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
th { font-weight: 600; color: var(--soft); font-size: 14px; white-space: nowrap; }
.judging { margin-top: 18px; }
.hosts p { margin: 0 0 4px; color: var(--ink); }
.settings { columns: 2; column-gap: 18px; }
.settings .card { break-inside: avoid; margin: 0 0 18px; }
.settings dl { font-size: 14px; gap: 3px 16px; }
.settings dt, .settings dd { color: var(--ink); font-weight: 600; }
.settings .default { color: var(--soft); font-weight: 400; }
.settings .why { grid-column: 1 / -1; font-weight: 400; font-size: 13px; color: var(--soft); margin: 0 0 6px; }
@media (max-width: 640px) {
  main { padding: 28px 16px 48px; }
  .hero, .charts, .columns { grid-template-columns: minmax(0, 1fr); }
  .settings { columns: 1; }
}
@media print { body { background: none; } section { break-inside: avoid; } }
"""
