"""Several versions behind one service: who answers, what the shadow hears, and what a change of the file does."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from serving.client import Client
from serving.errors import UnknownVersion
from tests.models import add_version, contrary, copy_versions, rewrite
from tests.service import Service, metric, refusal, running, until
from tests.sounds import encode, voice

WAV = encode(voice(2.0), 16_000)
ROUTES = """
default: stable
variants:
  stable:    {version: "1", weight: 75}
  candidate: {version: "2", weight: 25}
shadow:      {version: "3", percent: 100}
"""
ONE = 'default: a\nvariants: {a: {version: "%s", weight: 1}}'


def put(file: Path, text: str) -> None:
    """Replaced whole: whoever follows it never sees half."""
    file.with_name("new").write_text(text)
    file.with_name("new").replace(file)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 and 2, which agree, and 3, which never does."""
    models = copy_versions(tmp_path_factory.mktemp("routing"), "2")
    add_version(models, "3", contrary)
    (models / "routes.yaml").write_text(ROUTES)
    return models


@pytest.fixture(scope="module")
def service(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("routing-service") / "log.txt", models=models) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=120) as client:
        yield client


def ask(client: httpx.Client, **headers: str) -> httpx.Response:
    return client.post(
        "/predict", content=WAV, headers={"Content-Type": "audio/wav", **{f"X-{k}": v for k, v in headers.items()}}
    )


def ask_of(client: httpx.Client, user: int) -> httpx.Response:
    return ask(client, **{"Timbre-Key": f"user-{user}"})


def test_the_answer_says_who_gave_it(client: httpx.Client) -> None:
    drawn = [(ask(client), {"stable": "1", "candidate": "2"})]
    pinned = [(ask(client, **{"Model-Version": version}), {"pinned": version}) for version in "123"]
    for response, versions in drawn + pinned:
        version = versions[response.headers["X-Timbre-Variant"]]
        assert response.json()["model_version"] == response.headers["X-Model-Version"] == version
        assert len(response.headers["X-Request-ID"]) > 40


def test_an_unknown_version_is_404_with_the_list(client: httpx.Client) -> None:
    for version in ("9", "../1", "routes.yaml", ""):
        response = ask(client, **{"Model-Version": version})
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "unknown_version"
        assert response.json()["error"]["versions"] == ["1", "2", "3"]


def test_a_key_always_gets_the_same_variant_unless_it_is_pinned(client: httpx.Client) -> None:
    variants = {}
    for user in range(40):
        variants[user] = ask_of(client, user).headers["X-Timbre-Variant"]
        assert ask_of(client, user).headers["X-Timbre-Variant"] == variants[user]
    assert set(variants.values()) == {"stable", "candidate"}
    somebody = next(user for user, variant in variants.items() if variant == "stable")
    pinned = ask(client, **{"Timbre-Key": f"user-{somebody}", "Model-Version": "2"})
    assert (pinned.headers["X-Timbre-Variant"], pinned.headers["X-Model-Version"]) == ("pinned", "2")


def test_the_query_says_what_the_headers_say(client: httpx.Client) -> None:
    def ask_by(query: str, *headers: tuple[str, str]) -> httpx.Response:
        return client.post(f"/predict?{query}", content=WAV, headers=[("Content-Type", "audio/wav"), *headers])

    for headers in ((), (("X-Model-Version", "2"),)):
        answer = ask_by("version=2", *headers)
        assert (answer.headers["X-Timbre-Variant"], answer.headers["X-Model-Version"]) == ("pinned", "2")
    assert ask_by("version=9").json()["error"]["code"] == "unknown_version"
    for user in range(10):
        variant = ask_of(client, user).headers["X-Timbre-Variant"]
        assert ask_by(f"key=user-{user}").headers["X-Timbre-Variant"] == variant
    for query, header, came in (
        ("version=2", "X-Model-Version", ["1"]),
        ("key=a", "X-Timbre-Key", ["b"]),
        ("", "X-Model-Version", ["1", "2"]),
    ):
        answer = ask_by(query, *((header, value) for value in came))
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
        assert all(f"'{value}'" in answer.json()["error"]["message"] for value in came)


