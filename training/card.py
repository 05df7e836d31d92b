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
    window_s = metadata["window_samples"] / metadata["sample_rate_hz"]
    hop_s = metadata["hop_samples"] / metadata["sample_rate_hz"]
    sections = [
        f"# Timbre, version {metadata['version']}",
        f"Which of {len(LABELS)} emotions a voice expresses: {', '.join(LABELS)}.",
        "## What it is",
        f"`{metadata['model']}` over `{metadata['features']}`, {metadata['parameters'] / 1e6:.2f} million parameters, "
        f"trained on {', '.join(training['corpora'])}{_augmented(training['settings'])}. "
        f"`model.onnx` takes `waveform`, float32 (batch, {metadata['window_samples']}), that is {window_s:g} s of mono "
        f"sound at {metadata['sample_rate_hz']} Hz, and "
        f"gives `probabilities`, float32 (batch, {len(LABELS)}). All preprocessing is in the graph. A longer clip is "
        f"cut into windows every {hop_s:g} s and the windows' probabilities are averaged.",
        _half(metadata["fp16"]),
        "## What it is for, and what not",
        "For research, teaching and prototypes with acted emotion in English speech. It hears how something is said, "
        "by actors who were told what to express; it does not know what anyone feels. Do not use it to judge, hire, "
        "grade, diagnose or police people. In the EU, inferring emotions at work and in education is largely "
        "prohibited by the AI Act, Article 5(1)(f).",
        "## How it was measured",
        *_bench(metadata.get("bench")),
        _method(training),
        _headline(results, training),
        "UAR and F1 are means over the emotions that occur; chance is one by their number. The intervals are "
        f"bootstrapped over clips and say nothing of other speakers. {_by_speaker(metrics)}",
        "| emotion | recall | precision | clips |\n|---|---|---|---|\n"
        + "\n".join(
            f"| {label} | {row['recall']:.2f} | {row['precision']:.2f} | {row['clips']} |"
            for label, row in metrics["per_class"].items()
        ),
        "![Confusion matrix](report/confusion.png)",
        "![ROC curves](report/roc.png)",
        "![Training curves](report/curves.png)",
        "![Architecture](report/architecture.png)",
        "## How sure it is",
        _confidence(metadata),
        "![Reliability and rejection](report/reliability.png)",
        "## Under other conditions",
        "The test part once more, as users' recordings are: white noise"
        f"{_heard_noise(training['settings']['augment'])} and pink so many decibels below the clip's mean power "
        "(pauses included), a telephone line "
        "(8 kHz, mu-law), clipping, and cuts from the middle. Figures: report/conditions.json.",
        "![Conditions](report/conditions.png)",
        "## On whom it fails",
        _failures(metrics, elsewhere),
        _never_heard(training["settings"]["augment"]),
        "## Licence and data",
        f"{metadata['licence']}. RAVDESS: Livingstone & Russo 2018, PLoS ONE 13(5): e0196391, CC BY-NC-SA 4.0. TESS: "
        "Pichora-Fuller & Dupuis 2020, doi:10.5683/SP2/E8H2MF, CC BY-NC-ND 4.0.",
        "## Provenance",
        *(
            f"{done}: `{how['command']}` at commit `{how['commit']}`, seed {how['seed']}, on {how['machine']}, "
            f"{how['date']}."
            for done, how in (("Trained", trained), ("Exported", metadata["provenance"]["exported"]))
        ),
        "SHA-256 of the files: see model.json.",
    ]
    return "\n\n".join(sections) + "\n"


def _half(told: dict[str, Any]) -> str:
    return (
        "`model.fp16.onnx` is the same network in half precision behind a front end in 32 bit: what a service on CUDA "
        f"loads. On this machine's processor, over the {told['clips']} test clips, its UAR is {told['uar']:.3f}, "
        f"{told['answered_otherwise']} of them are answered otherwise than by `model.onnx`, and no probability of a "
        f"window is further off than {told['largest_difference']:.4f}. On CUDA it has not been measured."
    )


def _augmented(settings: dict[str, Any]) -> str:
    """With what, and by whom: a share of the clips, or how strong, by their names in the settings."""
    told = ", ".join(f"{name} {value:g}" for name, value in settings["augment"].items() if value)
    taught = f", taught by {len(settings['teachers'])} other networks" if settings.get("teachers") else ""
    return (f", augmented ({told})" if told else "") + taught


def _method(training: dict[str, Any]) -> str:
    speakers, clips, split = training["speakers"], training["clips"], training["split"]
    examined = f"examined, as the exported file in ONNX Runtime, on {clips['test']} clips"
    where = f"(split: {split['kind']} {split['key']}; report/split.json names every clip)"
    if split["kind"] == "actor":
        chosen = (
            f"chosen on {clips['validation']} clips of speakers {', '.join(speakers['validation'])}"
            if clips["validation"]
            else "with settings that were chosen by runs which left the validation actors out"
        )
        return (
            f"Learned from {clips['train']} clips of {len(speakers['train'])} speakers, {chosen}, and {examined} of "
            f"speakers {', '.join(speakers['test'])}. No voice is in two parts {where}."
        )
    return (
        f"Learned from {clips['train']} clips, chosen on {clips['validation']} and {examined}, at random {where}. "
        f"The same {len(speakers['test'])} voices are in all parts, so these figures flatter: of a voice it has not "
        "heard, expect far less."
    )


