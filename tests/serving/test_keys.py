from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from serving.errors import Forbidden, RateLimited, SettingsError, Unauthenticated
from serving.keys import Guard, Scope, hashed, new_key
from serving.metrics import Metrics
from serving.settings import Settings
from serving.transports.admission import credential_of, is_foreign, use_of

APP, OLD, NEW = new_key(), new_key(), new_key()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_text(
        f"keys:\n  app: {{sha256: {hashed(APP)}, per_minute: 60}}\n"
        f"  people: {{sha256: [{hashed(OLD)}, {hashed(NEW)}], scopes: [predict, feedback]}}\n"
    )
    return path


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def guard(file: Path | None, exempt: frozenset[Scope] = frozenset(), clock: Clock | None = None) -> Guard:
    return Guard(file, exempt, Metrics(), clock or Clock())


def test_without_a_file_everybody_may_everything() -> None:
    for scope in Scope:
        guard(None).admit(None, scope)


def test_a_key_opens_what_it_is_for(file: Path) -> None:
    doors = guard(file)
    doors.admit(APP, Scope.PREDICT)
    for key in (OLD, NEW):
        doors.admit(key, Scope.FEEDBACK)
    doors.admit(APP, Scope.HEALTH)
    for scope in (Scope.MODELS, Scope.FEEDBACK, Scope.EXPERIMENTS, Scope.METRICS):
        with pytest.raises(Forbidden, match=f"key app is for predict, not for {scope}"):
            doors.admit(APP, scope)


@pytest.mark.parametrize(
    "wrong",
    [None, "", "timbre_", APP[:-1], APP + "x", hashed(APP), "x" * 1_000_000, "\0é"],
    ids=["none", "empty", "prefix", "shorter", "longer", "its hash", "endless", "binary"],  # keys differ at every start
)
def test_nothing_else_opens_anything(file: Path, wrong: str | None) -> None:
    with pytest.raises(Unauthenticated) as refused:
        guard(file).admit(wrong, Scope.HEALTH)
    assert not wrong or wrong not in refused.value.message


def test_what_is_exempt_needs_no_key(file: Path) -> None:
    doors = guard(file, frozenset({Scope.METRICS}))
    doors.admit(None, Scope.METRICS)
    with pytest.raises(Unauthenticated):
        doors.admit(None, Scope.HEALTH)


def test_a_rate_is_kept_and_comes_back(file: Path) -> None:
    clock = Clock()
    doors = guard(file, clock=clock)
    for _ in range(10):  # ten seconds' worth at once
        doors.admit(APP, Scope.PREDICT)
    with pytest.raises(RateLimited, match="60 calls a minute") as refused:
        doors.admit(APP, Scope.PREDICT)
    assert refused.value.details["retry_after_s"] == 1
    doors.admit(OLD, Scope.PREDICT)  # others have their own
    clock.now_s += 1
    doors.admit(APP, Scope.PREDICT)
    with pytest.raises(RateLimited):
        doors.admit(APP, Scope.PREDICT)


def test_the_file_is_followed_and_a_wrong_one_changes_nothing(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    doors, text = guard(file), file.read_text()
    for wrong in ("keys: [", "keys: {app: {sha256: 12}}", "", "\0"):
        file.write_text(wrong)
        doors.follow()
        doors.admit(APP, Scope.PREDICT)
    assert "stay as they were" in caplog.text
    assert hashed(APP) not in caplog.text
    file.unlink()
    doors.follow()
    doors.admit(APP, Scope.PREDICT)
    file.write_text(text.replace(hashed(OLD), hashed(new_key())))
    doors.follow()
    doors.admit(NEW, Scope.PREDICT)
    with pytest.raises(Unauthenticated):
        doors.admit(OLD, Scope.PREDICT)


def test_a_file_that_a_kubelet_exchanges_is_followed(file: Path, tmp_path: Path) -> None:
    """A Secret's mount: the name leads through a link to a folder, and the link is what is exchanged."""
    for folder, key in {"..1": OLD, "..2": NEW}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file.name).write_text(f"keys: {{app: {{sha256: {hashed(key)}}}}}")
    data = tmp_path / "..data"
    data.symlink_to("..1")
    file.unlink()
    file.symlink_to(f"..data/{file.name}")
    doors = guard(file)
    doors.admit(OLD, Scope.PREDICT)
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").replace(data)
    doors.follow()
    doors.admit(NEW, Scope.PREDICT)
    with pytest.raises(Unauthenticated):
        doors.admit(OLD, Scope.PREDICT)


