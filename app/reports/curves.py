"""Learning curves as SVG.

They use the job's metrics, which cover all its attempts. The worker draws the other plots.
"""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 440, 200, 60, 28, 12


def curve_svg(points: Sequence[tuple[float, float]]) -> str:
    """Return a curve of (step, value) as SVG, with labels at the ends of both axes."""
    steps, values = [step for step, _ in points], [value for _, value in points]
    low, high = min(values), max(values)

    def x(step: float) -> float:
        share = (step - steps[0]) / ((steps[-1] - steps[0]) or 1)
        return LEFT + share * (WIDTH - LEFT - 10)

    def y(value: float) -> float:
        share = (value - low) / ((high - low) or 1)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    line = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
    labels = (
        (LEFT - 6, y(high) + 4, "end", f"{high:.3g}"),
        (LEFT - 6, y(low) + 4, "end", f"{low:.3g}"),
        (LEFT, HEIGHT - 8, "start", f"step {steps[0]:.0f}"),
        (WIDTH - 10, HEIGHT - 8, "end", f"{steps[-1]:.0f}"),
    )
    texts = "".join(
        f'<text x="{at:.1f}" y="{height:.1f}" text-anchor="{anchor}">{text}</text>'
        for at, height, anchor, text in labels
    )
    mark = f'<circle cx="{x(steps[-1]):.1f}" cy="{y(values[-1]):.1f}" r="3" fill="#2a7f62"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">'
        f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - 10}" fill="none" stroke="#999"/>'
        f'<polyline points="{line}" fill="none" stroke="#2a7f62" stroke-width="1.5"/>'
        f"{mark}{texts}</svg>"
    )