def _bench(told: dict[str, Any] | None) -> list[str]:
    """What the recipe has over all folds of actors, where that is known: more voices than one exam has."""
    if not told:
        return []
    return [
        f"**Of a voice that it has not heard, expect a UAR of {told['uar']:.2f}.** That is the mean of its recipe "
        f"(`{told['row']}`, training/results/compare.md), trained anew for each of {told['folds']} folds of actors and "
        f"examined on theirs, {told['clips']} clips in all: {told['uar']:.3f} ± {told['uar_sd']:.3f}, the standard "
        "deviation over folds. What follows is the exam of this very file, on fewer speakers, by whom it may look "
        "better or worse than it is."
    ]


def _headline(results: dict[str, dict[str, Any]], training: dict[str, Any]) -> str:
    by_actor = training["split"]["kind"] == "actor"
    heard = "RAVDESS and TESS" if not by_actor and "tess" in training["corpora"] else "RAVDESS"
    names = {
        "test": f"test: {heard}, {'actors it never heard' if by_actor else 'voices it has heard, other clips'}",
        "validation": f"validation: {heard}, the {'actors' if by_actor else 'clips'} it was chosen on",
        "tess": "TESS, a corpus it never heard (7 of the 8 emotions)",
    }
    head = "| what | clips | UAR | 95 % interval | accuracy | macro F1 |\n|---|---|---|---|---|---|\n"
    return head + "\n".join(
        f"| {names[part]} | {row['clips']} | {row['uar']:.3f} | {row['uar_interval'][0]:.3f} to "
        f"{row['uar_interval'][1]:.3f} | {row['accuracy']:.3f} | {row['f1_macro']:.3f} |"
        for part, row in results.items()
    )


def _confidence(metadata: dict[str, Any]) -> str:
    calibration, curve = metadata["calibration"], metadata["rejection"]
    half = next((point for point in reversed(curve) if point["answered"] >= 0.5), curve[0])
    return (
        f"A temperature of {calibration['temperature']:.2f}, fitted on the validation part"
        f"{_fitted_elsewhere(calibration)}, is frozen into the graph. "
        f"Expected calibration error (15 bins) on the test part: {calibration['ece_test_before']:.3f} before, "
        f"{calibration['ece_test']:.3f} after. A perfectly calibrated model would be expected to show "
        f"{calibration['ece_test_if_calibrated']:.3f} on so few clips, by chance. "
        f"With `min_confidence` {half['min_confidence']:.2f}, "
        f"{half['answered']:.0%} of the clips are answered, {half['accuracy']:.0%} of those rightly."
    )


def _fitted_elsewhere(calibration: dict[str, Any]) -> str:
    other = calibration.get("temperature_from")
    return f" of a run that had not learned from it ({other})" if other else ""


def _by_speaker(metrics: dict[str, Any]) -> str:
    """UAR of each speaker, and the means of women and men where there are both."""
    each = [f"{speaker} {row['uar']:.3f}" for speaker, row in metrics["per_speaker"].items()]
    sexes: dict[str, list[float]] = {"women": [], "men": []}
    for speaker, row in metrics["per_speaker"].items():
        if speaker in RAVDESS_ACTORS:
            sexes["men" if int(speaker) % 2 else "women"].append(row["uar"])
    if not all(sexes.values()):
        return f"By speaker: {', '.join(each)}."
    means = " and ".join(
        f"{np.mean(values):.3f} over {len(values)} {sex if len(values) > 1 else sex.replace('men', 'man')}"
        for sex, values in sexes.items()
    )
    return f"By speaker: {', '.join(each)}; that is {means}."


def _failures(metrics: dict[str, Any], elsewhere: dict[str, Any] | None) -> str:
    confusion = np.array(metrics["confusion"], dtype=float)
    confusion /= np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(confusion, 0)
    worst = np.dstack(np.unravel_index(np.argsort(confusion, axis=None)[::-1][:4], confusion.shape))[0]
    pairs = ", ".join(
        f"{LABELS[row]} heard as {LABELS[column]} ({confusion[row, column]:.0%})" for row, column in worst
    )
    lines = [f"Most frequent confusions on the test part: {pairs}."]
    if elsewhere:
        lines.append(
            f"On recordings of another corpus UAR is {elsewhere['uar']:.3f}: other rooms, microphones, words and "
            "actors are the rule outside a laboratory, so expect that figure rather than the first."
        )
    else:
        lines.append(
            "It has been examined on no corpus but those that it learned from: in other rooms, with other words and "
            "microphones, expect less. Version 1, which has such an exam, lost more than half of its UAR there."
        )
    return " ".join(lines)


def _heard_noise(augment: dict[str, float]) -> str:
    return " (which augmentation is, too)" if augment["noise"] else ""


def _never_heard(augment: dict[str, float]) -> str:
    heard = [name for setting, name in (("noise", "noise"), ("room", "rooms")) if augment[setting]]
    noise = f"telephone lines or other {' and '.join(heard)} than artificial" if heard else "telephone lines or noise"
    return (
        f"It never heard children, spontaneous speech, other languages, {noise}, and it has no answer for a voice that "
        "expresses none of the eight."
    )
