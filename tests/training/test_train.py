from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch

from tests.conftest import ROOT
from tests.service import free_port
from training.augment import AugmentConfig
from training.classifier import Classifier, TrainingStep
from training.config import EvaluateConfig, TrainConfig
from training.datasets import Clip
from training.evaluate import evaluate
from training.features import FEATURES
from training.history import read_history, read_pace
from training.models import CLASSICAL, MODELS
from training.recordings import EpochOrder
from training.runs import load_classifier, open_run
from training.spec import AUDIO, LABELS
from training.train import Corpora, moving_average, train


def test_a_run_folder_holds_everything(run: Path) -> None:
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {
        "config.json",
        "split.json",
        "provenance.json",
        "history.csv",
        "pace.csv",
        "curves.png",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    } <= found
    assert any(name.startswith("tensorboard/events") for name in found)
    assert json.loads((run / "config.json").read_text())["seed"] == 7
    assert [row["epoch"] for row in read_history(run)] == [0, 1]
    provenance = json.loads((run / "provenance.json").read_text())
    assert {"command", "commit", "machine", "seed"} <= provenance.keys()


def test_a_run_tells_how_long_it_took_and_waited(run: Path) -> None:
    learned = len(json.loads((run / "split.json").read_text())["train"]["clips"])
    epochs = read_pace(run)
    assert [epoch["epoch"] for epoch in epochs] == [0, 1]
    for epoch in epochs:
        assert learned - 8 < epoch["clips"] <= learned  # whole batches of eight
        assert 0 < epoch["waited_s"] < epoch["seconds"]


def test_no_speaker_is_in_two_parts(run: Path) -> None:
    split = json.loads((run / "split.json").read_text())
    speakers = {part: set(split[part]["speakers"]) for part in ("train", "validation", "test")}
    assert speakers == {"train": {"02", "03"}, "validation": {"01"}, "test": {"08"}}


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


def assert_equal_runs(one: Path, other: Path) -> None:
    assert read_history(one) == read_history(other)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_one_seed_gives_one_run(settings: TrainConfig, run: Path) -> None:
    assert_equal_runs(run, train(dataclasses.replace(settings, name="again")))


def test_another_seed_gives_another_run(settings: TrainConfig, run: Path) -> None:
    other = train(dataclasses.replace(settings, name="other", seed=8, epochs=1))
    assert read_history(other)[0]["train_loss"] != read_history(run)[0]["train_loss"]


def test_a_resumed_run_is_the_run_that_never_stopped(settings: TrainConfig, run: Path) -> None:
    stopped = train(dataclasses.replace(settings, name="stopped", epochs=1))
    assert len(read_history(stopped)) == 1
    resumed = train(TrainConfig(data=settings.data, resume=stopped, epochs=2))
    assert resumed == stopped
    assert_equal_runs(run, resumed)


