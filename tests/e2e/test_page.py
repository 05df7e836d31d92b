"""The web page in a real browser: Debian's Chromium, driven by Playwright, with a recording for a microphone."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import soundfile
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import (
    Browser,
    BrowserContext,
    FloatRect,
    Locator,
    Page,
    Request,
    Route,
    WebSocket,
    expect,
    sync_playwright,
)

from benchmarks.process import Server
from serving.keys import hashed, new_key
from tests.conftest import ROOT, answering
from tests.service import Service, running, until
from tests.sounds import encode, speech, voice

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which is not on this machine"),
    pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng, which is not on this machine"),
]
SCREENSHOTS = ROOT / "build" / "screenshots"
PATIENCE_MS = 60_000
get = functools.partial(httpx.get, timeout=PATIENCE_MS / 1000)
post = functools.partial(httpx.post, timeout=PATIENCE_MS / 1000)
MAX_BYTES = 400_000
FIRST_PAINT_MS = 1000
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1180, "height": 860}
PICTURE_WIDTH = 1060
RATE_HZ = 48_000
PAUSE_S = 1.5


@pytest.fixture(scope="module")
def sentences() -> tuple[np.ndarray, np.ndarray]:
    return (
        speech("The kids are talking by the door.", RATE_HZ),
        speech("Dogs are sitting by the door, and nobody has fed them.", RATE_HZ, pitch=70),
    )


@pytest.fixture(scope="module")
def spoken(sentences: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Silence, a sentence, a pause, another sentence, silence."""
    quiet = np.zeros(int(PAUSE_S * RATE_HZ), dtype=np.float32)
    return np.concatenate([quiet, sentences[0], quiet, sentences[1], quiet])


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, spoken: np.ndarray) -> list[Path]:
    """Made clips, in formats that browsers play and in one that they do not."""
    folder = tmp_path_factory.mktemp("clips")
    # Louder and softer, so that its timeline has something to tell.
    levels = np.interp(np.arange(len(spoken)) / RATE_HZ, [0, 3.4, 3.6, 6, 6.5], [1, 1, 0.04, 0.04, 0.3])
    files = {
        "it's a voice.wav": encode((spoken * levels)[RATE_HZ : 9 * RATE_HZ].astype(np.float32), RATE_HZ),
        "voice.flac": encode(speech("I have told you so.", 16_000), 16_000, "FLAC"),
        "voice.aiff": encode(speech("I did not know that.", 16_000), 16_000, "AIFF"),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Both committed versions; the candidate answers only who asks for it, so that answers can be compared."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "routes.yaml").write_text(
        'default: stable\nvariants:\n  stable: {version: "2", weight: 100}\n  candidate: {version: "1", weight: 0}\n'
    )
    with running(folder / "log.txt", routes=folder / "routes.yaml") as service:
        yield service


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, spoken: np.ndarray) -> Iterator[Browser]:
    """Whose microphone hears ``spoken`` once, then silence; a page may use it only where the test allows it."""
    heard = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    heard.write_bytes(encode(spoken, RATE_HZ, subtype="PCM_16"))
    options = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={heard}%noloop",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page and everything that it asked for and complained of."""

    page: Page
    host: str
    requested: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    finished: list[Request] = field(default_factory=list)

    def card(self, name: str) -> Locator:
        return self.page.get_by_role("article", name=name)

    def choose(self, *files: Path) -> list[Locator]:
        """Choose files and wait for their answers, or refusals."""
        self.page.locator("#files").set_input_files(list(files))
        cards = [self.card(file.name) for file in files]
        for card in cards:
            expect(card).not_to_have_attribute("aria-busy", "true")
        return cards

    def check_accessible(self) -> None:
        """Nothing has complained so far, and axe finds no serious fault."""
        assert self.complaints == []
        serious = [
            f"{each['id']}: {each['help']}: {[node['html'] for node in each['nodes']][:3]}"
            for each in Axe().run(self.page).response["violations"]
            if each["impact"] in ("serious", "critical")
        ]
        assert serious == []
        self.complaints.clear()  # of axe, whose own styles the page does not let in

    def tab_to(self, name: str) -> None:
        """By Tab alone, to what a screen reader calls by this name."""
        for _ in range(60):
            self.page.keyboard.press("Tab")
            focused = self.page.evaluate(
                """() => {
                    const at = document.activeElement;
                    const label = at.labels?.[0]?.textContent ?? "";
                    return at.getAttribute("aria-label") ?? (label || at.textContent);
                }"""
            )
            if focused.strip() == name:
                outline = self.page.evaluate(
                    """() => [document.activeElement, document.activeElement.labels?.[0]].some(
                        (each) => each && getComputedStyle(each).outlineStyle !== "none")"""
                )
                assert outline, f"nothing shows that {name!r} has the focus"
                return
        pytest.fail(f"Tab never comes to {name!r}")

    def screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True, animations="disabled")

    def picture(self, name: str, height: int) -> None:
        """For README, which `make screenshots` puts where it stands: the top of the page without its margins."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        left = (DESKTOP["width"] - PICTURE_WIDTH) // 2
        clip: FloatRect = {"x": left, "y": 0, "width": PICTURE_WIDTH, "height": height}
        shot = self.page.screenshot(full_page=True, clip=clip, animations="disabled")
        told = PngInfo()
        told.add_text("model", answering())
        Image.open(io.BytesIO(shot)).save(SCREENSHOTS / f"{name}.png", pnginfo=told)


Visitor = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser, service: Service) -> Iterator[Visitor]:
    """Opens the page; at the end of the test nothing may have gone to another host, and nothing to the console."""
    contexts: list[BrowserContext] = []
    visits: list[Visit] = []

    def go(view: str = "clips", at: Service = service, script: str = "", **options: Any) -> Visit:
        context = browser.new_context(viewport=options.pop("viewport", DESKTOP), **options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        context.add_init_script(script)
        visit = Visit(context.new_page(), urlsplit(at.url).netloc)
        visits.append(visit)
        context.on("request", lambda request: visit.requested.append(request.url))
        # Playwright takes no built-in method.
        context.on("requestfinished", lambda request: visit.finished.append(request))  # noqa: PLW0108
        visit.page.on("websocket", lambda socket: visit.requested.append(socket.url))
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        visit.page.on(
            "console",
            lambda message: visit.complaints.append(message.text) if message.type in ("error", "warning") else None,
        )
        visit.page.goto(f"{at.url}/#{view}")
        return visit

    expect.set_options(timeout=PATIENCE_MS)
    yield go
    for visit in visits:
        asked = {urlsplit(url).netloc for url in visit.requested if not url.startswith(("blob:", "data:"))}
        assert asked == {visit.host}
        assert visit.complaints == []
    for context in contexts:
        context.close()


def predicted(service: Service, file: Path, **headers: str) -> dict[str, Any]:
    answer = post(f"{service.url}/predict", files={"file": (file.name, file.read_bytes())}, headers=headers)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def percent(share: float) -> str:
    return f"{int(100 * share + 0.5)} %"


def word_for(answer: dict[str, Any], threshold: float = 0.4) -> str:
    return str(answer["emotion"]) if answer["confidence"] >= threshold else "not sure"


def shows(card: Locator, answer: dict[str, Any]) -> None:
    """The card says what the service says: the word, and every probability."""
    expect(card.locator(".answer-word")).to_have_text(word_for(answer))
    names, shares = (card.locator(f".answer .bar-{part}").all_inner_texts() for part in ("name", "share"))
    assert list(zip(names, shares, strict=True)) == [
        (label, percent(share)) for label, share in answer["all_emotions"].items()
    ]


def set_threshold(page: Page, percent_: int) -> None:
    page.get_by_label("below").fill(str(percent_))


def test_uploaded_clips_show_what_predict_says(visit: Visitor, service: Service, shared_samples: list[Path]) -> None:
    files = shared_samples[:3]
    for card, file in zip(visit().choose(*files), files, strict=True):
        answer = predicted(service, file)
        shows(card, answer)
        expect(card.locator(".about")).to_contain_text(f"{answer['duration_s']:.1f} s · version 2 (stable)")
        expect(card.locator(".play")).to_be_enabled()


def test_several_files_are_dropped_and_each_can_be_played(visit: Visitor, service: Service, clips: list[Path]) -> None:
    seen = visit()
    data = seen.page.evaluate_handle(
        """(files) => {
            const transfer = new DataTransfer();
            for (const [name, bytes] of files) transfer.items.add(new File([Uint8Array.from(bytes)], name));
            return transfer;
        }""",
        [(file.name, list(file.read_bytes())) for file in clips[1:]],
    )
    seen.page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    for file in clips[1:]:  # the AIFF by way of the service, as Chromium does not decode it
        card = seen.card(file.name)
        expect(card.locator(".play")).to_be_enabled()
        shows(card, predicted(service, file))
        assert card.locator(".wave canvas").count() > 0
    assert sum(url.endswith("/ui/playable") for url in seen.requested) == 1


HELD_KEY = """slider => {
    for (let i = 0; i < 7; i++) slider.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
}"""  # faster than the browser seeks


@pytest.mark.timed
def test_the_timeline_is_in_step_with_playback(visit: Visitor, service: Service, clips: list[Path]) -> None:
    (card,) = visit().choose(clips[0])
    expect(card.locator(".play")).to_be_enabled()
    duration_s = predicted(service, clips[0])["duration_s"]
    slider = card.get_by_role("slider")
    slider.focus()
    slider.press("ArrowRight")
    slider.evaluate(HELD_KEY)

    def left_of_playhead() -> float:
        return float(str(card.locator(".playhead").get_attribute("style")).split("left:")[1].split("%")[0])

    expect(slider).to_have_attribute("aria-valuenow", "4.0")
    before = left_of_playhead()
    slider.press(" ")
    expect(card.get_by_role("button", name="Pause")).to_be_visible()
    # Nobody has moved it: a second was played.
    expect(slider).to_have_attribute("aria-valuenow", re.compile(r"^5\."))
    slider.press(" ")
    expect(card.get_by_role("button", name="Play")).to_be_visible()
    now_s = float(slider.get_attribute("aria-valuenow") or 0)
    assert 5 <= now_s <= duration_s
    left = left_of_playhead()
    assert left >= before + 100 * 0.9 / duration_s
    assert left == pytest.approx(100 * now_s / duration_s, abs=100 * 0.1 / duration_s)
    expect(card.locator(".readout")).to_have_text(
        re.compile(r"^0:0\d\.\d · (\w+ \d+ %, \w+ \d+ %, \w+ \d+ %|nobody speaks)$")
    )
    card.get_by_text("Timeline as a table").click()
    segments = predicted(service, clips[0])["segments"]
    rows = card.locator("details tbody tr").all_inner_texts()
    assert [row.split("\t")[1:] for row in rows] == [
        [word_for(segment), percent(segment["confidence"])] for segment in segments
    ]
    # Where the chart is pressed, there the recording goes on.
    box = card.locator(".u-over").bounding_box()
    assert box
    card.locator(".u-over").click(position={"x": box["width"] / 2, "y": 20})
    middle = pytest.approx(duration_s / 2, abs=0.11)
    assert until(lambda: float(slider.get_attribute("aria-valuenow") or 0) == middle)


def test_below_the_threshold_it_is_not_sure(visit: Visitor, service: Service, clips: list[Path]) -> None:
    seen = visit()
    (card,) = seen.choose(clips[1])
    answer = predicted(service, clips[1])
    below, above = 5 * int(20 * answer["confidence"]), 5 * int(20 * answer["confidence"] + 1)
    if above <= 95:
        set_threshold(seen.page, above)
        expect(card.locator(".answer-word")).to_have_text("not sure")
        expect(card.locator(".answer-doubt")).to_contain_text(f"most likely {answer['emotion']}")
        expect(card.get_by_role("group", name="What was it?").get_by_role("button")).to_have_text(
            list(answer["all_emotions"])
        )
        expect(card.get_by_role("button", name="Yes")).to_have_count(0)
    set_threshold(seen.page, below)
    expect(card.locator(".answer-word")).to_have_text(answer["emotion"])
    expect(card.get_by_role("button", name=f"Yes, {answer['emotion']}")).to_be_visible()
    told = json.loads((ROOT / "exported" / "2" / "model.json").read_text())["metadata"]["rejection"]
    (row,) = [row for row in told if row["min_confidence"] == pytest.approx(below / 100)]
    expect(seen.page.locator("#threshold-meaning")).to_contain_text(f"answered {percent(row['answered'])} of them")


WATCH = """
// What goes and comes on the stream, and what the page then shows, each with its time.
window.seen = {sent: [], messages: [], shown: []};
let samples = 0, last = "";
window.WebSocket = class extends WebSocket {
    constructor(...given) {
        super(...given);
        this.addEventListener("message", ({data}) => seen.messages.push({at: performance.now(), ...JSON.parse(data)}));
    }
    send(what) {
        if (what instanceof ArrayBuffer) samples += what.byteLength / 2;
        seen.sent.push({at: performance.now(), samples});
        super.send(what);
    }
};
new MutationObserver(() => {
    const bars = [...document.querySelectorAll("#live .bar-share")].map((bar) => bar.textContent);
    if (bars.join() === last) return;
    last = bars.join();
    const {rows, marked} = document.querySelector("#live .timeline").dataset;
    seen.shown.push({at: performance.now(), bars, rows: Number(rows), marked});
}).observe(document, {subtree: true, childList: true, characterData: true});
"""
LIVE_MS = 500


@pytest.mark.timed
def test_the_page_moves_while_somebody_speaks(
    visit: Visitor, sentences: tuple[np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    page = visit("live", permissions=["microphone"], script=WATCH).page
    page.get_by_role("button", name="Start listening").click()
    utterances = page.get_by_role("list", name="Utterances").locator("li[data-start-sample]")
    expect(utterances).to_have_count(2)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("2 utterances heard.")).to_be_visible()
    seen = page.evaluate("window.seen")
    (rate_hz,) = [message["rate_hz"] for message in seen["messages"] if message["type"] == "session"]

    latencies_ms, ends = [], []
    for number in (1, 2):
        begun, *measured, ended = [each for each in seen["messages"] if each.get("utterance") == number]
        shown = [each for each in seen["shown"] if begun["at"] <= each["at"] < ended["at"]]
        assert len(shown) >= 3, "the bars do not move while an utterance is open"
        rows = [each["rows"] for each in shown]
        assert rows == sorted(set(rows)), "the timeline does not grow"
        for each in shown:
            # From the frame that the measurement waited for, to the bars that show what it said.
            message = next(message for message in reversed(measured) if message["at"] <= each["at"])
            assert each["bars"] == [percent(share) for share in message["all_emotions"].values()]
            went = next(frame for frame in seen["sent"] if frame["samples"] >= message["end_s"] * rate_hz)
            latencies_ms.append(each["at"] - went["at"])
        ends.append(ended)
    with capsys.disabled():
        print(f"\nthe page: bars move {min(latencies_ms):.0f} to {max(latencies_ms):.0f} ms after what was said")
    assert min(latencies_ms) < LIVE_MS

    marks = page.locator("#live .timeline").get_attribute("data-marked")
    assert marks == " ".join(f"{number}:{end['start_s']}:{end['end_s']}" for number, end in enumerate(ends, 1))
    for end, sentence in zip(ends, sentences, strict=True):
        assert end["end_s"] - end["start_s"] == pytest.approx(len(sentence) / RATE_HZ, abs=0.4)
    apart_s = len(sentences[0]) / RATE_HZ + PAUSE_S
    assert ends[1]["start_s"] - ends[0]["start_s"] == pytest.approx(apart_s, abs=0.25)


def test_the_microphone_is_heard_live(visit: Visitor, service: Service, spoken: np.ndarray, tmp_path: Path) -> None:
    messages: list[dict[str, Any]] = []
    seen = visit("live", permissions=["microphone", "clipboard-read", "clipboard-write"])
    page = seen.page

    def listen(socket: WebSocket) -> None:
        socket.on("framereceived", lambda text: messages.append(json.loads(text)))

    page.on("websocket", listen)
    page.get_by_role("button", name="Start listening").click()
    expect(page.get_by_text("Listening. Talk.")).to_be_visible()
    utterances = page.get_by_role("list", name="Utterances").get_by_role("listitem").filter(has=page.locator("strong"))
    expect(utterances).to_have_count(2)
    seen.screenshot("live-talking")
    expect(page.locator("#live .about")).to_have_text("version 2 listens")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("2 utterances heard.")).to_be_visible()

    # Probabilities have moved within half a second of speech, and then went on to.
    for number in (1, 2):
        start, *measured, _ = [message for message in messages if message.get("utterance") == number]
        ends = np.array([message["end_s"] for message in measured]) - start["start_s"]
        assert ends[0] <= 0.5
        assert np.median(np.diff(ends)) <= 0.5

    with page.expect_download() as download:
        page.get_by_role("link", name="Keep as WAV").click()
    kept = tmp_path / download.value.suggested_filename
    download.value.save_as(kept)
    samples, rate_hz = soundfile.read(kept, dtype="int16")
    assert len(samples) / rate_hz >= 0.9 * (len(spoken) / RATE_HZ - 3)  # it may have been stopped in the last silence
    for item in utterances.all():
        first, last = (int(item.get_attribute(f"data-{edge}-sample") or -1) for edge in ("start", "end"))
        cut = tmp_path / "utterance.wav"
        soundfile.write(cut, samples[first:last], rate_hz)
        answer = predicted(service, cut)
        line = item.locator("p").first.inner_text()
        assert f"{word_for(answer)} {percent(answer['confidence'])}" in line
    replay = page.get_by_role("button", name="Replay utterance 2")
    expect(replay).to_be_enabled()
    replay.click()
    expect(page.get_by_role("button", name="Pause the recording")).to_be_visible()
    expect(page.get_by_role("button", name="Play the recording")).to_be_visible()  # it stops at the utterance's end
    seen.check_accessible()
    seen.screenshot("live")
    seen.picture("page-live", 985)
    # The same frames once more, by what the page tells others to write.
    page.get_by_role("button", name="Copy as Python").click()
    copied = page.locator("#live .snippet").inner_text()
    done = subprocess.run([sys.executable, "-c", copied], cwd=kept.parent, capture_output=True, text=True, check=True)
    again = [message for message in map(json.loads, done.stdout.splitlines()) if message["type"] == "utterance.end"]
    assert [(end["start_sample"], end["end_sample"]) for end in again] == [
        (message["start_sample"], message["end_sample"]) for message in messages if message["type"] == "utterance.end"
    ]


def test_a_refused_microphone_is_told_and_can_be_allowed_later(visit: Visitor) -> None:
    page = visit("live").page
    page.get_by_role("button", name="Start listening").click()
    expect(page.get_by_text("The microphone was refused. Allow it for this page")).to_be_visible()
    page.context.grant_permissions(["microphone"])
    page.get_by_role("button", name="Start listening").click()
    expect(page.get_by_text("Listening. Talk.")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Start again")).to_be_visible()


def test_versions_are_compared_side_by_side(visit: Visitor, service: Service, clips: list[Path]) -> None:
    (card,) = visit().choose(clips[1])
    card.get_by_role("button", name="Compare versions").click()
    table = card.get_by_role("region", name="Comparison of versions")
    expect(table.get_by_role("columnheader")).to_have_text(
        ["Version 2stable, 100 % of the traffic, the default", "Version 1candidate, 0 % of the traffic"]
    )
    for version in "21":
        answer = predicted(service, clips[1], **{"X-Model-Version": version})
        assert answer["model_version"] == version
        cell = table.locator(f"td[data-version='{version}']")
        expect(cell).to_have_text(f"{word_for(answer)} {percent(answer['confidence'])}")
        # What is copied asks that very version.
        copies = card.get_by_role("group", name=f"Request to version {version}")
        for name, command in (("curl", ["bash", "-c"]), ("Python", [sys.executable, "-c"])):
            copies.get_by_role("button", name=f"Copy as {name}").click()
            copied = copies.locator(".snippet").inner_text()
            done = subprocess.run([*command, copied], cwd=clips[1].parent, capture_output=True, text=True, check=True)
            told = json.loads(done.stdout) if name == "curl" else eval(done.stdout)  # noqa: S307 - our own print
            assert told["model_version"] == version


def test_a_card_that_is_removed_is_waited_for_no_longer(visit: Visitor, clips: list[Path]) -> None:
    """Two are asked at a time, so the third has its turn only when both are given up."""
    page = visit().page
    held: list[Route] = []
    page.route("**/predict*", lambda route: held.append(route) if len(held) < 2 else route.continue_())
    page.locator("#files").set_input_files(clips)
    last = page.get_by_role("article", name=clips[2].name)
    page.wait_for_timeout(500)
    expect(last).to_have_attribute("aria-busy", "true")
    for file in clips[:2]:
        page.get_by_role("button", name=f"Remove {file.name}").click()
    expect(last.locator(".answer-word")).not_to_be_empty()


def test_a_clip_that_cannot_be_played_now_says_why(visit: Visitor, clips: list[Path]) -> None:
    seen = visit()
    refused = {"error": {"code": "overloaded", "message": "64 requests are being answered already."}}
    seen.page.route("**/ui/playable", lambda route: route.fulfill(status=429, json=refused))
    (card,) = seen.choose(clips[2])
    expect(card.get_by_text("It cannot be played now: 64 requests are being answered already.")).to_be_visible()
    expect(card.locator(".answer-word")).not_to_be_empty()
    assert len(seen.complaints) == 1
    assert "429" in seen.complaints.pop()


def test_feedback_arrives(visit: Visitor, service: Service, clips: list[Path]) -> None:
    def told() -> dict[str, Any]:
        rows = get(f"{service.url}/experiments").json()["variants"]
        (row,) = [row for row in rows if row["variant"] == "stable"]
        feedback: dict[str, Any] = row["feedback"]
        return feedback

    before = told()
    (first, second) = visit().choose(clips[1], clips[2])
    heard = predicted(service, clips[1])["emotion"]
    first.get_by_role("button", name=f"Yes, {heard}").click()
    expect(first.get_by_text(f"Thank you: {heard}, as version 2 had said.")).to_be_visible()
    wrong = next(label for label in ("sad", "calm") if label != predicted(service, clips[2])["emotion"])
    second.get_by_role("button", name=wrong, exact=True).click()
    expect(second.get_by_text(f"Thank you: {wrong}, not")).to_be_visible()
    after = told()
    assert (after["told"] - before["told"], after["agreed"] - before["agreed"]) == (2, 1)


def test_a_broken_file_shows_the_services_message(visit: Visitor, service: Service, tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"this is no sound at all")
    error = post(f"{service.url}/predict", files={"file": (broken.name, broken.read_bytes())}).json()["error"]
    seen = visit()
    (card,) = seen.choose(broken)
    expect(card.get_by_role("alert")).to_have_text(error["message"])
    # The browser itself notes every refused request; beside that there is nothing.
    assert len(seen.complaints) == 1
    assert "415" in seen.complaints.pop()


def test_the_request_can_be_copied_and_made_again(visit: Visitor, service: Service, clips: list[Path]) -> None:
    (card,) = visit(permissions=["clipboard-read", "clipboard-write"]).choose(clips[0])
    expected = predicted(service, clips[0])
    for name, command in (("curl", ["bash", "-c"]), ("Python", [sys.executable, "-c"])):
        card.get_by_role("button", name=f"Copy as {name}").click()
        expect(card.get_by_text("Copied")).to_be_visible()
        copied = card.page.evaluate("navigator.clipboard.readText()")
        assert "min_confidence" in copied
        done = subprocess.run([*command, copied], cwd=clips[0].parent, capture_output=True, text=True, check=True)
        answer = json.loads(done.stdout) if name == "curl" else eval(done.stdout)  # noqa: S307 - our own print
        assert answer["all_emotions"] == pytest.approx(expected["all_emotions"], abs=1e-5)
        assert answer["filename"] == clips[0].name


def test_the_model_says_what_it_is_and_what_it_must_not_be_used_for(visit: Visitor) -> None:
    page = visit("model").page
    for version in "21":
        page.get_by_role("button", name=f"Version {version}").click()
        figures = json.loads((ROOT / "exported" / version / "report" / "metrics.json").read_text())
        own = page.locator(".tile", has_text="its own exam").locator("dd")
        expect(own).to_contain_text(f"{figures['uar']:.3f}")
        bench = json.loads((ROOT / "exported" / version / "model.json").read_text())["metadata"].get("bench")
        if bench:
            expected = f"{half_up(bench['uar'])}± {half_up(bench['uar_sd'])}: its recipe over {bench['folds']} folds"
            expect(page.locator(".tile dd").first).to_contain_text(expected)
        expect(page.get_by_text("Do not use it to judge, hire, grade, diagnose or police people")).to_be_visible()
        expect(page.locator(".terms")).to_contain_text("CC BY-NC-SA 4.0")
        matrix = page.locator("table.confusion tbody tr").all()
        assert [[int(cell) for cell in row.locator("td").all_inner_texts()] for row in matrix] == figures["confusion"]
        actors = page.get_by_role("table").filter(has_text="Actors of its exam").locator("tbody tr").all_inner_texts()
        assert [row.split("\t")[0] for row in actors] == ["Actor 08", "Actor 17"]
        assert {row.split("\t")[0]: float(row.split("\t")[1]) for row in actors} == {
            f"Actor {actor}": pytest.approx(row["uar"], abs=5.1e-4) for actor, row in figures["per_speaker"].items()
        }
        if "calibration" in figures:
            page.get_by_text("Reliability as a table").click()
            bins = [bin_ for bin_ in figures["calibration"]["bins"] if bin_["clips"]]
            rows = page.locator("section", has_text="Reliability").locator("details tbody tr").all_inner_texts()
            assert [row.split("\t")[2] for row in rows[: len(bins)]] == [str(bin_["clips"]) for bin_ in bins]
    page.get_by_text("Provenance").click()
    expect(page.get_by_text("python -m training").first).to_be_visible()


def test_a_clip_is_answered_on_one_card(visit: Visitor, tmp_path: Path) -> None:
    """The picture that README begins with: somebody speaks without a pause, loudly and softly, and the whole answer."""
    said = [
        speech("I have told you so, and you did not listen!", RATE_HZ, pitch=85),
        0.1 * speech("Well, it does not matter any more.", RATE_HZ, pitch=20),
        0.2 * speech("What did you say? I did not know that!", RATE_HZ, pitch=99),
    ]
    (tmp_path / "clip.wav").write_bytes(encode(np.concatenate(said).astype(np.float32), RATE_HZ))
    seen = visit()
    (card,) = seen.choose(tmp_path / "clip.wav")
    expect(card.locator(".play")).to_be_enabled()
    expect(card.get_by_text("Was it right?")).to_be_visible()
    box = card.bounding_box()
    assert box
    seen.picture("page", round(box["y"] + box["height"]) + 30)


def half_up(score: float) -> str:
    """To three places as browsers round: Python takes 0.5625 to the even 0.562."""
    return str(Decimal(score).quantize(Decimal("0.001"), ROUND_HALF_UP))


@pytest.mark.parametrize(("version", "recipe"), [("2", "cnn_tdnn_whole"), ("1", None)])
def test_the_folds_say_who_was_examined_and_which_row_is_the_versions(
    visit: Visitor, version: str, recipe: str | None
) -> None:
    page = visit("model").page
    page.get_by_role("button", name=f"Version {version}").click()
    table = page.get_by_role("region", name="Folds of actors")
    folds = json.loads((ROOT / "exported" / "folds.json").read_text())
    expect(table.get_by_role("row").last).to_contain_text(f"version {version}")
    uar = json.loads((ROOT / "exported" / version / "report" / "metrics.json").read_text())["uar"]
    rows = {
        **{f"{name} (its recipe)" if name == recipe else name: found for name, found in folds["uar"].items()},
        f"version {version}, its own exam": [None, None, None, uar, None],
    }
    means = [" \u00b1 ".join(map(half_up, mean)) for mean in folds["mean"].values()]
    shown = [row.split("\t") for row in table.locator("tbody tr").all_inner_texts()]
    assert [row[1] for row in shown] == [*means, ""]
    assert [(row[0], row[2:]) for row in shown] == [
        (name, ["\u2013" if value is None else half_up(value) for value in found]) for name, found in rows.items()
    ]
    expect(table.get_by_role("columnheader").nth(5)).to_have_text("Fold 3actors 08, 17; 120 clips")


def test_it_is_used_with_the_keyboard_alone(visit: Visitor, clips: list[Path]) -> None:
    seen = visit()
    page, go_to = seen.page, seen.tab_to
    page.on("filechooser", lambda _: None)  # from now on, so that no chooser opens before Playwright looks

    go_to("Choose files")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(clips[1])
    card = seen.card(clips[1].name)
    expect(card.locator(".play")).to_be_enabled()
    go_to(f"Position in {clips[1].name}")
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    expect(card.get_by_role("slider")).not_to_have_attribute("aria-valuenow", "0.0")
    go_to(f"Play {clips[1].name}")
    page.keyboard.press("Space")
    go_to("sad")
    page.keyboard.press("Enter")
    expect(card.get_by_text("Thank you: sad")).to_be_focused()
    go_to("Compare versions")
    page.keyboard.press("Enter")
    expect(card.get_by_role("region", name="Comparison of versions")).to_be_visible()
    expect(card.get_by_role("button", name="Compare versions")).to_be_focused()
    page.keyboard.press("Control+Home")
    page.evaluate("document.activeElement.blur()")
    go_to("Microphone")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Start listening")).to_be_visible()


def test_the_microphone_is_used_with_the_keyboard_alone(visit: Visitor) -> None:
    seen = visit("live", permissions=["microphone"])
    page = seen.page
    expect(page.get_by_role("button", name="Start listening")).to_be_visible()
    seen.tab_to("\u201cNot sure\u201d below")
    before = page.locator("#threshold-value").inner_text()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#threshold-value")).not_to_have_text(before)
    seen.tab_to("Start listening")
    page.keyboard.press("Enter")
    # Where the focus was lost, the next key would go nowhere.
    expect(page.get_by_role("button", name="Stop")).to_be_focused()
    expect(page.get_by_role("list", name="Utterances").locator("li[data-start-sample]")).to_have_count(1)
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Start again")).to_be_focused()
    expect(page.get_by_role("button", name="Replay utterance 1")).to_be_enabled()
    seen.tab_to("Replay utterance 1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Pause the recording")).to_be_visible()
    expect(page.get_by_role("button", name="Replay utterance 1")).to_be_focused()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("desktop", {}),
        ("dark", {"color_scheme": "dark"}),
        ("phone", {"viewport": PHONE, "is_mobile": True, "has_touch": True}),
        ("phone-dark", {"viewport": PHONE, "is_mobile": True, "has_touch": True, "color_scheme": "dark"}),
    ],
)
def test_it_is_accessible_at_every_width_and_in_both_colours(
    visit: Visitor, clips: list[Path], name: str, options: dict[str, Any]
) -> None:
    seen = visit(**options)
    page = seen.page
    card, *_ = seen.choose(*clips[:2])
    expect(card.locator(".play")).to_be_enabled()
    card.get_by_role("button", name="Compare versions").click()
    expect(card.get_by_role("region", name="Comparison of versions")).to_be_visible()
    for view, ready in (("clips", ".comparison"), ("live", ".talk"), ("model", ".confusion")):
        page.get_by_role("link", name={"clips": "Clips", "live": "Microphone", "model": "Model"}[view]).click()
        expect(page.locator(f"#{view} {ready}").first).to_be_visible()
        seen.check_accessible()
        width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1], f"{view} is wider than the screen"
        seen.screenshot(f"{name}-{view}")


def test_the_colours_can_be_chosen(visit: Visitor) -> None:
    page = visit().page

    def darkness() -> int:
        return int(page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"))

    assert darkness() > 200
    button = page.get_by_role("button", name="Colours")
    button.click()
    expect(button).to_have_accessible_name("Colours: Light")
    button.click()
    expect(button).to_have_accessible_name("Colours: Dark")
    assert darkness() < 50
    page.reload()
    expect(button).to_have_accessible_name("Colours: Dark")
    assert darkness() < 50


@pytest.mark.alone
def test_it_is_small_and_there_at_once(visit: Visitor, capsys: pytest.CaptureFixture[str]) -> None:
    paints = []
    for _ in range(3):  # each a browser without a cache
        seen = visit()
        expect(seen.page.locator("#threshold-meaning")).not_to_be_empty()
        seen.page.wait_for_load_state("networkidle")
        paints.append(seen.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        sizes = [request.sizes() for request in seen.finished]
        size = sum(each["responseHeadersSize"] + each["responseBodySize"] for each in sizes)
        assert 100_000 < size < MAX_BYTES
    with capsys.disabled():
        print(f"\nthe page: {size / 1000:.0f} kB, first paint after {min(paints):.0f} to {max(paints):.0f} ms")
    assert np.median(paints) < FIRST_PAINT_MS


def test_what_the_page_may_do_is_said_in_its_headers(service: Service) -> None:
    answers = [get(service.url + "/") for _ in range(2)]
    policies = [answer.headers["content-security-policy"] for answer in answers]
    for answer, policy in zip(answers, policies, strict=True):
        assert "default-src 'none'" in policy
        assert not re.search(r"https?:|\*|unsafe", policy)
        (nonce,) = re.findall(r"'nonce-([\w-]+)'", policy)
        assert f'content="{nonce}"' in answer.text
    assert policies[0] != policies[1]
    for path in ("/ui/models/7", "/ui/models/..%2f1", "/ui/..%2fservice.py", "/ui/%2e%2e/service.py", "/ui/"):
        assert get(service.url + path).status_code == 404
    assert get(service.url + "/ui/models/7").json()["error"]["code"] == "unknown_version"
    assert post(service.url + "/ui/main.js").json()["error"]["code"] == "method_not_allowed"
    assert (
        post(service.url + "/ui/playable", files={"file": b"no sound"}).json()["error"]["code"] == "unsupported_audio"
    )


def test_any_clip_is_made_playable_as_the_model_hears_it(service: Service) -> None:
    stereo = np.stack([voice(1.0, 44_100)] * 2, axis=1)
    for kind in ("AIFF", "FLAC"):
        answer = post(service.url + "/ui/playable", files={"file": encode(stereo, 44_100, kind)})
        assert answer.headers["content-type"] == "audio/wav"
        samples, rate_hz = soundfile.read(io.BytesIO(answer.content))
        assert (samples.ndim, rate_hz, len(samples)) == (1, 16_000, 16_000)


def test_making_playable_needs_a_permit(tmp_path: Path) -> None:
    long = encode(np.tile(voice(10.0, 44_100), 40), 44_100, "FLAC")
    with running(tmp_path / "log.txt", max_inflight=1) as busy:

        def ask(_: int) -> httpx.Response:
            return post(busy.url + "/ui/playable", files={"file": long})

        for _ in range(10):  # on a busy machine the second may come when the first has been answered
            with ThreadPoolExecutor(2) as both:
                answers = sorted(both.map(ask, range(2)), key=lambda answer: answer.status_code)
            if answers[1].status_code == 429:
                break
        assert [answer.status_code for answer in answers] == [200, 429]
        assert answers[1].json()["error"]["reason"] == "permits"
        assert post(busy.url + "/predict", files={"file": encode(voice(1.0), 16_000)}).status_code == 200


ALL, FEW = new_key(), new_key()


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """It wants a key: one may everything that the page asks for, the other only look at the models."""
    folder = tmp_path_factory.mktemp("locked")
    (folder / "keys.yaml").write_text(
        f"keys:\n  me: {{sha256: {hashed(ALL)}, scopes: [predict, models, feedback]}}\n"
        f"  you: {{sha256: {hashed(FEW)}, scopes: [models]}}\n"
    )
    with running(folder / "log.txt", api_keys_file=folder / "keys.yaml") as service:
        yield service


def test_a_browser_brings_its_api_key(visit: Visitor, locked: Service, clips: list[Path]) -> None:
    """As the password of its own dialog, which Playwright answers."""
    seen = visit(at=locked, http_credentials={"username": "anybody", "password": ALL}, permissions=["microphone"])
    (card,) = seen.choose(clips[1])
    expect(card.locator(".answer-word")).not_to_be_empty()
    card.get_by_role("button", name="Yes").click()
    expect(card.get_by_text("Thank you")).to_be_visible()
    for name, command in (("curl", ["bash", "-c"]), ("Python", [sys.executable, "-c"])):
        card.get_by_role("button", name=f"Copy as {name}").click()
        copied = card.locator(".snippet").inner_text()
        assert ALL not in copied
        done = subprocess.run(
            [*command, copied],
            cwd=clips[1].parent,
            env={**os.environ, "TIMBRE_API_KEY": ALL},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "all_emotions" in done.stdout
    seen.page.get_by_role("link", name="Model").click()
    expect(seen.page.locator("table.confusion")).to_be_visible()
    seen.page.get_by_role("link", name="Microphone").click()
    seen.page.get_by_role("button", name="Start listening").click()
    utterances = seen.page.get_by_role("list", name="Utterances")
    expect(utterances.locator("li[data-start-sample]").first).to_be_visible()


def test_with_too_few_scopes_the_page_says_so(visit: Visitor, locked: Service, clips: list[Path]) -> None:
    seen = visit(at=locked, http_credentials={"username": "me", "password": FEW})
    (card,) = seen.choose(clips[1])
    expect(card.get_by_role("alert")).to_contain_text("predict")
    assert any("403" in complaint for complaint in seen.complaints)
    seen.complaints.clear()


def test_where_it_is_off_it_is_not_even_loaded() -> None:
    code = (
        "import sys; from serving.service import http_transport; from serving.lifecycle import Lifecycle\n"
        "http_transport(Lifecycle(), page=False); assert 'serving.transports.page' not in sys.modules\n"
        "http_transport(Lifecycle()); assert 'serving.transports.page' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.timed
def test_it_costs_a_service_that_nobody_looks_at_next_to_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best of each: what else a machine does makes some starts dearer, what the page costs makes all of them so.

    On a busy machine the best takes more starts to show, of both; what the page costs no number of them takes away.
    """
    starts_s: dict[str, list[float]] = {"on": [], "off": []}
    resident_mb: dict[str, list[float]] = {"on": [], "off": []}

    def start(ui: str) -> None:
        with running(tmp_path / "log.txt", ui=ui) as service:
            starts_s[ui].append(Server(service.process, 0, 0.0).cpu_s())
            resident_mb[ui].append(service.resident_bytes() / 1e6)

    def grows_by(measured: dict[str, list[float]]) -> float:
        return min(measured["on"]) / min(measured["off"])

    for pair in range(1, 9):
        start("on")
        start("off")
        if pair >= 2 and max(grows_by(starts_s), grows_by(resident_mb)) <= 1.1:
            break
    with capsys.disabled():
        print(f"\nthe page, in {pair} pairs: start x {grows_by(starts_s):.3f}, memory x {grows_by(resident_mb):.3f}")
    assert grows_by(starts_s) <= 1.1
    assert grows_by(resident_mb) <= 1.1


def test_where_it_is_off_there_is_nothing(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt", ui="off") as service:
        assert get(service.url + "/").headers["location"].endswith("docs")
        for path in ("/ui/main.js", "/ui/models/2"):
            answer = get(service.url + path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert post(service.url + "/ui/playable", files={"file": b""}).status_code == 404
