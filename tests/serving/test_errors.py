from __future__ import annotations

from http import HTTPStatus

import pytest

from serving import errors

REQUEST_ERRORS = [
    error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, errors.RequestError) and error is not errors.RequestError
]
GRPC_STATUSES = {
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "INVALID_ARGUMENT",
    "RESOURCE_EXHAUSTED",
    "NOT_FOUND",
    "UNIMPLEMENTED",
    "UNAVAILABLE",
    "INTERNAL",
    "DEADLINE_EXCEEDED",
}


def test_every_code_is_used_once() -> None:
    codes = [error.code for error in REQUEST_ERRORS]
    assert len(codes) == len(set(codes)) > 10


@pytest.mark.parametrize("error", REQUEST_ERRORS)
def test_each_error_knows_both_statuses(error: type[errors.RequestError]) -> None:
    assert 400 <= HTTPStatus(error.http_status) < 600
    assert error.grpc_status in GRPC_STATUSES


def test_the_body_carries_code_message_and_details() -> None:
    error = errors.TooLarge("Too much.", max_bytes=7)
    assert error.body() == {"error": {"code": "too_large", "message": "Too much.", "max_bytes": 7}}
    assert str(error) == "Too much."
