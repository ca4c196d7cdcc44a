"""A picture as SVG: boxes, lines and words, in colours that follow the reader's light or dark.

A picture has a ground of its own, so that it can be read wherever it is shown.
"""

from __future__ import annotations

from html import escape
from typing import Final

FONT: Final = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
MONO: Final = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"

LIGHT: Final = {
    "ground": "#f6f8fa",
    "box": "#ffffff",
    "ink": "#1f2328",
    "dim": "#59636e",
    "line": "#8c959f",
    "blue": "#0969da",
    "green": "#1a7f37",
    "red": "#cf222e",
    "yellow": "#9a6700",
}
DARK: Final = {
    "ground": "#161b22",
    "box": "#0d1117",
    "ink": "#e6edf3",
    "dim": "#9198a1",
    "line": "#6e7681",
    "blue": "#4493f8",
    "green": "#3fb950",
    "red": "#f85149",
    "yellow": "#d29922",
}
"""Names of colours; each has 4.5 times the brightness of its ground, or a 4.5th of it."""


class Picture:
    """A picture of this size, in pixels. `title` is read aloud instead of it."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self._parts: list[str] = []

    def box(
        self, x: float, y: float, width: float, height: float, *, line: str = "line", fill: str = "box"
    ) -> None:
        """A box with round corners."""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" class="f-{fill} s-{line}"/>'
        )

    def words(
        self,
        x: float,
        y: float,
        text: str,
        *,
        colour: str = "ink",
        size: int = 13,
        at: str = "middle",
        bold: bool = False,
    ) -> None:
        """A line of words. `at`: start, middle or end."""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{at}"{weight} class="t-{colour}">{escape(text)}</text>'
        )

    def code(self, x: float, y: float, spans: list[tuple[str, str]], *, size: int = 12) -> None:
        """A line of a terminal: (text, colour), one after another."""
        inner = "".join(f'<tspan class="t-{colour}">{escape(text)}</tspan>' for text, colour in spans)
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" class="mono" xml:space="preserve">{inner}</text>'
        )

    def line(
        self,
        points: list[tuple[float, float]],
        *,
        colour: str = "line",
        dashed: bool = False,
        head: bool = False,
    ) -> None:
        """A line through these points; with a `head` it is an arrow."""
        path = " L".join(f"{x:g} {y:g}" for x, y in points)
        more = ' stroke-dasharray="4 4"' if dashed else ""
        more += f' marker-end="url(#to-{colour})"' if head else ""
        self._parts.append(f'<path d="M{path}" fill="none" class="s-{colour}"{more}/>')

    def dot(self, x: float, y: float, *, colour: str) -> None:
        """A small filled circle."""
        self._parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="5" class="f-{colour}"/>')

    def __str__(self) -> str:
        heads = "".join(
            f'<marker id="to-{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0 L8 4 L0 8 z" class="f-{name}"/></marker>'
            for name in LIGHT
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(self.title)}">\n'
            f"<title>{escape(self.title)}</title>\n<style>{_style()}</style>\n<defs>{heads}</defs>\n"
            f'<rect width="{self.width}" height="{self.height}" rx="10" class="f-ground"/>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )


def _style() -> str:
    text = (
        f"text {{ font-family: {FONT} }} .mono {{ font-family: {MONO} }} path, rect {{ stroke-width: 1.4 }}"
    )
    rules = [
        f".f-{name} {{ fill: var(--{name}) }} .t-{name} {{ fill: var(--{name}) }} .s-{name} {{ stroke: var(--{name}) }}"
        for name in LIGHT
    ]
    light, dark = ("; ".join(f"--{name}: {value}" for name, value in of.items()) for of in (LIGHT, DARK))
    return f":root {{ {light} }} @media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }} " + " ".join(
        [text, *rules]
    )
