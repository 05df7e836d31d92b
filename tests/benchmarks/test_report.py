"""Tables, plots, the page on capacity and the regression guard, from made results; figures worked out by hand."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from benchmarks import report as module
from benchmarks.__main__ import app
from benchmarks.check import NotComparableError, check, ratios
from benchmarks.load import quoted
from benchmarks.parts.peers import summary
from benchmarks.plots import _PLOTS, plot, plot_soak
from benchmarks.pods import capacity_md, memory_mib, pods
from benchmarks.report import block, for_readme, into_readme, report, shown, whole
from benchmarks.tables import batching_section, better, peers_section, peers_short, peers_table
from tests.benchmarks.made import load, once, results

Json = dict[str, Any]
PLACE = Path("benchmarks/results/day-machine.json")


def written(path: Path, found: Json) -> Path:
    path.write_text(json.dumps(found))
    return path


def test_ratios_are_of_rounds_and_their_spread_is_told() -> None:
    lines = summary(
        {
            "timbre": [once(400, 2, 200), once(500, 4, 200), once(900, 3, 200)],
            "slow": [once(100, 8, 500), once(100, 8, 400), once(300, 6, 500)],
        }
    )
    slow = lines["slow"]
    assert slow["ratios"]["per_second"] == [0.25, 0.2, 0.333]
    assert slow["ratios"]["crowd"] == slow["ratios"]["per_second"]
    assert slow["ratios"]["alone"] == pytest.approx(slow["ratios"]["p50"])
    assert slow["ratios"]["p50"] == pytest.approx([2.0, 2.0, 4.0], rel=0.01)
    assert slow["ratios"]["memory"] == [2.5, 2.0, 2.5]
    assert slow["figures"]["per_second"] == 100
    assert slow["not_quoted"] == {}
    assert "0.25 (0.20 to 0.33)" in peers_table(lines)


def test_readme_begins_with_every_capacity_and_what_each_is_of() -> None:
    found = results()
    lead, _ = for_readme(found, PLACE).split("\n", 1)
    assert lead == (
        "220 requests/s of clips of 3 s at 16 kHz, from 8 clients, each of which asks again as soon as it is answered. "
        "200 requests/s of clips that take more decoding and resampling (2 in turn, of 2.0 to 3.0 s, at 24414 and "
        "48000 Hz), from 8 such clients. Up to 150 requests/s that arrive by chance (Poisson, HTTP multipart) have a "
        "p99 within 50 ms. Decoding, cutting and inference of the same clips alone, without any server, on the same "
        "cores, clip by clip: 250 requests/s; asked in turn with that, the service reaches 80% of it (75% to 83%)."
    )
    found["parts"]["peers"]["summary"]["timbre"]["figures"]["per_second"] = None  # the load generator limited it
    found["parts"]["capacity"]["transports"]["HTTP multipart"]["per_second"] = None
    assert for_readme(found, PLACE).startswith("Up to 150 requests/s")
    found["parts"] = {"size": found["parts"]["size"]}
    assert for_readme(found, PLACE).startswith("Measured on Some Processor")


def test_what_the_peers_are_is_told_a_line_each_and_ours_is_not() -> None:
    told = peers_section(results()["parts"]["peers"])
    assert "|\n\n- classic is the usual one.\n- fastapi_onnx is FastAPI, no batching.\n\n" in told
    assert "this service" not in told


def test_one_reason_of_several_servers_is_one_sentence() -> None:
    part = results()["parts"]["peers"]
    for name, why in (("timbre", "it was late"), ("classic", "it was late"), ("fastapi_onnx", "it was later")):
        part["summary"][name]["left_out"] = {"alone": f"1 of 3 rounds: {why}"}
        part["summary"][name]["not_quoted"] = {"p99": "1 of 3 rounds: few answers"}
    told = peers_section(part)
    assert told.count("leaves out") == 2
    assert "\nms alone of timbre and classic leaves out 1 of 3 rounds: it was late.\n" in told
    assert "\nms alone of fastapi_onnx leaves out 1 of 3 rounds: it was later.\n" in told
    assert "\np99 of timbre, classic and fastapi_onnx is not quoted, or not as a ratio; 1 of 3 rounds: few" in told


def test_readme_has_fewer_columns_a_plot_and_how_long_it_took() -> None:
    found = results()
    found["parts"]["latency"]["took_s"], found["parts"]["peers"]["took_s"] = 90.0, 240.0
    text = for_readme(found, PLACE)
    assert "in 5.5 minutes. [All tables](benchmarks/results/day-machine.md), latency by transport" in text
    assert "](benchmarks/results/day-machine-peers.png)" in text
    ratio = "{:.2f} ({:.2f} to {:.2f})".format(*found["parts"]["peers"]["summary"]["classic"]["ratios"]["p99"])
    assert f"| 0.25 (0.25 to 0.25) | {ratio} |\n" in text
    assert "| HTTP multipart |" not in text
    assert all(len(line) < 180 for line in text.splitlines() if line.startswith("|"))
    assert "Measured on Some Processor" in text
    found["settings"]["url"] = "http://there"
    assert "Of http://there, asked by Some Processor" in for_readme(found, PLACE)
    assert "Of http://there, asked by Some Processor" in whole(found)


def test_a_peer_that_did_not_start_is_told_and_the_rest_is_measured() -> None:
    lines = summary({"timbre": [once(400, 2, 200)], "broken": [{"failed": "no module"}]})
    assert lines["broken"] == {"failed": "no module"}
    assert "| broken | did not start |" in peers_table(lines)


def test_where_a_peer_is_better_is_said_and_why() -> None:
    found = results()
    assert better(found["parts"]["peers"]["summary"]) == [("fastapi_onnx", "memory", [0.55, 0.55, 0.55])]
    text, short = whole(found), for_readme(found, PLACE)
    assert "fastapi_onnx is better in memory, 0.55 (0.55 to 0.55) of ours: it loads one model" in text
    assert "between rounds" not in text
    for told in (text, short):
        assert "mlserver_onnx was not measured: it did not install: no wheel" in told
    assert (
        "\n\nMost requests/s: from 8 clients timbre (220), then fastapi_onnx (190); from 32 clients timbre (220), then "
        "fastapi_onnx (190). fastapi_onnx is ahead of Timbre in memory. [Why, and which rounds are left out]"
        "(benchmarks/results/day-machine.md#beside-its-peers).\n" in short
    )
    assert "\n## Beside its peers\n" in text


def test_readme_tells_in_short_what_failed_and_what_the_rounds_do_not_tell_apart() -> None:
    found = results()
    lines = found["parts"]["peers"]["summary"]
    lines["fastapi_onnx"]["ratios"] |= {"p50": [0.9, 0.8, 1.1], "p99": [0.95, 0.8, 1.1]}
    lines["classic"]["errors"] = 7
    text = for_readme(found, PLACE)
    assert "fastapi_onnx is ahead of Timbre in p50 and p99, by less than the rounds differ." in text
    assert "fastapi_onnx is ahead of Timbre in memory." in text
    assert "7 of classic's requests failed." in text
    lines["timbre"]["figures"]["per_second"] = None  # the load generator limited it
    assert "from 8 clients fastapi_onnx (190), then classic (55);" in for_readme(found, PLACE)


def test_what_the_rounds_do_not_tell_apart_is_said_with_its_spread_and_the_reason() -> None:
    """Better in two rounds of three is no more decided than worse in two of three; the reason is given all the same."""
    rounds = {
        "timbre": [once(200, 8.0, 200), once(200, 8.0, 200), once(200, 8.0, 200)],
        "fastapi_onnx": [once(220, 16.0, 200), once(150, 4.0, 200), once(210, 12.0, 200)],
        "classic": [once(50, 30.0, 500), once(60, 33.0, 500), once(55, 30.0, 500)],
    }
    part = {**results()["parts"]["peers"], "summary": summary(rounds)}
    assert [(name, measure) for name, measure, _ in better(part["summary"])] == [
        ("fastapi_onnx", "per_second"),
        ("fastapi_onnx", "crowd"),
    ]
    text, short = peers_section(part), peers_short(part, "tables.md")
    assert (
        "\nfastapi_onnx is faster by less than the spread between rounds in requests/s, 1.05 (0.75 to 1.10) of "
        "ours; requests/s of the crowd, 1.05 (0.75 to 1.10) of ours: it does less for a request" in text
    )
    assert (
        "fastapi_onnx is ahead of Timbre in requests/s and requests/s of the crowd, by less than the rounds differ. "
        "[Why, and which rounds are left out](tables.md#beside-its-peers).\n" in short
    )
    (rest,) = [line for line in text.splitlines() if line.startswith("Behind ours by no more")]
    assert "p99 of fastapi_onnx, 1.50 (0.50 to 2.00) of ours" in rest
    assert "memory of fastapi_onnx, 1.00 (1.00 to 1.00) of ours" in rest
    assert "classic" not in rest
    for table in (text, short):
        assert " | 1.05 (0.75 to 1.10) | " in table
        assert " | 1.50 (0.50 to 2.00) |" in table


def test_a_capacity_is_not_quoted_where_the_generator_was_the_bottleneck() -> None:
    found = results()
    found["parts"]["capacity"]["transports"]["HTTP multipart"] |= {"per_second": None, "not_quoted": "it was late"}
    found["parts"]["capacity"]["held"]["not_quoted"] = "it was late"
    found["parts"]["stages"] |= {"achieved": None, "not_quoted": "it was late"}
    for one in found["parts"]["latency"]["loads"]:
        one["share_not_quoted"] = "it was late"
    text = whole(found)
    assert text.count("Capacity of HTTP multipart is not quoted: it was late.") == 2
    assert "have a p99 within 50 ms is not quoted: it was late." in text
    assert "how much of that the service reaches is not quoted: it was late." in text
    assert "| HTTP multipart | - | 180 |" in text
    assert "pods of 2 cores" not in capacity_md(found)


def test_what_the_generator_limited_is_no_ratio_either() -> None:
    """Late in most rounds of ours: nobody has a ratio of that. Late in most of theirs: nor has that one a figure."""
    rounds = {"timbre": [once(200, 8.0, 200) for _ in range(3)], "fast": [once(400, 4.0, 300) for _ in range(3)]}
    late = {"core_share": 0.9, "lag_p50_ms": 9.0, "lag_p99_ms": 9.0, "bottleneck": "it was late"}
    rounds["timbre"][0]["crowd"]["generator"] = late
    for turn in (1, 2):
        rounds["timbre"][turn]["closed"]["generator"] = late
        rounds["fast"][turn]["open"]["generator"] = late
        rounds["fast"][turn]["alone"] |= {"outcomes": {"http_500": 100}}
    lines = summary(rounds)
    assert lines["fast"]["left_out"] == {"crowd": "1 of 3 rounds: it was late"}
    assert "requests/s of the crowd of timbre and fast leaves out 1 of 3 rounds: it was late." in peers_section(
        {**results()["parts"]["peers"], "summary": lines, "what": {"fast": "a fast one"}}
    )
    assert lines["fast"]["not_quoted"].keys() == {"per_second", "alone", "p50", "p99"}
    assert {name for name, ratio in lines["fast"]["ratios"].items() if ratio} == {"crowd", "memory"}
    assert {name for name, value in lines["fast"]["figures"].items() if value is None} == {"alone", "p50", "p99"}
    assert lines["timbre"]["figures"]["per_second"] is None
    assert lines["timbre"]["figures"]["p99"] is not None
    assert better(lines) == [("fast", "crowd", [2.0, 2.0, 2.0])]
    assert "| timbre | - | 200 |" in peers_table(lines)


def test_a_percentile_of_too_few_requests_is_kept_and_not_quoted() -> None:
    found = results()
    few, many = found["parts"]["latency"]["loads"]
    few["outcomes"], many["outcomes"] = {"ok": 98, "unanswered": 1, "http_429": 1}, {"ok": 1000}
    many["requests"] = 1000
    text = whole(found)
    assert "| 20 | 9.0 | 9.0 | - | - | 100 |" in text  # the refused one is in no percentile
    assert f"| 180 | 9.0 | 9.0 | {many['p99_ms']:.1f} | {many['p999_ms']:.1f} | 1000 |" in text
    many["requests"], many["outcomes"] = 999, {"ok": 999}
    text = whole(found)
    assert "p99.9 ms" not in text
    assert "No load had enough requests for a p99.9: the histograms of `make benchmark-soak`" in text
    rounds = {"timbre": [once(200, 8.0, 200)], "few": [once(100, 8.0, 200)]}
    rounds["few"][0]["open"]["outcomes"] = {"ok": 99}
    assert summary(rounds)["few"]["ratios"]["p99"] is None
    assert summary(rounds)["few"]["ratios"]["p50"] is not None


def test_everything_is_in_the_tables_and_what_was_left_out_is_named() -> None:
    found = results()
    found["parts"]["profile"] = {"left_out": "py-spy may not"}
    text = whole(found)
    for part in (
        "| HTTP multipart | 90% | 180 |",
        "| HTTP multipart | 8 | 200 (180 to 220) |",
        "| inference | 6.00 | 50% |",
        "the service reaches 80% of it (75% to 83%)",
        "1: 3, 4: 9",
        "Not on CUDA: no CUDA: no device",
        "| cold | 3.00 | 90 |",
        "200 MB after 10000 requests, +0.01 MB for 1,000 more",
        "4.0 ms and 2.00 ms per second of speech",
        "| 1 | 100 | 90 | 0.90 |",
        "| 2 | 100 | too few cores | - |",
        "0.90 of what is simulated was measured: what is simulated only is an upper bound",
        "5% of a core, 0.4 ms late",
        "2.5 times as fast",
        "| 2 | int8 | 1.5 | 1 | 3.00 | 3.00 |",
        "| MP3 | 12000 | 1.50 |",
        "| 48000 Hz | 0.70 |",
        "Left out: py-spy may not.",
    ):
        assert part in text, part


def test_a_sweep_that_never_waited_says_so() -> None:
    found = results()
    assert "No batch waited for company" in whole(found)
    found["parts"]["batching"]["loads"][0]["reasons"] = {"idle": 5, "waited": 3}
    assert "| 1: 3, 4: 9 | 3 |" in whole(found)
    assert "No batch waited for company" not in whole(found)


def test_what_was_refused_is_said() -> None:
    found = results()
    assert "Refused" not in whole(found)
    found["parts"]["latency"]["loads"][1]["outcomes"] = {"ok": 31, "http_429": 69}
    assert "more than was held: 69 of 100 over HTTP multipart at 180 requests/s." in whole(found)


def test_what_the_generator_limited_is_said_of_clips_too() -> None:
    found = results()
    assert "of the load generator than" not in whole(found)
    found["parts"]["growth"]["lengths"][0]["generator"]["bottleneck"] = "it was late"
    assert "say more of the load generator than of the service: it was late." in whole(found)


def test_a_cold_start_that_is_no_slower_is_said_to_be() -> None:
    found = results()
    start = found["parts"]["size"]["start"]
    start += [{**start[0], "cache": "warm", "ready_s": ready_s} for ready_s in (2.5, 2.9)]
    assert "shows no difference" not in whole(found)
    start[0]["ready_s"] = 2.8
    assert "reading from disk shows no difference" in whole(found)


def test_every_part_is_drawn(tmp_path: Path) -> None:
    found = results()
    files = plot(found, tmp_path / "day-machine.json")
    assert {file.name for file in files} == {
        f"day-machine-{part}.{kind}" for part in found["parts"] if part != "size" for kind in ("png", "svg")
    }
    assert all(file.stat().st_size > 3_000 for file in files)


def test_each_panel_of_the_peers_says_whether_more_or_less_is_better() -> None:
    figure = Figure()
    draw = _PLOTS["peers"][2]
    draw(results()["parts"]["peers"], figure)
    more, less = "more is better", "less is better"
    assert [axes.get_xlabel() for axes in figure.axes] == [more, more, less, less, less]


def test_readme_gets_the_table_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = results()
    found["parts"]["peers"]["took_s"], found["parts"]["size"]["took_s"] = 500.0, 20.0
    readme, path = tmp_path / "README.md", written(tmp_path / "r.json", found)
    start = "<!-- benchmark: made by `python -m benchmarks report {} --readme` -->"
    readme.write_text(f"about 6 minutes on 2 cores\n{start.format('old.json')}\nold\n<!-- /benchmark -->\nafter\n")
    for _ in range(2):  # twice is once
        into_readme(path, readme)
        text = readme.read_text()
        assert text == f"about 9 minutes on 2 cores\n{block(path)}\nafter\n"
        assert start.format(path) in text
        assert shown(text) == path
    with pytest.raises(ValueError, match="no marks"):
        shown("nothing")
    monkeypatch.setattr(module, "_CAPACITY", tmp_path / "capacity.md")
    monkeypatch.setattr(module, "plot", lambda *_: None)  # has a test of its own
    assert report(path, capacity=True).read_text() == whole(found)
    assert (tmp_path / "capacity.md").read_text() == capacity_md(results())


def test_pods_by_hand() -> None:
    """500 / (0.7 * 90) = 7.94, so 8, and one more; 1.5 * 190 MB = 271.8 MiB, in steps of 64: 320."""
    assert pods(500, 90) == 9
    assert memory_mib(190.0) == 320
    page = capacity_md(results())
    for pod, held, how in (
        ("1 core", "90.0", "behind HAProxy; 0.90 of the simulated 100.0"),
        ("2 cores", "150.0", "beside its load generator on the same cores"),
    ):  # both have the memory of the service that has answered ten thousand
        assert f"| {pod} | {held} | {how} | 200 MB | 1.5 x 200 MB = 320 MiB |" in page
    assert "memory after 10000 requests" in page
    assert "ceil(500 / 63.0) + 1 = 9" in page
    assert "ceil(500 / 105.0) + 1 = 6" in page
    second = "4.0 / 10.0 = 0.40 | 90.0 / 0.40 = 225.0 | 150.0 / 0.40 = 375.0 |"
    assert f"| 1 s | 4.0 ms (7.0 to 9.5) | 5.0 ms | {second}" in page
    minute = "90.0 / 12.00 = 7.5 (p99 above) | 150.0 / 12.00 = 12.5 (p99 above) |"
    assert f"| 60 s | 120.0 ms (7.0 to 9.5) | 121.0 ms | 120.0 / 10.0 = 12.00 | {minute}" in page
    found = results()
    del found["parts"]["replicas"]
    assert "Not worked out: replicas was not measured." in capacity_md(found)


def test_no_pod_has_a_higher_rate_of_longer_clips() -> None:
    """Even where a noisy moment made one second cost more than three."""
    found = results()
    for one, cpu_ms in zip(found["parts"]["growth"]["lengths"], (6.2, 5.4, 20.0), strict=True):
        one["server_cpu_ms"] = cpu_ms
    rates = [
        float(rate) for rate in re.findall(r"\| \d+ s \|.* = ([\d.]+)(?: \(p99 above\))? \|\n", capacity_md(found))
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates == [241.9, 241.9, 75.0]


def test_a_rate_that_nothing_holds_makes_no_pods() -> None:
    found = results()
    found["parts"]["replicas"]["replicas"][0] |= {"measured": None}
    found["parts"]["replicas"]["replicas"][0]["simulated"]["rate"] = 0.0
    assert "pods of 2 cores" in capacity_md(found)
    assert "pods of 1 core " not in capacity_md(found)


def changed(**factors: float) -> Json:
    """The made results, some figures of which are so many times as large."""
    found = copy.deepcopy(results())
    parts = found["parts"]
    for name, factor in factors.items():
        if name == "classic":
            ratio = parts["peers"]["summary"]["classic"]["ratios"]["per_second"]
            ratio[:] = [theirs / factor for theirs in ratio]
        elif name == "achieved":
            parts["stages"]["achieved"] *= factor
            parts["stages"]["achieved_spread"] = [end * factor for end in parts["stages"]["achieved_spread"]]
        elif name == "machine":
            parts["stages"]["stages_ms"] = {stage: ms * factor for stage, ms in parts["stages"]["stages_ms"].items()}
            for key in ("decode_ms", "inference_ms"):
                parts["stages"]["roof"][key] *= factor
        else:
            parts["stages"]["stages_ms"][name] *= factor
    return found


@pytest.mark.parametrize(
    ("factors", "failed"),
    [
        ({}, []),
        ({"machine": 3.0}, []),  # a slower machine is no regression
        ({"classic": 0.9}, []),
        ({"classic": 0.8}, ["requests/s, to classic's"]),
        ({"classic": 2.0, "inference": 0.5}, []),  # better is not worse
        ({"achieved": 0.7}, ["requests/s, to the roof's"]),
        ({"inference": 1.3}, ["inference, to the roof's time"]),
        ({"pipeline": 1.5}, []),  # of a twentieth of the roof's time
        ({"pipeline": 3.0}, ["pipeline, to the roof's time"]),
    ],
)
def test_the_guard(tmp_path: Path, factors: dict[str, float], failed: list[str]) -> None:
    before, after = written(tmp_path / "a.json", results()), written(tmp_path / "b.json", changed(**factors))
    table, found = check(before, after)
    assert found == failed
    assert table.count("worse") == len(failed)
    run = CliRunner().invoke(app, ["check", str(before), str(after)])
    assert run.exit_code == (1 if failed else 0)


def test_a_wider_tolerance_lets_more_pass(tmp_path: Path) -> None:
    before, after = written(tmp_path / "a.json", results()), written(tmp_path / "b.json", changed(classic=0.8))
    assert CliRunner().invoke(app, ["check", str(before), str(after), "--tolerance", "0.3"]).exit_code == 0


@pytest.mark.parametrize("lacking", ["peers", "stages"])
def test_what_cannot_be_compared_is_told(tmp_path: Path, lacking: str) -> None:
    short = results()
    del short["parts"][lacking]
    whole_one, other = written(tmp_path / "a.json", results()), written(tmp_path / "b.json", short)
    with pytest.raises(NotComparableError, match=f"b.json: it has no part '{lacking}'"):
        check(whole_one, other)
    assert CliRunner().invoke(app, ["check", str(whole_one), str(other)]).exit_code == 2
    assert CliRunner().invoke(app, ["check", str(whole_one), str(tmp_path / "nothing.json")]).exit_code == 2


def _late(parts: Json) -> None:
    parts["stages"] |= {"achieved": None, "not_quoted": "it was late"}


def _elsewhere(parts: Json) -> None:
    parts["stages"] |= {"roof": None, "achieved": None}


def _no_peers(parts: Json) -> None:
    parts["peers"] = {"left_out": "peers are started here"}


def _late_beside_the_classic(parts: Json) -> None:
    for one in parts["peers"]["rounds"]["classic"][1:]:
        one["closed"]["generator"] = {"bottleneck": "it was late"}
    parts["peers"]["summary"] = summary(parts["peers"]["rounds"])


def _without_the_classic(parts: Json) -> None:
    del parts["peers"]["summary"]["classic"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_late, "requests/s to the roof's cannot be compared: it was late"),
        (_elsewhere, "it has no roof: http://there has other cores"),
        (_no_peers, "its part 'peers' was left out: peers are started here"),
        (_late_beside_the_classic, "requests/s of classic cannot be compared: 2 of 3 rounds: it was late"),
        (_without_the_classic, "requests/s of classic cannot be compared: it was not measured"),
    ],
)
def test_what_is_not_quoted_is_not_compared(tmp_path: Path, spoil: Callable[[Json], None], told: str) -> None:
    spoilt = results()
    spoilt["settings"]["url"] = "http://there"
    spoil(spoilt["parts"])
    with pytest.raises(NotComparableError, match=told):
        ratios(spoilt)
    before, after = written(tmp_path / "a.json", results()), written(tmp_path / "b.json", spoilt)
    assert CliRunner().invoke(app, ["check", str(before), str(after)]).exit_code == 2


def spread_out(found: Json, factor: float, low: float, high: float) -> Json:
    """The same, the classic's ratio and what is reached of the roof so many times as good, with these ends (times)."""
    ratio = found["parts"]["peers"]["summary"]["classic"]["ratios"]["per_second"]
    ratio[:] = [ratio[0] / factor, ratio[0] / (factor * high), ratio[0] / (factor * low)]
    stages = found["parts"]["stages"]
    stages["achieved"] *= factor
    stages["achieved_spread"] = [stages["achieved"] * low, stages["achieved"] * high]
    return found


