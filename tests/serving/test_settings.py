from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import SettingsError
from serving.settings import Settings


def test_defaults() -> None:
    settings = Settings.from_environment({})
    assert (str(settings.host), settings.port, settings.grpc_port) == ("127.0.0.1", 3000, 3001)
    assert (settings.url, settings.grpc_url) == ("http://127.0.0.1:3000", "grpc://127.0.0.1:3001")
    assert settings.models == Path("exported")
    assert settings.max_upload_bytes == 25 * 2**20
    assert settings.limits.max_duration_s == 600


def test_values_come_from_the_environment() -> None:
    settings = Settings.from_environment(
        {"TIMBRE_HOST": "::1", "TIMBRE_PORT": "8080", "TIMBRE_MAX_DURATION_S": "2.5", "HOME": "/", "TIMBRE_DATA": "/d"}
    )
    assert (settings.url, settings.limits.max_duration_s) == ("http://[::1]:8080", 2.5)
    assert settings.grpc_url == "grpc://[::1]:3001"
    assert Settings.from_environment({"TIMBRE_GRPC_PORT": "0"}).grpc_url == ""
    pair = {"TIMBRE_TLS_CERT": "a.pem", "TIMBRE_TLS_KEY": "a.key"}
    assert Settings.from_environment(pair).grpc_url == "grpcs://127.0.0.1:3001"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TIMBRE_PROT", "1", "TIMBRE_PROT is not a setting. There are TIMBRE_HOST, TIMBRE_PORT"),
        ("TIMBRE_PORT", "0", "TIMBRE_PORT: .*greater than or equal to 1"),
        ("TIMBRE_PORT", "http", "TIMBRE_PORT: .*integer; 'http' came\\.$"),
        ("TIMBRE_UI", "maybe", "TIMBRE_UI: .*'on' or 'off'; 'maybe' came\\.$"),
        ("TIMBRE_HOST", "nowhere.example", "^TIMBRE_HOST: 'nowhere.example' is not an IP address such as [^;]*$"),
        ("TIMBRE_MAX_DURATION_S", "-1", "TIMBRE_MAX_DURATION_S: .*greater than 0"),
        ("TIMBRE_MAX_DURATION_S", "inf", "TIMBRE_MAX_DURATION_S"),
        ("TIMBRE_UPLOAD_TIMEOUT_S", "nan", "TIMBRE_UPLOAD_TIMEOUT_S"),
        ("TIMBRE_MAX_UPLOAD_MIB", "0", "TIMBRE_MAX_UPLOAD_MIB"),
    ],
)
def test_what_is_unknown_or_out_of_range_is_an_error(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings.from_environment({name: value})


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({"TIMBRE_PORT": "x", "TIMBRE_COLOUR": "red"})
    assert {"TIMBRE_PORT", "TIMBRE_COLOUR"} <= set(str(caught.value).replace(":", " ").split())
