"""python -m training check | data | train | evaluate | compare | export | quantise | pace"""

from __future__ import annotations

import sys
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from training.config import (
    CheckConfig,
    CompareConfig,
    DataConfig,
    EvaluateConfig,
    ExportConfig,
    PaceConfig,
    QuantiseConfig,
    TrainConfig,
)
from training.datasets import CORPORA, Integrity
from training.spec import LABELS


def main() -> int:
    """Run one job; 0 done, 1 it failed and said why, 2 wrong usage."""
    jobs: dict[str, Any] = {
        "check": CheckConfig,
        "data": DataConfig,
        "train": TrainConfig,
        "evaluate": EvaluateConfig,
        "compare": CompareConfig,
        "export": ExportConfig,
        "quantise": QuantiseConfig,
        "pace": PaceConfig,
    }
    try:
        config = tyro.extras.subcommand_cli_from_dict(jobs, prog="python -m training")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        return _run(config)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


def _run(config: Any) -> int:
    """Jobs are imported when they run: printing help or a report needs no trainer."""
    match config:
        case CheckConfig():
            return _check(config)
        case DataConfig():
            from training.download import download

            download(config)
        case TrainConfig():
            from training.train import train

            print(f"The run is in {train(config)}")
        case EvaluateConfig():
            from training.evaluate import evaluate

            folder, metrics = evaluate(config)
            print((folder / "report.txt").read_text())
            print(f"UAR {metrics['uar']:.3f}, accuracy {metrics['accuracy']:.3f}; all in {folder}")
        case CompareConfig():
            from training.compare import compare

            path = compare(config)
            print(path.with_suffix(".md").read_text())
            print(f"All of it in {path}")
        case ExportConfig():
            from training.export import export

            print(f"Exported to {export(config)}")
        case QuantiseConfig():
            from training.quantise import quantise

            results = quantise(config)
            uar = results["uar"]["learned"]
            print(
                f"{results['times_as_fast']:.2f} times as fast, UAR on learned clips {uar['int8']:.3f} against "
                f"{uar['float']:.3f}: {'shipped' if results['shipped'] else 'not shipped'}"
            )
        case PaceConfig():
            from training.pace import CLIPS, pace

            measured = pace(config)
            print(
                f"{measured[f'seconds_per_{CLIPS}_clips']:.1f} s for {CLIPS} clips, "
                f"{measured['waited_share']:.1%} of it waiting for them"
            )
    return 0


def _check(config: CheckConfig) -> int:
    from training.datasets import check
    from training.progress import progress

    with progress(f"reading {config.data}") as update:
        report = check(config.data, update)
    _print_report(report)
    return 0 if report.sound else 1


def _print_report(report: Integrity) -> None:
    console = Console(soft_wrap=True)
    console.width = max(console.width, 100)  # a table of eight emotions, even into a file
    for corpus in CORPORA:
        counts = report.counts(corpus)
        if not counts:
            console.print(f"{corpus}: nothing there")
            continue
        labels = [label for label in LABELS if any(row[label] for row in counts.values())]
        table = Table("speaker", *labels, "all", title=corpus, title_justify="left")
        for speaker, row in counts.items():
            table.add_row(speaker, *(str(row[label]) for label in labels), str(row.total()))
        sums = [sum(row[label] for row in counts.values()) for label in labels]
        table.add_section()
        table.add_row("all", *map(str, sums), str(sum(sums)))
        console.print(table)
    formats = ", ".join(
        f"{count} at {rate} Hz with {channels} channel{'s' * (channels > 1)}"
        for (rate, channels), count in sorted(report.formats.items())
    )
    console.print(f"files read: {formats or 'none'}")
    if report.absent:
        console.print(f"speakers of whom there is nothing: {', '.join(report.absent)}")
    for problem in report.PROBLEMS:
        for item in getattr(report, problem):
            console.print(f"{problem}: {item}")
    console.print("sound" if report.sound else "something is wrong with this data")


if __name__ == "__main__":
    sys.exit(main())