@pytest.mark.parametrize(
    ("factor", "low", "high", "worse"),
    [
        (1.0, 0.7, 1.4, False),  # the same
        (0.7, 0.7, 1.4, False),  # a third less, and rounds that reach into one another: chance may have done it
        (0.7, 0.9, 1.1, True),  # the same, and the best round after is below the worst before
        (0.9, 0.98, 1.02, False),  # apart, and within the tolerance
        (2.0, 0.98, 1.02, False),  # apart, and better
    ],
)
def test_a_loss_that_the_rounds_do_not_tell_from_chance_is_none(
    tmp_path: Path, factor: float, low: float, high: float, worse: bool
) -> None:
    before = written(tmp_path / "a.json", spread_out(results(), 1.0, low, high))
    table, found = check(before, written(tmp_path / "b.json", spread_out(results(), factor, low, high)))
    assert found == (["requests/s, to classic's", "requests/s, to the roof's"] if worse else [])
    assert f"| requests/s, to the roof's | 0.800 ({0.8 * low:.3f} to {0.8 * high:.3f}) |" in table


@pytest.mark.parametrize("what", ["clips", "model", "scale", "the setting", "the roof's device"])
def test_runs_that_were_not_asked_the_same_are_not_compared(tmp_path: Path, what: str) -> None:
    other = results()
    other["settings"]["scale"] = 5.0 if what == "scale" else 1.0
    if what == "clips":
        other["clips"][0]["sha256"] = "d" * 64
    if what == "model":
        other["model"]["version"] = "3"
    if what == "the setting":
        other["parts"]["peers"]["settings"]["classic"]["taken"] = "torch's own threads"
    if what == "the roof's device":
        other["parts"]["stages"]["roof"]["device"] = "cuda"
    before, after = written(tmp_path / "a.json", results()), written(tmp_path / "b.json", other)
    with pytest.raises(NotComparableError, match=f"differ in {what}"):
        check(before, after)
    assert CliRunner().invoke(app, ["check", str(before), str(after)]).exit_code == 2
    with pytest.raises(NotComparableError, match="is no results file: no 'clips' in it"):
        check(before, written(tmp_path / "b.json", {}))