RICH: dict[str, Any] = {
    "model": "residual",
    "schedule": "cosine",
    "average": 0.9,
    "label_smoothing": 0.1,
    "class_weights": True,
    "level": True,
    "trim": True,
    "augment": AugmentConfig(
        noise=0.5, stretch=0.3, pitch=0.3, shift=0.5, gain=0.5, room=0.5, warp=0.1, masks=2, mixup=0.2
    ),
}


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_with_every_option_a_resumed_run_is_still_the_run_that_never_stopped(
    schedule: Any, settings: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rich = dataclasses.replace(settings, runs=tmp_path, **(RICH | {"schedule": schedule}))
    whole = train(dataclasses.replace(rich, name="whole"))

    begin = TrainingStep.on_train_epoch_start

    def break_off(step: TrainingStep) -> None:
        if step.current_epoch == 1:
            raise OSError("the plug was pulled")
        begin(step)

    with monkeypatch.context() as broken:
        broken.setattr(TrainingStep, "on_train_epoch_start", break_off)
        with pytest.raises(OSError, match="the plug"):
            train(dataclasses.replace(rich, name="stopped"))
    stopped = tmp_path / "stopped"
    assert len(read_history(stopped)) == 1
    assert_equal_runs(whole, train(TrainConfig(data=settings.data, resume=stopped)))


def test_the_help_names_every_model_and_front_end() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "training", "train", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    words = set(re.findall(r"\w+", told))
    assert {*MODELS, *CLASSICAL, *FEATURES} <= words


def test_a_cosine_warms_up_and_comes_down(settings: TrainConfig, tmp_path: Path) -> None:
    run = train(dataclasses.replace(settings, runs=tmp_path, epochs=3, **RICH))
    rates = [row["learning_rate"] for row in read_history(run)]
    assert rates[0] > rates[1] > rates[2]
    assert rates[2] < 0.01 * settings.learning_rate


def test_what_is_kept_is_the_average_of_the_weights(settings: TrainConfig, tmp_path: Path) -> None:
    averaged = train(dataclasses.replace(settings, runs=tmp_path, name="averaged", epochs=1, average=0.9999))
    kept = load_classifier(averaged)[1].network.state_dict()
    last = load_classifier(train(dataclasses.replace(settings, runs=tmp_path, name="last", epochs=1)))[1]
    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    begun = Classifier(settings).network.state_dict()
    for name, weights in last.network.state_dict().items():
        if name.endswith("weight") and weights.ndim > 1:
            assert 0 < (kept[name] - weights).norm() < (begun[name] - weights).norm()


def test_an_average_forgets_the_random_start_and_remembers_at_its_decay() -> None:
    class Weight(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = torch.nn.Parameter(torch.tensor(100.0))

    learned = Weight()
    averaged = torch.optim.swa_utils.AveragedModel(learned, avg_fn=moving_average(0.9))
    averaged.update_parameters(learned)
    learned.value.data.fill_(1.0)
    for _ in range(20):
        averaged.update_parameters(learned)
    assert averaged.module.get_parameter("value").item() == pytest.approx(
        1.0, abs=0.01
    )  # 1 + 99 * 0.9 ** 20 = 13 without a warm-up
    for _ in range(200):
        averaged.update_parameters(learned)
    learned.value.data.fill_(2.0)
    averaged.update_parameters(learned)
    assert averaged.module.get_parameter("value").item() == pytest.approx(1.1, abs=1e-3)


def test_a_run_can_begin_with_the_weights_of_another(run: Path, settings: TrainConfig) -> None:
    config = dataclasses.replace(settings, name="continued", epochs=1, learning_rate=1e-12, init_from=run)
    _, continued = load_classifier(train(config))
    _, begun = load_classifier(run)
    for one, other in zip(continued.network.parameters(), begun.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_a_whole_run_learns_from_validation_too_and_keeps_its_last_weights(
    settings: TrainConfig, tmp_path: Path
) -> None:
    run = train(dataclasses.replace(settings, runs=tmp_path, whole=True, schedule="cosine"))
    assert len(read_history(run)) == 2
    assert not any(
        name.startswith("val_") for row in read_history(run) for name in row
    )  # learned from, it examines nobody
    assert (run / "curves.png").stat().st_size > 5_000
    assert not (run / "checkpoints" / "best.ckpt").exists()
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    _, kept = load_classifier(run)
    assert torch.equal(kept.mean, state["state_dict"]["classifier.mean"])
    split = json.loads((run / "split.json").read_text())
    clips = len(split["train"]["clips"]) + len(split["validation"]["clips"])
    assert state["global_step"] == 2 * (clips // settings.batch_size)


def test_a_pupil_learns_what_its_teachers_think(run: Path, settings: TrainConfig) -> None:
    """With nothing but their opinion to learn, a pupil that is its teacher already has nothing to learn."""
    taught = dataclasses.replace(settings, teachers=(run,), teacher_share=1.0)
    _, teacher = load_classifier(run)
    step = TrainingStep(taught, Classifier(taught), [teacher])
    windows, labels = 0.1 * torch.randn(4, AUDIO.window_samples), torch.arange(4)
    torch.testing.assert_close(step._targets(windows, labels), teacher(windows).softmax(dim=1))
    half = TrainingStep(
        dataclasses.replace(taught, teacher_share=0.5, label_smoothing=0.2), Classifier(taught), [teacher]
    )
    smooth = 0.8 * torch.eye(8)[labels] + 0.025
    torch.testing.assert_close(half._targets(windows, labels), 0.5 * smooth + 0.5 * teacher(windows).softmax(dim=1))
    assert not any("teacher" in name for name in step.state_dict())


def test_a_taught_run_trains_and_finds_its_teachers_again(run: Path, settings: TrainConfig) -> None:
    pupil = train(dataclasses.replace(settings, name="pupil", teachers=(run,), epochs=1))
    assert TrainConfig.load(pupil).teachers == (run,)
    assert len(read_history(train(TrainConfig(data=settings.data, resume=pupil, epochs=2)))) == 2


@pytest.mark.parametrize("how", ["teachers", "init_from"])
def test_who_has_heard_the_exam_neither_teaches_nor_is_begun_from(
    how: str, run: Path, settings: TrainConfig, tmp_path: Path
) -> None:
    used: dict[str, Any] = {"teachers": (run,)} if how == "teachers" else {"init_from": run}
    with pytest.raises(ValueError, match=r"another split: it has learned from, or was chosen by, \d+ clips"):
        train(dataclasses.replace(settings, runs=tmp_path, split="random", **used))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["teachers", "init_from"])
def test_who_was_chosen_by_the_exam_neither_teaches_nor_is_begun_from(
    how: str, run: Path, settings: TrainConfig, tmp_path: Path
) -> None:
    """Nothing of the exam was learned from; still, no figure of a test part may choose anything."""
    chosen = tmp_path / "chosen"
    shutil.copytree(run, chosen)
    split = json.loads((chosen / "split.json").read_text())
    split["train"], split["validation"], split["test"] = split["train"], split["test"], split["validation"]
    (chosen / "split.json").write_text(json.dumps(split))
    used: dict[str, Any] = {"teachers": (chosen,)} if how == "teachers" else {"init_from": chosen}
    whole: dict[str, Any] = {"whole": True, "schedule": "cosine"}
    with pytest.raises(ValueError, match=r"or was chosen by, \d+ clips"):
        train(dataclasses.replace(settings, runs=tmp_path, name="new", **whole, **used))
    assert not (tmp_path / "new").exists()


def test_a_run_is_not_begun_from_another_network(run: Path, settings: TrainConfig) -> None:
    with pytest.raises(ValueError, match="is of cnn over mfcc, which does not fit"):
        train(dataclasses.replace(settings, name="misfit", model="gru", features="", init_from=run))


@pytest.mark.parametrize("how", ["teachers", "init_from"])
def test_what_a_run_is_made_with_lies_beside_it(how: str, run: Path, settings: TrainConfig, tmp_path: Path) -> None:
    used: dict[str, Any] = {"teachers": (run,)} if how == "teachers" else {"init_from": run}
    with pytest.raises(ValueError, match=r"must lie in .*, beside the run"):
        train(dataclasses.replace(settings, runs=tmp_path, **used))
    assert not list(tmp_path.iterdir())


def test_transfer_learning_wants_something_to_learn_from(settings: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give --pretrained, its name or its folder"):
        train(dataclasses.replace(settings, runs=tmp_path, model="wav2vec2", features=""))
    assert not list(tmp_path.iterdir())


def test_a_baseline_is_not_taken_for_a_network(settings: TrainConfig, tmp_path: Path) -> None:
    only: dict[str, Any] = {"epochs": None, "batch_size": 32, "features": "mfcc"}
    run = train(dataclasses.replace(settings, runs=tmp_path, model="knn", name="knn", **only))
    with pytest.raises(ValueError, match="is a knn: no network, so nothing to export"):
        load_classifier(run)


def test_a_whole_run_is_not_evaluated_on_what_it_learned_from(settings: TrainConfig, tmp_path: Path) -> None:
    only: dict[str, Any] = {"epochs": None, "batch_size": 32, "features": "mfcc"}
    run = train(dataclasses.replace(settings, runs=tmp_path, model="knn", whole=True, **only))
    with pytest.raises(ValueError, match="learned from its validation part too"):
        evaluate(EvaluateConfig(run=run, data=settings.data))
    assert evaluate(EvaluateConfig(run=run, part="test", data=settings.data))[1]["clips"] == 16


def test_front_ends_stay_exact_whatever_precision_the_network_has(run: Path, settings: TrainConfig) -> None:
    """Of log-mel in bfloat16, 6 dB would be lost."""
    _, classifier = load_classifier(run)
    windows = 0.1 * torch.randn(2, AUDIO.window_samples)
    expected = classifier.features(windows)
    seen: list[torch.Tensor] = []
    classifier.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    step = TrainingStep(dataclasses.replace(settings, teachers=(run,)), classifier, [classifier])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        step.validation_step((windows, torch.arange(2)), 0)
        step._targets(windows, torch.arange(2))
    assert len(seen) == 2
    for features in seen:
        torch.testing.assert_close(features, expected, atol=0, rtol=0)


def _by_lightning(folder: Path) -> list[tuple[list[str], dict[str, str]]]:
    """One command, which Lightning starts once more for the second device."""
    return [(["-m", "training", "train", "--runs", str(folder), "--devices", "2"], {})]


def _by_torchrun(folder: Path) -> list[tuple[list[str], dict[str, str]]]:
    """All at once, as Slurm does it too."""
    [(arguments, environment)] = _by_lightning(folder)
    return [(["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments], environment)]


def _by_hand_on_two_machines(folder: Path) -> list[tuple[list[str], dict[str, str]]]:
    """The same on each, the second of which is ready earlier, and sees another disk."""
    both = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}  # they share the cores
    return [
        (
            ["-m", "training", "train", "--runs", str(disk), "--devices", "1", "--num-nodes", "2"],
            both | {"NODE_RANK": number},
        )
        for number, disk in (("1", folder / "another"), ("0", folder))
    ]


@pytest.mark.parametrize("started", [_by_lightning, _by_torchrun, _by_hand_on_two_machines])
def test_two_processes_train_together(
    started: Callable[[Path], list[tuple[list[str], dict[str, str]]]], settings: TrainConfig, tmp_path: Path
) -> None:
    options = ["--data", str(settings.data), "--name", "both", "--epochs", "2", "--batch-size", "4", "--model", "gru"]
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK")}
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments, *options],
            cwd=ROOT,
            env=alone | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for arguments, environment in started(tmp_path)
    ]
    try:
        for process in reversed(processes):  # the first of them first: the others wait for it
            _, told = process.communicate(timeout=500)
            assert process.returncode == 0, told[-4000:]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["both"]
    run = tmp_path / "both"
    assert [epoch["epoch"] for epoch in read_history(run)] == [0, 1]
    clips = len(json.loads((run / "split.json").read_text())["train"]["clips"])
    # Each has its own half of an epoch, and one of them writes it down.
    assert [epoch["clips"] for epoch in read_pace(run)] == [clips // 2 // 4 * 4] * 2
    config = load_classifier(run)[0]
    assert config.devices * config.num_nodes == 2


@pytest.mark.parametrize("number", ["RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"])
def test_of_those_that_train_together_the_first_alone_makes_the_run_folder(
    number: str, settings: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(settings, runs=tmp_path, name="both")
    with monkeypatch.context() as second:
        second.setenv(number, "1")
        assert open_run(config) == (config, tmp_path / "both")  # earlier than the first, which reads the corpora
        assert not list(tmp_path.iterdir())
    assert open_run(config) == (config, tmp_path / "both")
    assert {path.name for path in (tmp_path / "both").iterdir()} == {"config.json", "provenance.json", "split.json"}


def test_who_is_not_first_learns_from_what_the_first_does(run: Path, settings: TrainConfig, tmp_path: Path) -> None:
    """Not from what it would choose itself, be it of other data."""
    split = json.loads((run / "split.json").read_text())
    split["train"]["clips"], split["test"]["clips"] = split["test"]["clips"], split["train"]["clips"][:8]

    class Strategy:
        @staticmethod
        def broadcast(told: Any) -> Any:
            assert told is None  # of the first alone
            return split

    data = Corpora(dataclasses.replace(settings, init_from=run), tmp_path / "elsewhere")
    data.trainer = SimpleNamespace(is_global_zero=False, strategy=Strategy)  # type: ignore[assignment]
    data.setup("fit")
    learned = [f"{clip.corpus}/{clip.name}" for clip in data.recordings["train"].clips]
    assert learned == split["train"]["clips"]
    split["train"]["clips"].append("ravdess/03-01-01-01-01-01-24")
    with pytest.raises(FileNotFoundError, match=r"1 of \d+ clips of .*split.json are not in the data"):
        data._split()


def test_processes_share_an_epoch_without_a_clip_twice() -> None:
    clips = [Clip("ravdess", str(n), Path(), "sad", "01") for n in range(11)]
    first, second = (EpochOrder(clips, seed=1, part=part, parts=2) for part in (0, 1))
    assert len(list(first)) == len(list(second)) == len(first) == 5
    assert not set(first) & set(second)


def test_calm_can_count_as_neutral(settings: TrainConfig, tmp_path: Path) -> None:
    run = train(dataclasses.replace(settings, runs=tmp_path, epochs=1, merge_calm=True))
    _, metrics = evaluate(EvaluateConfig(run=run, part="test", data=settings.data))
    assert metrics["per_class"]["calm"]["clips"] == 0
    assert metrics["per_class"]["neutral"]["clips"] == 4


def test_an_epoch_draws_a_share_of_tess() -> None:
    clips = [Clip("ravdess", str(n), Path(), "sad", "01") for n in range(10)]
    clips += [Clip("tess", str(n), Path(), "sad", "OAF") for n in range(100)]
    order = EpochOrder(clips, seed=1, tess_share=0.2)
    first = list(order)
    order.set_epoch(1)
    second = list(order)
    assert len(order) == len(first) == len(second) == 30
    assert len(set(first)) == 30
    assert set(range(10)) < set(first)
    assert set(first) != set(second)
    order.set_epoch(0)
    assert list(order) == first


def test_a_class_weighs_by_how_much_of_it_an_epoch_draws(settings: TrainConfig) -> None:
    clips = [Clip("ravdess", str(n), Path(), "sad", "01") for n in range(10)]
    clips += [Clip("tess", str(n), Path(), "angry", "OAF") for n in range(100)]
    both = dataclasses.replace(settings, corpora=("ravdess", "tess"), class_weights=True, tess_share=0.1)
    step = TrainingStep(both, Classifier(settings))
    labels = torch.tensor([LABELS.index(clip.label) for clip in clips])
    recordings = SimpleNamespace(clips=clips, labels=labels)
    step.trainer = SimpleNamespace(  # type: ignore[assignment]
        datamodule=SimpleNamespace(recordings={"train": recordings}), strategy=SimpleNamespace()
    )
    weights = step._class_weights()
    assert weights is not None
    expected = torch.tensor([1.0 if label in ("sad", "angry") else 0.0 for label in LABELS])  # ten of each
    torch.testing.assert_close(weights, expected)


def test_a_run_is_not_overwritten(settings: TrainConfig, run: Path) -> None:
    with pytest.raises(FileExistsError, match="--resume"):
        train(settings)


def test_a_training_without_data_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(FileNotFoundError, match="No ravdess clip"):
        train(TrainConfig(data=tmp_path / "data", runs=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_a_run_that_stopped_before_its_first_epoch_ended_is_started_anew(settings: TrainConfig, tmp_path: Path) -> None:
    stub = tmp_path / "stub"
    stub.mkdir()
    (stub / "config.json").write_text("{}")
    run = train(dataclasses.replace(settings, runs=tmp_path, name="stub", epochs=1))
    assert len(read_history(run)) == 1


def test_an_epoch_that_is_lived_again_is_told_once(settings: TrainConfig, run: Path, tmp_path: Path) -> None:
    stopped = train(dataclasses.replace(settings, runs=tmp_path, epochs=1))
    history = stopped / "history.csv"
    history.write_text(history.read_text() + "1,0,0,0,0,0\n")  # killed before the checkpoint of this one
    train(TrainConfig(data=settings.data, resume=stopped, epochs=2))
    assert read_history(stopped) == read_history(run)


def test_what_is_no_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a run"):
        train(TrainConfig(resume=tmp_path))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "magic"}, "There is no model 'magic'; there are cnn"),
        ({"features": "magic"}, "There is no front end 'magic'"),
        ({"corpora": ("emodb",)}, "There is no corpus 'emodb'"),
        ({"fold": 5}, "There is no fold 5"),
        ({"batch_size": 0}, "batch_size must be above 0"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"average": 1.0}, "average must be"),
        ({"corpora": ("ravdess", "tess"), "tess_share": 0.0}, "tess_share must be"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"devices": 0}, "devices must be above 0"),
        ({"split": "nonsense"}, "There is no split 'nonsense'"),
        ({"model": "svm", "class_weights": True}, "class_weights has no effect on svm"),
        ({"model": "knn", "augment": AugmentConfig(noise=0.1)}, "augment has no effect on knn"),
        ({"model": "cnn", "pretrained": "some/encoder"}, "pretrained has no effect on cnn"),
        (
            {"model": "wav2vec2", "pretrained": "some/encoder", "init_from": Path("runs/one")},
            "pretrained has no effect on who begins with the weights of another run",
        ),
        ({"model": "gru", "checkpoint_gradients": True}, "checkpoint_gradients has no effect on gru"),
        ({"model": "wav2vec2", "checkpoint_gradients": True}, "checkpoint_gradients has no effect on a frozen encoder"),
        ({"split": "random", "fold": 1}, "fold has no effect on a split at random"),
        ({"split_seed": 1}, "split_seed has no effect on a split by actor"),
        ({"tess_share": 0.5}, "tess_share has no effect on who does not learn from TESS"),
        ({"whole": True, "schedule": "cosine", "patience": 3}, "patience has no effect on who learns from the valid"),
        ({"model": "wav2vec2", "level": True}, "level has no effect on an encoder that brings its input to one level"),
        ({"model": "cnn1d", "augment": AugmentConfig(masks=1)}, "have no effect on averaged features"),
        ({"model": "cnn1d", "augment": AugmentConfig(warp=0.1)}, "have no effect on averaged features"),
        ({"teacher_share": 0.5}, "teacher_share has no effect on who has no teachers"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"corpora": ("tess",)}, "corpora must hold ravdess"),
        ({"features": "averaged"}, "cnn cannot learn from averaged; it can from mfcc, log_mel, stacked"),
        ({"model": "wav2vec2", "features": "mfcc"}, "wav2vec2 cannot learn from mfcc; it can from waveform"),
        ({"model": "svm", "features": "waveform"}, "svm cannot learn from waveform; it can from"),
    ],
)
def test_settings_are_checked_when_made(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**wrong)


def test_the_classifier_comes_back_with_its_normalisation(run: Path) -> None:
    _, classifier = load_classifier(run)
    assert not classifier.training
    assert classifier.deviation.min() > 0
    assert not torch.equal(classifier.mean, torch.zeros_like(classifier.mean))


def test_evaluation_writes_numbers_text_and_pictures(run: Path, settings: TrainConfig) -> None:
    folder, metrics = evaluate(EvaluateConfig(run=run, part="test", data=settings.data))
    assert folder == run / "test"
    assert {path.name for path in (run / "test").iterdir()} == {
        "metrics.json",
        "report.txt",
        "confusion.png",
        "roc.png",
        "reliability.png",
    }
    assert json.loads((run / "test" / "metrics.json").read_text()) == metrics
    assert {"accuracy", "uar", "f1_macro", "f1_weighted", "precision_macro", "recall_macro", "auc_macro"} < set(metrics)
    assert set(metrics["per_class"]) == set(LABELS)
    assert metrics["clips"] == 16
    assert list(metrics["per_speaker"]) == ["08"]
    assert all(label in (run / "test" / "report.txt").read_text() for label in LABELS)