def test_a_change_elsewhere_gives_no_new_rate(file: Path) -> None:
    doors = guard(file)
    for _ in range(10):
        doors.admit(APP, Scope.PREDICT)
    file.write_text(file.read_text() + f"  other: {{sha256: {hashed(new_key())}}}\n")
    doors.follow()
    with pytest.raises(RateLimited):
        doors.admit(APP, Scope.PREDICT)


@pytest.mark.parametrize(
    "text", ["keys: {a b: {sha256: x}}", "keys: {app: {sha256: []}}", "key: {}", "keys: {app: {sha256: abc}}", "- 1"]
)
def test_a_file_that_is_none_is_told_at_start(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"keys\.yaml"):
        guard(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        guard(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("path", "use"),
    [
        ("/predict", Scope.PREDICT),
        ("/predict/", Scope.PREDICT),
        ("/v2/models/timbre/infer", Scope.PREDICT),
        ("/v2/models/timbre/ready", Scope.HEALTH),
        ("/v2/models/timbre/versions/2/ready", Scope.HEALTH),
        ("/v2/models/timbre", Scope.PREDICT),
        ("/v2/models/ready", Scope.PREDICT),
        ("/v2/models/timbre/versions/ready", Scope.PREDICT),
        ("/v2/models/timbre/infer/ready", Scope.PREDICT),
        ("/v2/repository/index", Scope.MODELS),
        ("/v2/health/ready", Scope.HEALTH),
        ("/metrics", Scope.METRICS),
        ("/ui/models/2", Scope.MODELS),
        ("/ui/main.js", None),
        ("/", None),
        ("/docs/assets/swagger-ui.css", None),
        ("/docsify", Scope.PREDICT),
        ("/something/new", Scope.PREDICT),
        ("//", Scope.PREDICT),
    ],
)
def test_each_path_has_its_use_and_an_unknown_one_is_no_open_door(path: str, use: Scope | None) -> None:
    assert use_of(path) is use


def test_a_path_of_slashes_costs_no_more_than_another() -> None:
    tracemalloc.start()
    try:
        uses = {use_of(path) for path in ("/" * 60_000, "/predict/" + "x/" * 30_000)}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert uses == {Scope.PREDICT}
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, (None, False)),
        ({"Authorization": "Bearer k"}, ("k", False)),
        ({"authorization": "bearer  k "}, ("k", False)),
        ({"X-API-Key": "k", "Authorization": "Bearer other"}, ("k", False)),
        ({"Authorization": "Basic OnRpbWJyZV9r"}, ("timbre_k", True)),
        ({"Authorization": "Basic !"}, ("", True)),
        ({"Authorization": "Digest k"}, (None, False)),
    ],
)
def test_where_a_key_is_looked_for(headers: dict[str, str], expected: tuple[str | None, bool]) -> None:
    assert credential_of(Headers(headers)) == expected


def test_whose_page_asks() -> None:
    own = {"host": "timbre.example"}
    assert not is_foreign(Headers(own), ())
    assert not is_foreign(Headers({**own, "origin": "https://timbre.example"}), ())
    assert is_foreign(Headers({**own, "origin": "https://evil.example"}), ())
    assert is_foreign(Headers({**own, "origin": "null"}), ())
    assert not is_foreign(Headers({**own, "origin": "https://app.example"}), ("https://app.example",))


def test_a_warning_where_everybody_may_come_in(tmp_path: Path) -> None:
    assert "Everybody who reaches 0.0.0.0" in Settings(host="0.0.0.0").warning  # noqa: S104 - what is warned of
    for quiet in (Settings(), Settings(host="::1"), Settings(host="0.0.0.0", api_keys_file="keys.yaml")):  # noqa: S104
        assert quiet.warning == ""


@pytest.mark.parametrize("settings", [{"CORS": "example.org"}, {"CORS": "https://a/b"}, {"API_KEYS_EXEMPT": "all"}])
def test_wrong_settings(settings: dict[str, str]) -> None:
    with pytest.raises(SettingsError):
        Settings.from_environment({f"TIMBRE_{name}": value for name, value in settings.items()})
