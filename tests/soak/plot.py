"""Curves over time as an SVG, by plain code: nothing to install, and the same bytes from the same numbers."""

from __future__ import annotations

from typing import NamedTuple

WIDTH, PANEL = 720, 130
LEFT, RIGHT, TOP, GAP = 60, 20, 40, 40


class Curve(NamedTuple):
    """One panel: its name, and pairs of seconds and value."""

    name: str
    points: list[tuple[float, float]]


def plot(title: str, curves: list[Curve]) -> str:
    """Return an SVG with a panel for each of ``curves``, one under the other, each from 0 up."""
    height = TOP + len(curves) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
        "<style>text { font: 12px sans-serif }</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="20">{title}</text>',
    ]
    for number, curve in enumerate(curves):
        parts += _panel(curve, TOP + number * (PANEL + GAP))
    return "\n".join([*parts, "</svg>", ""])


def _panel(curve: Curve, top: int) -> list[str]:
    end = max(seconds for seconds, _ in curve.points) or 1
    most = max(value for _, value in curve.points) * 1.1 or 1
    bottom = top + PANEL
    places = " ".join(
        f"{LEFT + (WIDTH - LEFT - RIGHT) * seconds / end:.1f},{bottom - PANEL * value / most:.1f}"
        for seconds, value in curve.points
    )
    frame = f'x="{LEFT}" y="{top}" width="{WIDTH - LEFT - RIGHT}" height="{PANEL}"'
    return [
        f'<rect {frame} fill="none" stroke="#ccc"/>',
        f'<text x="{LEFT + 6}" y="{top + 16}">{curve.name}</text>',
        f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{most:.0f}</text>',
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{WIDTH - RIGHT}" y="{bottom + 16}" text-anchor="end">{end:.0f} s</text>',
        f'<polyline points="{places}" fill="none" stroke="#2563eb" stroke-width="1.5"/>',
    ]