def test_a_key_beyond_ascii_is_one_key_by_whatever_way_it_comes(service: Service, client: httpx.Client) -> None:
    """As bytes of UTF-8 or Latin-1 in the header, in the query, by both clients."""
    variants = set()
    with Client(service.url) as http, Client(f"grpc://{service.grpc}") as grpc:
        for key in (*(f"müller {user}" for user in range(20)), "мир", "two\nlines", " "):
            told = {timbre.predict(WAV, key=key).variant for timbre in (http, grpc)}
            if key.startswith("m"):
                for header, query in ((key.encode(), {}), (key.encode("latin-1"), {}), (key.encode(), {"key": key})):
                    headers = {b"Content-Type": b"audio/wav", b"X-Timbre-Key": header}
                    answer = client.post("/predict", content=WAV, params=query, headers=headers)
                    told.add(answer.raise_for_status().headers["X-Timbre-Variant"])
            assert len(told) == 1, (key, told)
            variants |= told
        assert variants == {"stable", "candidate"}
        with pytest.raises(UnknownVersion, match="'é'"):
            http.predict(WAV, version="é")


def test_without_a_key_traffic_goes_by_weight(client: httpx.Client) -> None:
    counts = Counter(ask(client).headers["X-Timbre-Variant"] for _ in range(200))
    # 150 expected, deviation 6.1: five of them to either side.
    assert 119 <= counts["stable"] <= 181


def test_models_tells_what_is_loaded(service: Service, client: httpx.Client) -> None:
    answer = client.get("/models").json()
    assert answer["default"] == "stable"
    assert answer["variants"]["candidate"] == {"version": "2", "weight": 25}
    assert answer["shadow"] == {"version": "3", "percent": 100}
    assert [(model["version"], model["variants"]) for model in answer["models"]] == [
        ("1", ["stable"]),
        ("2", ["candidate"]),
        ("3", []),
    ]
    assert answer["models"][0]["metadata"]["metrics"]["test"]["uar"] > 0
    assert answer["device"] == "cpu"
    assert "CUDA" in answer["note"]
    assert f"On the CPU, because there is {answer['note']}" in service.log.read_text()
    for version in ("1", "2", "3"):  # the shadow's too
        assert metric(client, "timbre_model_info", version=version, device="cpu") == 1


def test_the_shadow_hears_what_was_answered_and_its_agreement_is_counted(client: httpx.Client) -> None:
    def heard(result: str) -> float:
        return metric(client, "timbre_shadow_total", version="3", primary="1", result=result)

    before = heard("disagree")

    def asked_and_heard() -> bool:
        # On a busy machine what waits for the shadow may be dropped: then the next one is heard.
        ask(client, **{"Model-Version": "1"})
        return until(lambda: heard("disagree") > before, seconds=6)

    assert until(asked_and_heard)
    assert heard("agree") == heard("failed") == 0
    assert metric(client, "timbre_requests_total", version="3", variant="stable") == 0


def test_feedback_and_experiments(client: httpx.Client) -> None:
    answers = {answer.headers["X-Timbre-Variant"]: answer for answer in (ask_of(client, n) for n in range(40))}
    right, wrong = answers["stable"], answers["candidate"]
    before = client.get("/experiments").json()["variants"]
    ask(client, **{"Model-Version": "1"})
    after = {row["variant"]: row["requests"] for row in client.get("/experiments").json()["variants"] if row["weight"]}
    assert after == {row["variant"]: row["requests"] for row in before if row["weight"]}  # nobody drew it
    emotion = right.json()["emotion"]
    other = next(label for label in right.json()["all_emotions"] if label != emotion)
    for answer, true in ((right, emotion), (wrong, other)):
        told = {"request_id": answer.headers["X-Request-ID"], "emotion": true}
        assert client.post("/feedback", json=told).json()["counted"]
        assert not client.post("/feedback", json=told).json()["counted"]
    rows = {row["variant"]: row for row in client.get("/experiments").json()["variants"] if row["weight"]}
    assert rows["stable"]["feedback"]["agreed"] == rows["stable"]["feedback"]["told"] == 1
    assert rows["candidate"]["feedback"]["agreed"] == 0
    assert rows["stable"]["emotions"][emotion] == 1
    assert rows["stable"]["requests"] > rows["candidate"]["requests"] > 0
    assert 0 < rows["stable"]["latency_ms"]["p50"] <= rows["stable"]["latency_ms"]["p99"]
    comparison = client.get("/experiments").json()["comparison"]
    assert comparison["variants"] == ["candidate", "stable"]
    assert not comparison["significant"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"request_id": "x"}', b'{"request_id": 1, "emotion": "sad"}'])
