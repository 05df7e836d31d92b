"""The model card: what a version is for, how it was measured, on whom it fails, and on what terms."""

from __future__ import annotations

from typing import Any

import numpy as np

from training.spec import LABELS, RAVDESS_ACTORS


def model_card(metadata: dict[str, Any], results: dict[str, dict[str, Any]]) -> str:
    """Markdown of one version's card; every number in it stands in model.json or report/*.json beside it.

    Args:
        metadata: as written into the exported file.
        results: metrics by part: "test", "validation" and, where the corpus was not learned from, "tess".
    """
    metrics, elsewhere = results["test"], results.get("tess")
    training = metadata["training"]
    trained = metadata["provenance"]["trained"]
    speakers, clips = training["speakers"], training["clips"]
    window_s = metadata["window_samples"] / metadata["sample_rate_hz"]
    hop_s = metadata["hop_samples"] / metadata["sample_rate_hz"]
    sections = [
        f"# Timbre, version {metadata['version']}",
        f"Which of {len(LABELS)} emotions a voice expresses: {', '.join(LABELS)}.",
        "## What it is",
        f"`{metadata['model']}` over `{metadata['features']}`, {metadata['parameters'] / 1e6:.2f} million parameters, "
        f"trained on {', '.join(training['corpora'])}. `model.onnx` takes `waveform`, float32 (batch, "
        f"{metadata['window_samples']}), that is {window_s:g} s of mono sound at {metadata['sample_rate_hz']} Hz, and "
        "gives `probabilities`, float32 (batch, 8). All preprocessing is in the graph. A longer clip is cut into "
        f"windows every {hop_s:g} s and the windows' probabilities are averaged.",
        "## What it is for, and what not",
        "For research, teaching and prototypes with acted emotion in English speech. It hears how something is said, "
        "by actors who were told what to express; it does not know what anyone feels. Do not use it to judge, hire, "
        "grade, diagnose or police people. In the EU, inferring emotions at work and in education is largely "
        "prohibited by the AI Act, Article 5(1)(f).",
        "## How it was measured",
        f"Learned from {clips['train']} clips of {len(speakers['train'])} speakers, chosen on {clips['validation']} "
        f"clips of speakers {', '.join(speakers['validation'])}, and examined once, as the exported file in ONNX "
        f"Runtime, on {clips['test']} clips of speakers {', '.join(speakers['test'])}. No voice is in two parts "
        f"(split: {training['split']['kind']} {training['split']['key']}; report/split.json names every clip).",
        _headline(results),
        f"{len(speakers['test'])} speakers are few: read the figures as plus or minus ten points. Chance is "
        f"{1 / len(LABELS):.3f}.",
        "| emotion | recall | precision | clips |\n|---|---|---|---|\n"
        + "\n".join(
            f"| {label} | {row['recall']:.2f} | {row['precision']:.2f} | {row['clips']} |"
            for label, row in metrics["per_class"].items()
        ),
        "![Confusion matrix](report/confusion.png)",
        "![ROC curves](report/roc.png)",
        "![Training curves](report/curves.png)",
        "## On whom it fails",
        _failures(metrics, elsewhere),
        "## Licence and data",
        f"{metadata['licence']}. RAVDESS: Livingstone & Russo 2018, PLoS ONE 13(5): e0196391, CC BY-NC-SA 4.0. TESS: "
        "Pichora-Fuller & Dupuis 2020, doi:10.5683/SP2/E8H2MF, CC BY-NC-ND 4.0.",
        "## Provenance",
        f"`{trained['command']}` at commit `{trained['commit']}`, seed {trained['seed']}, on {trained['machine']}, "
        f"{trained['date']}. SHA-256 of the file: see model.json.",
    ]
    return "\n\n".join(sections) + "\n"


def _headline(results: dict[str, dict[str, Any]]) -> str:
    names = {
        "test": "RAVDESS, unseen actors",
        "validation": "RAVDESS, the actors it was chosen on",
        "tess": "TESS, an unheard corpus (7 of the 8 emotions)",
    }
    rows = [(names[part], metrics) for part, metrics in results.items()]
    return "| clips | UAR | accuracy | macro F1 |\n|---|---|---|---|\n" + "\n".join(
        f"| {name}: {row['clips']} | {row['uar']:.3f} | {row['accuracy']:.3f} | {row['f1_macro']:.3f} |"
        for name, row in rows
    )


def _failures(metrics: dict[str, Any], elsewhere: dict[str, Any] | None) -> str:
    confusion = np.array(metrics["confusion"], dtype=float)
    confusion /= np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(confusion, 0)
    worst = np.dstack(np.unravel_index(np.argsort(confusion, axis=None)[::-1][:4], confusion.shape))[0]
    pairs = ", ".join(
        f"{LABELS[row]} heard as {LABELS[column]} ({confusion[row, column]:.0%})" for row, column in worst
    )
    lines = [f"Most frequent confusions: {pairs}."]
    sexes: dict[str, list[float]] = {"women": [], "men": []}
    for speaker, row in metrics["per_speaker"].items():
        if speaker in RAVDESS_ACTORS:
            sexes["men" if int(speaker) % 2 else "women"].append(row["uar"])
    means = " and ".join(f"{np.mean(values):.2f} for {sex}" for sex, values in sexes.items() if values)
    each = ", ".join(f"{speaker}: {row['uar']:.2f}" for speaker, row in metrics["per_speaker"].items())
    lines.append(f"UAR is {means} (by speaker {each}).")
    if elsewhere:
        lines.append(
            f"On recordings of another corpus it falls to {elsewhere['uar']:.2f}: other rooms, microphones, words and "
            "actors are the rule outside a laboratory, so expect that figure rather than the first."
        )
    lines.append(
        "It never heard children, spontaneous speech, other languages, telephone lines or noise, and it has no answer "
        "for a voice that expresses none of the eight."
    )
    return " ".join(lines)