def test_the_guard_never_compares_a_time() -> None:
    """Everything twice as slow, the classic peer too: no ratio changes."""
    slow = changed(machine=2.0)
    assert [one.value for one in ratios(slow)] == pytest.approx([one.value for one in ratios(results())])


def test_a_p99_of_too_few_is_drawn_nowhere() -> None:
    """What was refused is in no percentile, and so does not make a p99 of what was answered."""
    few = load(100, 9.0, clients=8, outcomes={"ok": 60, "unanswered": 39, "http_429": 400}, requests=499)
    more = load(100, 9.0, clients=16, outcomes={"ok": 61, "unanswered": 39, "http_429": 400}, requests=500)
    assert [quoted(one, "p99_ms") for one in (few, more)] == [None, more["p99_ms"]]
    assert quoted(few, "p50_ms") == few["p50_ms"]
    part = results()["parts"]["batching"]
    part["loads"] = [{**part["loads"][0], **one} for one in (few, more)]
    assert [line.split(" | ")[5] for line in batching_section(part).splitlines() if "as it is" in line] == [
        "-",
        f"{more['p99_ms']:.1f}",
    ]
    figure = Figure()
    draw = _PLOTS["batching"][2]
    draw(part, figure)
    (line,) = figure.axes[1].lines
    assert np.isnan(line.get_ydata()).tolist() == [True, False]


def test_a_soak_is_drawn(tmp_path: Path) -> None:
    windows = [{"until_s": 30.0 * n, "resident_mb": 200.0 + n, **load(100, 9.0, rate=100)} for n in range(1, 6)]
    results = written(tmp_path / "soak.json", {"windows": windows})
    files = plot_soak(results)
    assert [file.name for file in files] == ["soak-over-time.png", "soak-over-time.svg"]
    before = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in plot_soak(results)] == before  # the same numbers, the same files