def test_feedback_that_is_none_is_refused(client: httpx.Client, body: bytes) -> None:
    response = client.post("/feedback", content=body)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_request")


def test_feedback_is_small(client: httpx.Client) -> None:
    """As what is asked of the index is; what either is told speaks of no audio."""
    told = {}
    for path in ("/feedback", "/v2/repository/index"):
        response = client.post(path, content=bytes(5000))
        assert response.status_code == 413
        told[path] = response.json()["error"]
    assert told["/feedback"]["code"] == "too_large"
    assert told["/feedback"]["message"].startswith("The body is over 4096 bytes. Send the JSON object ")
    assert told["/v2/repository/index"] == f"too_large: {told['/feedback']['message']}"


def test_routes_that_name_what_is_not_there_are_refused_at_start(models: Path, tmp_path: Path) -> None:
    routes = tmp_path / "routes.yaml"
    put(routes, ROUTES.replace('"2"', '"22"'))
    result = refusal(models=models, routes=routes)
    assert result.returncode == 1
    assert str(models / "22" / "model.json") in result.stderr


def test_a_changed_file_is_in_force_soon_and_a_bad_one_never(models: Path, tmp_path: Path) -> None:
    """As Kubernetes changes a mounted ConfigMap: by moving a link to another folder."""
    folders = [tmp_path / "first", tmp_path / "second", tmp_path / "third"]
    texts = [ROUTES, ROUTES.replace("candidate", "better"), ROUTES.replace('"2"', '"22"')]
    for folder, text in zip(folders, texts, strict=True):
        folder.mkdir()
        (folder / "routes.yaml").write_text(text)
    link = tmp_path / "current"
    link.symlink_to(folders[0])

    def point_at(folder: Path) -> None:
        (tmp_path / "new").symlink_to(folder)
        (tmp_path / "new").rename(link)

    with (
        # A version that is no longer routed stays for as long as a request may take.
        running(
            tmp_path / "log.txt", models=models, routes=link / "routes.yaml", timeout_s=4, upload_timeout_s=1
        ) as service,
        httpx.Client(base_url=service.url) as client,
    ):
        assert set(client.get("/models").json()["variants"]) == {"stable", "candidate"}
        point_at(folders[1])
        assert until(lambda: set(client.get("/models").json()["variants"]) == {"stable", "better"})
        assert metric(client, "timbre_route_weight", variant="better") == 25
        assert metric(client, "timbre_route_weight", variant="candidate") == 0

        point_at(folders[2])
        assert until(lambda: metric(client, "timbre_load_failures_total") == 1)
        answer = client.get("/models").json()
        assert set(answer["variants"]) == {"stable", "better"}
        assert "22" in answer["problem"]
        assert metric(client, "timbre_routes_current") == 0
        assert client.get("/readyz").status_code == 200
        assert ask(client).status_code == 200

        put(folders[2] / "routes.yaml", ONE % 2)
        assert until(lambda: set(client.get("/models").json()["variants"]) == {"a"})
        assert metric(client, "timbre_routes_current") == 1
        assert ask(client, **{"Model-Version": "1"}).status_code == 404
        assert until(lambda: "Version 1 is no longer loaded" in service.log.read_text())
        assert client.get("/models").json()["problem"] == ""
        told = client.get("/metrics").text
        for gauge in ("timbre_queue_windows", "timbre_queue_oldest_seconds"):
            assert f'{gauge}{{version="2"}}' in told
            assert f'{gauge}{{version="1"}}' not in told


@pytest.fixture(scope="module")
def followed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Path]]:
    """A service, and the file that it follows."""
    folder = tmp_path_factory.mktemp("followed")
    (folder / "routes.yaml").write_text(ONE % 1)
    with running(folder / "log.txt", models=models, routes=folder / "routes.yaml") as service:
        yield service, folder / "routes.yaml"


@pytest.fixture
def log(followed: tuple[Service, Path]) -> Path:
    return followed[0].log


