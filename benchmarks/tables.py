"""The parts of a results file as tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.histogram import FEWEST
from benchmarks.load import NO_ROOM, quoted
from benchmarks.peers import WHY_BETTER, WHY_FAILED

Json = dict[str, Any]

_DASH = "-"
"""What is not quoted: a percentile of too few requests, or what says more of the load generator than of the service."""

MEASURES = {
    "per_second": "requests/s",
    "crowd": "requests/s of the crowd",
    "alone": "ms alone",
    "p50": "p50",
    "p99": "p99",
    "memory": "memory",
}
_SAID = {"said": "it said `{}`", "logged": "its log `{}`"}
_SHORT = ("per_second", "p99")
_PEERS = "Beside its peers"
HIGHER_IS_BETTER = {"per_second", "crowd"}


def rows(headings: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    """A table in Markdown."""
    names = list(headings)
    text = "| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|\n"
    return text + "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def percentile(load: Json, key: str) -> str:
    """One of a load's percentiles, ms."""
    ms = quoted(load, key)
    return _DASH if ms is None else f"{ms:.1f}"


def rate(load: Json) -> str:
    """What a load's service answered in a second."""
    return _DASH if load["generator"]["bottleneck"] else f"{load['per_second']:.0f}"


def peers_short(part: Json, tables: str) -> str:
    """The same with two of the ratios and in two sentences.

    Args:
        tables: the file with all of it, as README links it.
    """
    lines = part["summary"]
    text = (
        _asked(part) + "; the last two columns are that server divided by Timbre, with the lowest and highest of the "
    )
    text += f"rounds.\n\n{peers_table(lines, short=True)}\n{_whats(part)}\n"
    text += " ".join([_most(part), *_ahead_short(lines), *_failed_short(lines)])
    text += f" [Why, and which rounds are left out]({tables}#{_PEERS.lower().replace(' ', '-')}).\n"
    return text + _not_measured(part)


def peers_section(part: Json) -> str:
    """The table of the peers, what they are, then where one is better and why, and who is missing."""
    text = f"{_asked(part)}; what follows is theirs to ours, with the lowest and highest of the rounds.\n\n"
    text += f"{peers_table(part['summary'])}\n{_whats(part)}"
    for case, how in (("not_quoted", "is not quoted, or not as a ratio;"), ("left_out", "leaves out")):
        text += "".join(f"\n{told}\n" for told in _with_reasons(part["summary"], case, how))
    text += "".join(f"\n{told}\n" for told in ahead(part["summary"]))
    text += "".join(f"\n{told}\n" for told in failed(part["summary"]))
    return text + _not_measured(part)


def _asked(part: Json) -> str:
    """What each server was sent, and what of it is in the table."""
    return (
        "A WAV of {seconds:g} s at {rate_hz} Hz".format(**part["clip"])
        + " to each. Requests/s of {closed} clients, and of a crowd of {crowd}, that ask again as soon as they are "
        "answered; median ms of {alone} client alone; ".format(**part["clients"])
        + f"p50 and p99 at {part['rate']:g} requests/s that arrive by chance (Poisson), from when each was due"
    )


def _whats(part: Json) -> str:
    """What each peer is."""
    _, *others = part["summary"]
    return "".join(f"- {name} is {part['what'][name]}.\n" for name in others)


def _not_measured(part: Json) -> str:
    return "".join(f"\n{name} was not measured: {reason}.\n" for name, reason in part["missing"].items())


def _most(part: Json) -> str:
    """Which two servers answer most."""
    told = []
    for measure, clients in (("per_second", part["clients"]["closed"]), ("crowd", part["clients"]["crowd"])):
        found = {name: line.get("figures", {}).get(measure) for name, line in part["summary"].items()}
        best = sorted(((most, name) for name, most in found.items() if most is not None), reverse=True)[:2]
        if best:
            told.append(f"from {clients} clients " + ", then ".join(f"{name} ({most:.0f})" for most, name in best))
    return f"Most requests/s: {'; '.join(told)}." if told else ""


def _ahead_short(lines: Json) -> list[str]:
    """In what each peer has the better median."""
    measures: dict[tuple[str, bool], list[str]] = {}
    for name, measure, ratio in better(lines):
        measures.setdefault((name, _level(ratio)), []).append(MEASURES[measure])
    return [
        f"{name} is ahead of Timbre in {_listed(each)}{', by less than the rounds differ' if level else ''}."
        for (name, level), each in measures.items()
    ]


