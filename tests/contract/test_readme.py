"""README and docs/ say what the code does; their figures are those of the committed files."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml
from PIL import Image

from benchmarks.peers import WHY_BETTER
from benchmarks.pods import capacity_md
from benchmarks.report import block, shown, whole
from benchmarks.run import PARTS
from benchmarks.tables import better
from serving.errors import RequestError
from serving.settings import PREFIX, Settings
from tests.conftest import ROOT, SERVED, answering
from training.comparison import table

README = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
SHOWN = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
"""Commands, code and examples."""


def rows(page: str, *heading: str) -> list[list[str]]:
    """The cells of the table of a page with this heading."""
    head = "| " + " | ".join(heading) + " |\n"
    body = page[page.index(head) + len(head) :].split("\n\n", maxsplit=1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()[1:]]


def flat(page: str) -> str:
    """A page as one line, since its sentences may break anywhere."""
    return " ".join(page.split())


def test_the_first_screen_has_the_two_commands_and_the_curl_line() -> None:
    screen = "\n".join(README.splitlines()[:24])
    for command in ("make serve ", "make test ", "curl -F file=@clip.wav http://localhost:3000/predict"):
        assert command in screen


def test_the_first_screen_says_which_emotions_and_how_often_it_is_right() -> None:
    screen = flat("\n".join(README.splitlines()[:10]))
    described = json.loads((ROOT / "exported" / SERVED / "model.json").read_text())["metadata"]
    *most, last = described["labels"]
    assert f"in the voice: {', '.join(most)} or {last}." in screen
    results = json.loads((ROOT / "training" / "results" / "compare.json").read_text())
    (served,) = [line for line in results["summary"] if line["name"] == "cnn_tdnn_whole"]
    assert served["folds"] == 5
    assert f"is {served['test_uar']:.2f} over five folds of actors, where chance is {1 / (len(most) + 1):g}." in screen
    assert "right about two times in three" in screen
    assert abs(served["test_accuracy"] - 2 / 3) < 0.03


def test_the_example_answer_has_the_keys_of_a_prediction() -> None:
    from serving.schemas import Prediction, Segment, Timing

    block = re.search(r"```json\n(.*?)```", README, re.DOTALL)
    assert block
    example = json.loads(block[1])
    assert list(example) == list(Prediction.model_fields)
    assert list(example["segments"][0]) == list(Segment.model_fields)
    assert list(example["timing_ms"]) == list(Timing.model_fields)


def test_settings() -> None:
    expected = [
        [f"`{PREFIX}{name.upper()}`", f"`{field.default}`" if str(field.default) else "none", field.description or ""]
        for name, field in Settings.model_fields.items()
    ]
    assert rows(DOCS["settings.md"], "variable", "default", "meaning") == expected


def test_refusals() -> None:
    documented = {
        (code.strip("`"), int(status)) for _, status, code in rows(DOCS["errors.md"], "cause", "status", "code")
    }
    assert documented == {(error.code, error.http_status) for error in RequestError.__subclasses__()}


def test_the_figures_are_those_of_the_committed_models() -> None:
    described = {
        version: json.loads((ROOT / "exported" / version / "model.json").read_text())["metadata"] for version in "12"
    }
    table = rows(README, "what was examined", "clips", "UAR", "95 % interval", "accuracy")
    parts = (("2", "test"), ("1", "test"), ("1", "validation"), ("1", "tess"))
    for (what, clips, uar, interval, accuracy), (version, part) in zip(table, parts, strict=True):
        assert what.startswith(f"version {version}")
        measured = described[version]["metrics"][part]
        assert int(clips) == measured["clips"]
        assert uar == f"{measured['uar']:.3f}"
        assert interval == "{:.3f} to {:.3f}".format(*measured["uar_interval"])
        assert accuracy == f"{measured['accuracy']:.3f}"
    for metadata in described.values():
        assert metadata["training"]["speakers"]["test"] == ["08", "17"]
        assert not metadata["commit"].endswith("+changes")
    assert described["1"]["training"]["speakers"]["validation"] == ["01", "04", "09"]
    results = json.loads((ROOT / "training" / "results" / "compare.json").read_text())
    said = flat(README)
    on_them = [
        cells["fold3"]["test"]["uar"]
        for name, cells in results["cells"].items()
        if name.startswith("cnn_tdnn") and name != "cnn_tdnn_plain"
    ]
    assert f"the bench's networks of version 2's kind have {min(on_them):.3f} to {max(on_them):.3f} on them" in said
    speakers = json.loads((ROOT / "exported" / "2" / "report" / "metrics.json").read_text())["per_speaker"]
    each = [speakers[speaker]["uar"] for speaker in ("08", "17")]
    assert "08 has {:.3f} and 17 {:.3f};".format(*each) in said
    ms = {name: line["ms"] for name, line in results["costs"]["rows"].items()}
    assert 0.35 < ms["cnn_tdnn"] / ms["cnn"] < 0.45
    noisy = json.loads((ROOT / "exported" / "2" / "report" / "conditions.json").read_text())["scores"]
    white, pink, whole = (noisy[name]["uar"] for name in ("noise 10 dB", "pink noise 10 dB", "as it is"))
    assert f"with white noise 10 dB below the clip's mean power it keeps {white:.3f} of its {whole:.3f}," in said
    assert f"with pink noise, which it never heard, {pink:.3f}." in said
    earlier = json.loads((ROOT / "training" / "results" / "earlier.json").read_text())["version_2"]
    figures = [f"{one['uar']:.3f}" for one in earlier]
    assert (
        f"{len(figures)} earlier networks called version 2 had it too ([{', '.join(figures[:-1])} and {figures[-1]}]"
        in said
    )


def test_what_the_bench_is_said_to_have_found_it_found() -> None:
    results = json.loads((ROOT / "training" / "results" / "compare.json").read_text())
    lines, inside = results["summary"], results["chosen_inside"]
    told = {line["name"]: line for line in lines}
    served, plain, ours, before, svm = at = [
        told[name] for name in ("cnn_tdnn_whole", "cnn_tdnn_plain", "cnn_tdnn", "residual", "svm")
    ]
    assert [line["folds"] for line in at] == [5, 5, 5, 5, 5]
    said = flat(README)

    def score(line: dict[str, Any], name: str) -> str:
        return f"{line[name]:.3f} ± {line[f'{name}_sd']:.3f}"

    assert f"**A UAR of {score(served, 'test_uar')} on voices that it has never heard**" in said
    assert f"{served['test_uar_by_clips']:.3f} where every actor counts alike" in said
    assert f"without noise and rooms {score(ours, 'test_uar')};" in said
    assert f"nothing augmented, as the baselines learn, {score(plain, 'test_uar')}." in said
    assert f"by its own validation actors alone, has {score(inside, 'test_uar')}." in said
    assert f"the mean over mel bands, has {score(before, 'test_uar')}." in said
    assert f"statistics of features {score(svm, 'test_uar')}." in said
    baselines = [
        line for line in lines if line["learns_from"] in ("speech", "speech, TESS") and line["name"] != plain["name"]
    ]
    best = max(baselines, key=lambda line: line["test_uar"])
    dearer = best["ms"] / served["ms"]
    assert f"`{best['name']}`, has {score(best, 'test_uar')}, at {dearer:.0f} times the cost of a clip," in said
    assert (
        f"calibration error of a fold is {served['ece_before']:.3f} before it and {score(served, 'ece_after')} after "
        f"it; a perfectly calibrated model would be expected to show {served['ece_if_calibrated_after']:.3f} on so few"
        in said
    )
    pooled = [served[f"{name}_pooled"] for name in ("ece_before", "ece_after", "ece_if_calibrated_after")]
    assert "together it is {:.3f} before, {:.3f} after, and {:.3f} would be expected.".format(*pooled) in said
    chosen = [told[name]["validation_uar"] for name in ("cnn_tdnn_noisy", "cnn")]
    assert "its recipe (`cnn_tdnn_noisy`) has {:.3f} and version 1's (`cnn`) {:.3f},".format(*chosen) in said
    three = (ours, before, svm)
    at_random = [line["random_accuracy"] for line in three]
    assert "accuracies of {:.3f}, {:.3f} and {:.3f} on 180 clips,".format(*at_random) in said
    assert {results["cells"][line["name"]]["random"]["test"]["clips"] for line in three} == {180}
    joined = [
        f"`{line['name']}` has {line['joined_accuracy']:.3f}" for line in (ours, before) if line["joined_accuracy"]
    ]
    assert f"two thirds of that exam, {' and '.join(joined)}." in said
    assert f"<!-- compare: made by `make compare` -->\n{table(lines)}<!-- /compare -->" in README


def test_the_bench_was_run_by_code_that_is_committed() -> None:
    results = json.loads((ROOT / "training" / "results" / "compare.json").read_text())
    cells = [cell for cells in results["cells"].values() for cell in cells.values()]
    made = [one["provenance"] for one in (results["costs"], *cells)] + [
        cell["trained"] for cell in cells if "trained" in cell
    ]
    assert not [one for one in made if one["commit"].endswith("+changes")]


def test_why_there_is_no_8_bit_file_is_what_was_measured() -> None:
    told = json.loads((ROOT / "training" / "results" / "int8.json").read_text())
    assert not told["shipped"]
    said = flat(README)
    asked, reached = told["asked"]["times_as_fast"], told["times_as_fast"]
    assert f"it is {reached:.2f} times as fast as the float, and [{asked} times](training/results/int8.json)" in said


def test_how_long_an_epoch_takes_is_what_was_measured() -> None:
    told = json.loads((ROOT / "training" / "results" / "pace.json").read_text())
    assert not told["provenance"]["commit"].endswith("+changes")
    seconds, waited = told["seconds_per_1200_clips"], told["waited_share"]
    said = flat(DOCS["training.md"])
    assert (
        f"[{seconds:.1f} s](../training/results/pace.json) for 1,200 clips, {waited:.0%} of it waiting".replace(
            "%", " %"
        )
        in said
    )


def test_how_soon_live_measurements_are_out_is_what_was_measured() -> None:
    told = json.loads((ROOT / "benchmarks" / "results" / "live.json").read_text())
    assert not told["provenance"]["commit"].endswith("+changes")
    cases = {(case["way"], case["in_step"]): case["late_ms"] for case in told["cases"] if case["streams"] == 20}
    socket, grpc = (round(cases[way, False]["p99"]) for way in ("WebSocket", "gRPC"))
    said = flat(DOCS["live-audio.md"])
    assert f"{socket} ms after the frame that completed it over the WebSocket and {grpc} ms over gRPC" in said
    (most,) = re.findall(r"within (\d+) ms where all of them ask in the same instant", said)
    assert max(late["max"] for late in cases.values()) <= int(most)


def test_how_soon_a_crowd_is_refused_and_what_it_costs_the_admitted_is_what_was_measured() -> None:
    lines = (ROOT / "benchmarks" / "results" / "refusals.md").read_text().splitlines()
    rows = {(row[0], row[1]): row for row in ([cell.strip() for cell in line.split("|")[1:]] for line in lines)}

    def ms(who: str, column: int) -> str:
        return f"{float(rows[who, 'apart'][column]):.0f} ms"

    crowd = "32 clients, again after 0.1 s"
    said = flat(DOCS["under-load.md"])
    assert f"99 % of the refusals were out within {ms(f'refused, {crowd}', 4)}" in said
    calm, again, at_once = (ms(f"admitted, {who}", 3) for who in ("8 clients", crowd, "32 clients, again at once"))
    assert f"admitted requests are not slowed ({again} median); if they retry at once" in said
    assert f"whatever `Retry-After` says, it is {at_once} " in said
    assert f"Without the crowd the median was {calm}." in said


def test_what_batching_brings_is_what_was_measured() -> None:
    results = _shown()
    loads = json.loads(results.read_text())["parts"]["batching"]["loads"]
    told = {(load["setting"], load["clients"]): load for load in loads if load["device"] == "cpu"}

    def phrase(clients: int) -> str:
        (with_it, low, high), (without, low_off, high_off) = (
            (round(told[setting, clients]["per_second"]), *told[setting, clients]["spread"])
            for setting in ("as it is", "off")
        )
        rounds_overlap = low <= high_off and low_off <= high
        verdict = (
            "less than the rounds differ" if rounds_overlap else f"{with_it / without - 1:+.0%}".replace("%", " %")
        )
        return f"{clients} client{'s' if clients > 1 else ''}: {with_it} and {without} ({verdict})"

    said = flat(README)
    assert f"requests/s with it and without, from {', from '.join(map(phrase, (1, 8, 32)))}." in said
    assert f"[table]({results.with_suffix('.md').relative_to(ROOT)}#batching)" in said
    if any(load["device"] == "cuda" for load in loads):
        assert "no GPU was there" not in said


def test_half_an_hour_went_as_it_is_told() -> None:
    (plot,) = re.findall(r"\[plot\]\((\S+-soak)-over-time\.png\)", README)
    found = json.loads((ROOT / f"{plot}.json").read_text())
    assert not found["provenance"]["commit"].endswith("+changes")
    assert found["settings"]["seconds"] == 1800
    windows = found["windows"]
    assert {window["seconds"] for window in windows} == {30.0}
    p99_ms = sorted(window["p99_ms"] for window in windows)
    said = flat(README)
    assert f"at {found['rate']:.0f} requests/s, {found['settings']['share']:.0%} of capacity".replace("%", " %") in said
    assert f"The p99 was {median(p99_ms):.0f} ms in the median half-minute and {p99_ms[-1] / 1e3:.1f} s in" in said
    assert f"{found['errors']} of {found['requests']:,} requests were refused (429)" in said
    assert {code for window in windows for code in window["outcomes"]} == {"ok", "http_429"}
    (flat_mb,) = re.findall(r"memory stayed flat at (\d+) MB", said)
    # It has loaded everything after two minutes.
    assert all(abs(window["resident_mb"] / int(flat_mb) - 1) < 0.06 for window in windows[4:])


def test_how_much_worse_short_clips_are_answered_is_what_was_measured() -> None:
    scores = json.loads((ROOT / "exported" / SERVED / "report" / "conditions.json").read_text())["scores"]
    one, two, whole_clip = (scores[name]["uar"] for name in ("cut to 1 s", "cut to 2 s", "as it is"))
    assert f"cut to 1 s have a UAR of {one:.2f}, cut to 2 s of {two:.2f}, and whole of {whole_clip:.2f}" in flat(README)
    assert f"](exported/{SERVED}/report/conditions.json)" in README


def _shown() -> Path:
    """The results that README names; those that whoever runs this has measured are not its business."""
    results = shown(README)
    if results.stem == "FILE" and not list(results.parent.glob("20*.json")):
        pytest.skip("needs results, which `make benchmark` makes on a quiet machine")
    return results


def test_the_speeds_are_those_of_the_results_that_readme_names() -> None:
    results = _shown()
    found = json.loads(results.read_text())
    assert tuple(found["parts"]) == PARTS
    assert not found["provenance"]["commit"].endswith("+changes")
    assert not found["settings"]["url"]
    assert block(results) in README
    minutes = sum(part["took_s"] for part in found["parts"].values()) / 60
    assert f"about {minutes:.0f} minutes on 2 cores" in README
    assert results.with_suffix(".md").read_text() == whole(found)
    assert (ROOT / "benchmarks" / "capacity.md").read_text() == capacity_md(found)
    for name in ("latency", "capacity", "peers", "replicas"):
        for kind in ("png", "svg"):
            assert results.with_name(f"{results.stem}-{name}.{kind}").exists()


def test_where_a_peer_is_better_readme_says_why() -> None:
    for name, measure, _ in better(json.loads(_shown().read_text())["parts"]["peers"]["summary"]):
        assert (name, measure) in WHY_BETTER, f"say in WHY_BETTER why {name} is better in {measure}"


def test_what_failed_of_a_peer_readme_tells_and_its_tables_tell_how() -> None:
    tables = _shown().with_suffix(".md").read_text()
    for name, line in json.loads(_shown().read_text())["parts"]["peers"]["summary"].items():
        told = [int(n) for n in re.findall(rf"^(\d+) of {name}'s requests ended as ", tables, re.MULTILINE)]
        assert sum(told) == line.get("errors", 0), name
        shortly = [int(n) for n in re.findall(rf"(\d+) of {name}'s requests failed", README)]
        assert sum(shortly) == line.get("errors", 0), name


@pytest.mark.parametrize("picture", ["page.png", "page-live.png"])
def test_the_pictures_of_the_page_are_of_the_version_that_answers(picture: str) -> None:
    with Image.open(ROOT / "docs" / picture) as shown:
        assert shown.info.get("model") == answering(), "take them anew: make screenshots"


PAGES = sorted(
    path
    for folder in (".", "docs", "k8s", "benchmarks", "benchmarks/results", "training/results", "exported/*")
    for path in ROOT.glob(f"{folder}/*.md")
)


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", SHOWN.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_linked_file_and_heading_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", SHOWN.sub("", page.read_text())):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(file), target


def test_links_are_looked_for_on_every_page_that_people_read() -> None:
    assert {ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md", "k8s/README.md")} <= set(PAGES)
    assert {ROOT / "docs" / name for name in DOCS} <= set(PAGES)


def test_every_page_of_docs_is_in_the_index() -> None:
    linked = {re.sub(r".*\]\((.+)\)", r"\1", page) for page, _ in rows(README, "page", "what is there")}
    assert {f"docs/{name}" for name in DOCS} <= linked


@pytest.mark.parametrize("page", ["README.md", *DOCS])
def test_every_setting_that_is_named_exists(page: str) -> None:
    named = set(re.findall(r"TIMBRE_[A-Z0-9_]+", README if page == "README.md" else DOCS[page]))
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert named <= known | {"TIMBRE_DATA", "TIMBRE_API_KEY"}  # training's and the clients'


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))
    assert {"serve", "test", "data", "train", "evaluate", "export"} <= named <= targets
    for page in (README, *DOCS.values()):
        assert set(re.findall(r"(?:^|`)make ([a-z-]+)", page, re.MULTILINE)) <= targets


def test_the_image_that_is_run_is_the_one_that_is_built() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert set(re.findall(r"\btimbre:(\d\S+)\b", README)) == {version}
    (ports,) = re.findall(r"^docker run --rm -p (\d+):\1 -p (\d+):\2 timbre:", README, re.MULTILINE)
    fields = Settings.model_fields
    assert [int(port) for port in ports] == [fields["port"].default, fields["grpc_port"].default]


def test_the_ports_that_are_forwarded_are_those_of_the_service() -> None:
    service = yaml.safe_load((ROOT / "k8s" / "base" / "replicas" / "service.yaml").read_text())
    (name, pairs) = re.findall(r"port-forward svc/(\S+) ([\d: ]+) &", README)[0]
    assert name == service["metadata"]["name"]
    assert [int(pair.split(":")[1]) for pair in pairs.split()] == [port["port"] for port in service["spec"]["ports"]]


def test_the_programs_of_the_tests_are_those_that_ci_installs() -> None:
    (told,) = re.findall(r"^apt-get install (.+)$", README, re.MULTILINE)
    (installed,) = re.findall(r"--no-install-recommends \\\n\s+(.+?) >/dev/null", (ROOT / ".ci" / "run").read_text())
    assert told == installed


def test_every_command_and_option_that_is_named_exists() -> None:
    import typer.main

    from serving.__main__ import app

    commands = typer.main.get_group(app).commands
    block = re.search(r"## Command line\n\n```sh\n(.*?)```", README, re.DOTALL)
    assert block
    named = set()
    for line in block[1].splitlines():
        words = line.replace(";", " ").split()
        assert words[:3] == ["python", "-m", "serving"]
        named.add(words[3])
        options = {option for parameter in commands[words[3]].params for option in parameter.opts}
        assert {word.rstrip(",") for word in words if word.startswith("--")} <= options, line
    assert named == {name for name, command in commands.items() if not command.hidden} - {"serve"}