@pytest.fixture
def asking(followed: tuple[Service, Path]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=followed[0].url) as asking:
        yield asking


@pytest.fixture
def routes(followed: tuple[Service, Path], asking: httpx.Client) -> Path:
    """The file, which says that version 1 answers, and that is in force."""
    _, routes = followed
    put(routes, ONE % 1)
    assert until(lambda: ask(asking).json()["model_version"] == "1" and metric(asking, "timbre_routes_current") == 1)
    return routes


def failures(client: httpx.Client) -> float:
    return metric(client, "timbre_load_failures_total")


def test_what_could_not_be_loaded_yet_is_tried_again(
    models: Path, log: Path, asking: httpx.Client, routes: Path, tmp_path: Path
) -> None:
    """routes.yaml is a ConfigMap, the versions are a volume: either may change first."""
    late, before = models / "77", failures(asking)
    put(routes, ONE % 77)
    assert until(lambda: metric(asking, "timbre_routes_current") == 0)
    assert ask(asking).json()["model_version"] == "1"
    time.sleep(3)  # in which it is tried again, and told no second time
    assert failures(asking) == before + 1
    assert log.read_text().count(str(late)) == 1
    shutil.copytree(models / "1", tmp_path / "77")
    rewrite(tmp_path / "77", lambda _: None, version="77")
    (tmp_path / "77").rename(late)
    try:
        assert until(lambda: ask(asking).json()["model_version"] == "77", seconds=120)
    finally:
        shutil.rmtree(late)
    assert metric(asking, "timbre_routes_current") == 1
    assert failures(asking) == before + 1
    assert asking.get("/models").json()["problem"] == ""


@pytest.mark.parametrize("text", ["default: 2026-13-45", "default: !!int x", "[" * 3000], ids=["date", "tag", "depth"])
def test_a_file_that_no_parser_likes_is_told_and_the_next_one_followed(
    asking: httpx.Client, routes: Path, text: str
) -> None:
    before = failures(asking)
    put(routes, text)
    assert until(lambda: metric(asking, "timbre_routes_current") == 0)
    assert "is not YAML" in asking.get("/models").json()["problem"]
    assert failures(asking) == before + 1
    put(routes, ONE % 2)
    assert until(lambda: ask(asking).json()["model_version"] == "2")
    assert metric(asking, "timbre_routes_current") == 1


def test_a_file_that_is_gone_or_empty_moves_no_traffic(asking: httpx.Client, routes: Path) -> None:
    before = failures(asking)
    for spoil, told in ((routes.unlink, "is gone. Put it back"), (partial(put, routes, " \n"), "the file: ")):
        spoil()
        assert until(lambda told=told: told in asking.get("/models").json()["problem"]), told  # type: ignore[misc]
        assert metric(asking, "timbre_routes_current") == 0
        assert ask(asking).json()["model_version"] == "1"
        put(routes, ONE % 1)
        assert until(lambda: metric(asking, "timbre_routes_current") == 1)
    assert set(asking.get("/models").json()["variants"]) == {"a"}
    assert failures(asking) == before + 2


def test_a_live_stream_whose_version_goes_is_told_so(followed: tuple[Service, Path], routes: Path) -> None:
    url = followed[0].listen_url(rate_hz=16_000)
    with connect(url) as socket:
        assert json.loads(socket.recv())["model_version"] == "1"
        put(routes, ONE % 2)
        told = json.loads(socket.recv())
        assert (told["type"], told["error"]["code"]) == ("error", "version_retired")
        assert told["error"]["retry_after_s"] > 0
        with pytest.raises(ConnectionClosedError, match="1012"):
            socket.recv()
    with connect(url) as socket:
        assert json.loads(socket.recv())["model_version"] == "2"


def test_no_request_fails_while_versions_are_swapped(asking: httpx.Client, routes: Path) -> None:
    for version in "2121":
        put(routes, ONE % version)

        def is_answered_by_it(version: str = version) -> bool:
            response = ask(asking)
            assert response.status_code == 200
            return bool(response.json()["model_version"] == version)

        # Without a pause: some request is on its way when the versions change.
        end = time.monotonic() + 120
        while not is_answered_by_it():
            assert time.monotonic() < end
