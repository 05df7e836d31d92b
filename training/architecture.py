"""A picture of a classifier: its stages from waveform to probabilities, their shapes, and where its parameters are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from training.classifier import Classifier
from training.spec import AUDIO, LABELS

_DPI = 120


@dataclass(frozen=True)
class Stage:
    """One step of the way.

    Attributes:
        name: what it does, for people.
        shape: of what comes out of it for one window.
        parameters: learned numbers in it.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int


def stages(classifier: Classifier) -> list[Stage]:
    """The steps that one window goes through, in the order in which they run."""
    found: list[Stage] = []

    def note(module: nn.Module, name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            first: Tensor = output if isinstance(output, Tensor) else output[0]  # recurrent layers give their state too
            count = sum(parameter.numel() for parameter in module.parameters())
            found.append(Stage(name, tuple(first.shape[1:]), count))

        return module.register_forward_hook(hook)

    hooks = [note(classifier.front_end, f"{_words(classifier.front_end)} (frozen)")]
    hooks.append(
        classifier.network.register_forward_pre_hook(
            lambda _, given: found.append(Stage("each band normalised (frozen)", tuple(given[0].shape[1:]), 0))
        )
    )
    hooks += [note(module, f"{name}: {_words(module)}") for name, module in _parts(classifier.network)]
    with torch.inference_mode():
        classifier.eval()(torch.zeros(1, AUDIO.window_samples))
    for hook in hooks:
        hook.remove()
    said = Stage("softmax, at the temperature of the calibration", (len(LABELS),), 0)
    return [Stage("waveform", (AUDIO.window_samples,), 0), *found, said]


def plot_architecture(classifier: Classifier, path: Path) -> None:
    """Draw :func:`stages` from top to bottom, with the parameters of each beside it."""
    steps = stages(classifier)
    figure = Figure(figsize=(9, 0.42 * len(steps) + 1), layout="constrained")
    flow, weights = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for place, step in enumerate(steps):
        text = f"{step.name}    {' x '.join(map(str, step.shape))}"
        flow.text(
            0.5, -place, text, ha="center", va="center", fontsize=8, bbox={"boxstyle": "round,pad=0.4", "fc": "#e8f0f8"}
        )
        if place:
            flow.annotate("", (0.5, -place + 0.33), (0.5, -place + 0.67), arrowprops={"arrowstyle": "->", "lw": 0.8})
        if step.parameters:
            weights.text(step.parameters, -place, f" {step.parameters:,}", va="center", fontsize=7)
    weights.barh([-place for place in range(len(steps))], [step.parameters for step in steps], height=0.5)
    weights.set(title="parameters", xlim=(0, 1.25 * max(step.parameters for step in steps)))
    flow.set(xlim=(0, 1), ylim=(-len(steps) + 0.4, 0.6), title=f"{classifier.parameters_count:,} parameters in all")
    flow.set_axis_off()
    weights.tick_params(left=False, labelleft=False, bottom=False, labelbottom=False)
    figure.savefig(path, dpi=_DPI)


def _parts(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The network's own parts, rows of layers taken apart once."""
    parts: list[tuple[str, nn.Module]] = []
    for name, module in network.named_children():
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) and not _simple(module):
            parts += [(f"{name} {index + 1}", layer) for index, layer in enumerate(module)]
        else:
            parts.append((name, module))
    return parts


def _simple(row: nn.Module) -> bool:
    """A row of torch's own layers is one stage; a row of our blocks is many."""
    return all(not list(layer.children()) for layer in row.children())


def _words(module: nn.Module) -> str:
    """Ours in words, ``_DilatedBlock`` as "dilated block"; torch's by their names; a row by its layers."""
    if isinstance(module, nn.Sequential):
        return ", ".join(_words(layer) for layer in module)
    name = type(module).__name__
    if type(module).__module__.startswith("torch."):
        return name
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.strip("_")).lower()
    return f"{words}, {module.extra_repr()}" if module.extra_repr() else words