def _failed_short(lines: Json) -> list[str]:
    """How many requests of each server failed."""
    return [f"{line['errors']} of {name}'s requests failed." for name, line in lines.items() if line.get("errors")]


def _with_reasons(lines: Json, case: str, how: str) -> list[str]:
    """What has a reason not to count as it is, a sentence per measure and reason."""
    servers: dict[tuple[str, str], list[str]] = {}
    for name, line in lines.items():
        for measure, why in line.get(case, {}).items():
            servers.setdefault((measure, why), []).append(name)
    return [f"{MEASURES[measure]} of {_listed(names)} {how} {why}." for (measure, why), names in servers.items()]


def _listed(names: list[str]) -> str:
    """As a sentence names them: "one, two and three"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def failed(lines: Json) -> list[str]:
    """How many requests of each server failed in each way, what it said, and why, where that was found out."""
    told = []
    for name, line in lines.items():
        for outcome, one in line.get("failures", {}).items():
            words = [what.format(" ".join(one[key].split())) for key, what in _SAID.items() if one[key]]
            why = WHY_FAILED.get((name, outcome), "")
            told.append(
                f"{one['requests']} of {name}'s requests ended as {outcome}{', '.join(['', *words])}"
                f"{': ' + why if why else ''}."
            )
    return told


def peers_table(lines: Json, *, short: bool = False) -> str:
    """One line per server."""
    measures = {name: MEASURES[name] for name in _SHORT} if short else MEASURES
    headings = ["server", "requests/s", "of the crowd", "ms alone", "p50 ms", "p99 ms", "CPU ms", "memory MB", "errors"]
    told = []
    for name, line in lines.items():
        if "failed" in line:
            told.append([name, "did not start", *[""] * (len(headings) - 2 + len(measures))])
            continue
        figures = [
            _DASH if value is None else f"{value:.0f}" if measure in HIGHER_IS_BETTER else f"{value:.1f}"
            for measure, value in line["figures"].items()
        ]
        rest = [f"{line['server_cpu_ms']:.1f}", f"{line['resident_mb']:.0f}", line["errors"]]
        ratios = [spread_of(ratio) if (ratio := line["ratios"][measure]) else _DASH for measure in measures]
        told.append([name, *figures, *rest, *ratios])
    return rows([*headings, *(f"{what}, to ours" for what in measures.values())], told)


def spread_of(ratio: Iterable[float]) -> str:
    """Median, lowest and highest."""
    return "{:.2f} ({:.2f} to {:.2f})".format(*ratio)


def ahead(lines: Json) -> list[str]:
    """Where a peer is better, or has the better median, and why; then what else the rounds do not tell apart."""
    cases: dict[tuple[str, str], list[str]] = {}
    ahead_of_us = better(lines)
    for name, measure, ratio in ahead_of_us:
        level = f"{'smaller' if measure == 'memory' else 'faster'} by less than the spread between rounds"
        how = f"{name} is {level if _level(ratio) else 'better'} in"
        case = (how, WHY_BETTER.get((name, measure), ""))
        cases.setdefault(case, []).append(f"{MEASURES[measure]}, {spread_of(ratio)} of ours")
    told = [f"{how} {'; '.join(measures)}{': ' + why if why else ''}." for (how, why), measures in cases.items()]
    ours = [
        f"{MEASURES[measure]} of {name}, {spread_of(ratio)} of ours"
        for name, measure, ratio in _ratios(lines)
        if _level(ratio) and (name, measure, ratio) not in ahead_of_us
    ]
    return told + ([f"Behind ours by no more than the spread between rounds: {'; '.join(ours)}."] if ours else [])


def better(lines: Json) -> list[tuple[str, str, list[float]]]:
    """(peer, measure, ratio with its spread) wherever a peer's median is better than the first's."""
    return [
        (name, measure, ratio)
        for name, measure, ratio in _ratios(lines)
        if (ratio[0] > 1 if measure in HIGHER_IS_BETTER else ratio[0] < 1)
    ]


def _ratios(lines: Json) -> list[tuple[str, str, list[float]]]:
    """Every ratio to the first that is quoted: peer, measure, and its median, lowest, highest."""
    return [
        (name, measure, line["ratios"][measure])
        for name, line in list(lines.items())[1:]
        if "failed" not in line
        for measure in MEASURES
        if line["ratios"][measure]
    ]


def _level(ratio: list[float]) -> bool:
    """Whether some rounds say more than ours and some less."""
    _, low, high = ratio
    return low <= 1 <= high


def latency_table(part: Json) -> str:
    """Percentiles of each transport at each share of its capacity."""
    text = (
        "Latency at fixed rates (Poisson, from when a request was due); no p99 of fewer than "
        f"{FEWEST['p99_ms']} requests, no p99.9 of fewer than {FEWEST['p999_ms']}:\n\n"
    )
    names = {"p50_ms": "p50 ms", "p90_ms": "p90 ms", "p99_ms": "p99 ms", "p999_ms": "p99.9 ms"}
    if all(percentile(load, "p999_ms") == _DASH for load in part["loads"]):
        del names["p999_ms"]
    headings = ["transport", "of capacity", "requests/s", *names.values()]
    text += rows(
        [*headings, "requests", "errors", "generator"],
        (
            [load["transport"], _DASH if load["share_not_quoted"] else f"{load['share']:.0%}", f"{load['rate']:.0f}"]
            + [percentile(load, key) for key in names]
            + [load["requests"], load["errors"], _generator(load)]
            for load in part["loads"]
        ),
    )
    if "p999_ms" not in names:
        text += "\nNo load had enough requests for a p99.9: the histograms of `make benchmark-soak`, merged, have.\n"
    text += _refused(part["loads"]) + _silent(part)
    for name, why in {load["transport"]: load["share_not_quoted"] for load in part["loads"]}.items():
        text += f"\nCapacity of {name} is not quoted: {why}.\n" if why else ""
    return text


def _refused(loads: Iterable[Json]) -> str:
    """Where a rate was more than the service could hold: its percentiles are of those that were not refused."""
    told = [
        f"{n} of {load['requests']} over {load['transport']} at {load['rate']:.0f} requests/s"
        for load in loads
        if (n := sum(load["outcomes"].get(code, 0) for code in NO_ROOM))
    ]
    return (
        f"\nRefused for lack of room, since the rate was then more than was held: {', '.join(told)}.\n" if told else ""
    )


def _silent(part: Json) -> str:
    """Transports that a service elsewhere does not answer."""
    return "".join(f"\n{name} was left out: {why}.\n" for name, why in part["silent"].items())


def _generator(load: Json) -> str:
    """What the load generator cost, and whether it was the bottleneck."""
    own = load["generator"]
    told = f"{own['core_share']:.0%} of a core, {own['lag_p99_ms']:.1f} ms late"
    return f"{told}: it was the bottleneck" if own["bottleneck"] else told


def held(part: Json) -> str:
    """The highest rate that keeps the p99."""
    found, what = part["held"], f"have a p99 within {part['held']['p99_ms']:g} ms"
    if found["not_quoted"]:
        return f"How many requests/s (Poisson, HTTP multipart) {what} is not quoted: {found['not_quoted']}.\n"
    return f"Up to {found['rate']:.0f} requests/s that arrive by chance (Poisson, HTTP multipart) {what}.\n"


def reached(part: Json) -> str:
    """Achieved / roof."""
    if part["roof"] is None:
        return ""
    reaches = (
        f"how much of that the service reaches is not quoted: {part['not_quoted']}"
        if part["not_quoted"]
        else "asked in turn with that, the service reaches {:.0%} of it ({:.0%} to {:.0%})".format(
            part["achieved"], *part["achieved_spread"]
        )
    )
    return (
        "Decoding, cutting and inference of the same clips alone, without any server, on the same cores, clip by clip: "
        f"{part['roof']['per_second']:.0f} requests/s; {reaches}.\n"
    )


def rate_of_rounds(load: Json) -> str:
    """The same of several rounds: their median, and the lowest and highest."""
    told = rate(load)
    return told if told == _DASH else "{} ({:.0f} to {:.0f})".format(told, *load["spread"])


def capacity_section(part: Json) -> str:
    """Closed loops."""
    lines = []
    for name, found in part["transports"].items():
        for load in found["loads"]:
            figures = [rate_of_rounds(load), *(percentile(load, key) for key in ("p50_ms", "p99_ms"))]
            lines.append([name, load["clients"], *figures, load["errors"], _generator(load)])
    text = rows(["transport", "clients", "requests/s", "p50 ms", "p99 ms", "errors", "generator"], lines)
    for name, found in part["transports"].items():
        if found["per_second"] is None:
            text += f"\nCapacity of {name} is not quoted: {found['not_quoted']}.\n"
    return text + _silent(part) + "\n" + held(part)


def stages_section(part: Json) -> str:
    """Mean ms of a request in each stage, floor and roof."""
    whole_ms = sum(part["stages_ms"].values())
    if part["no_stages"]:
        text = f"No stages: {part['no_stages']}.\n"
    else:
        text = f"Mean of a request at {part['load']['rate']:.0f} requests/s:\n\n" + rows(
            ["stage", "ms", "share"],
            ([name, f"{ms:.2f}", f"{ms / whole_ms:.0%}"] for name, ms in part["stages_ms"].items()),
        )
    text += "\nFloor, a route that does nothing:\n\n" + rows(
        ["clients", "requests/s", "p50 ms", "p99 ms"],
        (
            [load["clients"], rate_of_rounds(load), *(percentile(load, key) for key in ("p50_ms", "p99_ms"))]
            for load in part["floor"]
        ),
    )
    return text + "\n" + reached(part)


def profile_section(part: Json) -> str:
    """Processor time by part of the code."""
    cpu_ms = part["server_cpu_ms_per_request"]
    shares = sorted(part["shares"].items(), key=lambda item: -item[1])
    text = rows(["part", "share", "ms"], ([name, f"{share:.1%}", f"{share * cpu_ms:.2f}"] for name, share in shares))
    threads = sorted(part["threads_ms"].items(), key=lambda item: -item[1])
    return f"{text}\n{rows(['threads', 'ms'], ([name, f'{ms:.2f}'] for name, ms in threads))}"


def batching_section(part: Json) -> str:
    """Batch sizes against load, with and without, and the wait cap."""
    lines = (
        [
            *(load["device"], load["setting"], load["clients"], rate_of_rounds(load)),
            *(percentile(load, "p50_ms"), percentile(load, "p99_ms"), f"{load['mean_windows']:.2f}"),
            *(", ".join(f"{size}: {n}" for size, n in load["windows"].items()), load["reasons"].get("waited", 0)),
        ]
        for load in part["loads"]
    )
    headings = ["device", "batching", "clients", "requests/s", "p50 ms", "p99 ms", "windows a batch", "batches by size"]
    text = rows([*headings, "that waited"], lines)
    if not any(load["reasons"].get("waited") for load in part["loads"]):
        text += (
            "\nNo batch waited for company under any cap, since here a wait costs those who wait more than it saves: "
            "settings that differ in the cap alone are the same here, and what they differ by is chance.\n"
        )
    return text + (f"\nNot on CUDA: {part['no_cuda']}.\n" if part["no_cuda"] else "")


def size_section(part: Json) -> str:
    """Starts and memory."""
    memory, text = part["memory"], ""
    if part["start"]:
        lines = ([one["cache"], f"{one['ready_s']:.2f}", f"{one['read_mb']:.0f}"] for one in part["start"])
        text = rows(["file cache", "s to ready", "MB from disk"], lines) + "\n"
        cold, warm = ([one["ready_s"] for one in part["start"] if one["cache"] == cache] for cache in ("cold", "warm"))
        if warm and min(cold) <= max(warm):
            text += "Cold is within what the warm ones differ by: here reading from disk shows no difference.\n\n"
    return text + (
        f"{memory['idle_mb']:.0f} MB at rest, {memory['after_mb']:.0f} MB after "
        f"{memory['points'][0]['requests']} requests, {memory['growth_mb_per_1000']:+.2f} MB for 1,000 more.\n"
    )


def growth_section(part: Json) -> str:
    """Length and rate."""

    def lines(key: str, unit: str) -> Iterable[list[object]]:
        for one in part[key]:
            told = [one["p50_ms"], one["server_cpu_ms"], one["stages_ms"].get("decode")]
            p50, cpu, decode = (_DASH if ms is None else f"{ms:.1f}" for ms in told)
            if one["server_cpu_spread"]:
                cpu += " ({:.1f} to {:.1f})".format(*one["server_cpu_spread"])
            yield [f"{one[unit]:g}", p50, cpu, f"{one['times_real_time']:.0f}", decode]

    head = ["p50 ms", "CPU ms", "times real time", "decode ms"]
    line = part["line"]
    text = (
        rows(["seconds of 16 kHz", *head], lines("lengths", "seconds"))
        + f"\n{line['fixed_ms']:.1f} ms and {line['ms_per_second_of_speech']:.2f} ms per second of speech.\n\n"
        + rows(["Hz, 3 s", *head], lines("rates", "rate_hz"))
    )
    if late := {one["generator"]["bottleneck"] for one in part["lengths"] + part["rates"]} - {""}:
        text += f"\nSome of these say more of the load generator than of the service: {'; '.join(sorted(late))}.\n"
    return text


def replicas_section(part: Json) -> str:
    """Measured and simulated rates that hold the p99, and how far the simulation is to be believed."""
    shares = {one["replicas"]: share for one in part["replicas"] if (share := of_simulated(one))}
    lines = (
        [
            one["replicas"],
            f"{one['simulated']['rate']:.0f}",
            one["why_not_measured"] or one["measured"]["not_quoted"] or f"{one['measured']['rate']:.0f}",
            f"{shares[one['replicas']]:.2f}" if one["replicas"] in shares else _DASH,
        ]
        for one in part["replicas"]
    )
    text = (
        f"Requests/s with a p99 within {part['p99_ms']:g} ms, one core each, {part['arrivals']} arrivals, "
        f"{part['balance']}; one of them alone takes {sum(part['service_ms']) / len(part['service_ms']):.1f} ms, "
        f"asked {part['pause_ms']:g} ms after its last answer:\n\n"
    )
    text += rows(["replicas", "simulated", "behind HAProxy", "measured / simulated"], lines)
    if shares and min(shares.values()) < 1:
        text += (
            f"\nWhere both are known, {min(shares.values()):.2f} of what is simulated was measured: what is simulated "
            "only is an upper bound.\n"
        )
    return text


def of_simulated(one: Json) -> float:
    """What was measured with so many replicas, as a share of what is simulated; 0 where one of the two is not known."""
    if not one["measured"] or one["measured"]["not_quoted"] or not one["simulated"]["rate"]:
        return 0.0
    return float(one["measured"]["rate"] / one["simulated"]["rate"])


def offline_section(found: Json) -> str:
    """Parts without a server."""
    front = found["front_end"]
    text = (
        f"Front end (40 MFCC of one 3 s window): {front['ours_ms']:.2f} ms in the graph, {front['librosa_ms']:.2f} ms "
        f"in librosa, {front['times_as_fast']:.1f} times as fast; they differ by {front['largest_difference']:.1e} at "
        "most.\n\n"
    )
    batches = list(dict.fromkeys(one["batch"] for one in found["network"]))
    text += "| version | precision | MB | threads | " + " | ".join(f"batch {batch}" for batch in batches) + " |\n"
    text += "|---|---|---|---|" + "---|" * len(batches) + "\n"
    cells = {
        (one["version"], one["precision"], one["megabytes"], one["threads"], one["batch"]): one["ms_per_window"]
        for one in found["network"]
    }
    for key in dict.fromkeys(key[:4] for key in cells):
        row = " | ".join(f"{cells[*key, batch]:.2f}" for batch in batches)
        text += f"| {' | '.join(map(str, key))} | {row} |\n"
    text += "\nms per window, preprocessing included.\n\n| 3 s of | bytes | ms to decode |\n|---|---|---|\n"
    text += "".join(f"| {one['format']} | {one['bytes']} | {one['ms']:.2f} |\n" for one in found["decode"])
    text += "\n| 3 s at | ms to resample |\n|---|---|\n"
    return text + "".join(f"| {one['rate_hz']} Hz | {one['ms']:.2f} |\n" for one in found["resample"])


SECTIONS: tuple[tuple[str, str, Callable[[Json], str]], ...] = (
    ("peers", _PEERS, peers_section),
    ("latency", "Latency", latency_table),
    ("capacity", "Capacity", capacity_section),
    ("stages", "Where a request's time goes", stages_section),
    ("profile", "Where the processor's time goes", profile_section),
    ("batching", "Batching", batching_section),
    ("size", "Start and size", size_section),
    ("growth", "How the cost grows", growth_section),
    ("replicas", "Replicas", replicas_section),
    ("offline", "Parts without a server", offline_section),
)
