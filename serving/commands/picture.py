"""The timeline as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from serving.client import Prediction, Segment

_WIDTH_IN, _HEIGHT_IN, _DPI = 12, 4, 100


def save(answer: Prediction, png: Path, title: str) -> None:
    """Probabilities over time, one coloured layer per emotion; gaps where nobody speaks.

    Raises:
        OSError: it cannot be saved there.
    """
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    emotions = list(answer.all_emotions)
    colours = [f"C{place}" for place in range(len(emotions))]
    for run in _without_gaps(answer.segments):
        times = [run[0].start_s, *((segment.start_s + segment.end_s) / 2 for segment in run), run[-1].end_s]
        rows = [run[0], *run, run[-1]]
        layers = [[segment.all_emotions[emotion] for segment in rows] for emotion in emotions]
        axes.stackplot(times, *layers, colors=colours)
    axes.set(title=title, xlabel="seconds", ylabel="probability", xlim=(0, answer.duration_s), ylim=(0, 1))
    handles = [axes.fill_between([], [], color=colour) for colour in colours]
    axes.legend(handles[::-1], emotions[::-1], loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(png, format="png")


def _without_gaps(segments: tuple[Segment, ...]) -> list[list[Segment]]:
    """Runs of segments each of which begins before the last one ends."""
    runs: list[list[Segment]] = []
    for segment in segments:
        if runs and segment.start_s <= runs[-1][-1].end_s:
            runs[-1].append(segment)
        else:
            runs.append([segment])
    return runs
