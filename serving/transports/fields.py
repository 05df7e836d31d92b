"""What is in a message over gRPC, counted on the wire before the library makes objects of it.

An empty message in a message takes two bytes on the wire and a hundred in memory, and an integer one byte and eight:
within the limit of a message's size there is room for a gigabyte. Of a field that comes again and again the library
shows the last only, and keeps them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from serving.errors import InvalidRequest, RequestError, TooLarge

M = TypeVar("M", bound=Message)

_MOST_INTEGER_BYTES = 4096  # of all lists of integers in a message: shapes only are such
_FIELD_BYTES, _INTEGER_BYTES = 100, 8  # what each takes in memory, at most
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # https://protobuf.dev/programming-guides/encoding/#structure
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_VARINT_BYTES = 10
_FLOATS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)


@dataclass(frozen=True)
class Came(Generic[M]):
    """A message that came, or why it is none: gRPC has no other way to be told that while it unpacks."""

    unpacked: M | RequestError
    wire_bytes: int
    """Its length as it came."""
    kept_bytes: int
    """What it takes in memory, at most."""

    @property
    def message(self) -> M:
        """What it says.

        Raises:
            TooLarge: it has too many fields, or integers.
            InvalidRequest: it is no such message.
        """
        if isinstance(self.unpacked, RequestError):
            raise self.unpacked
        return self.unpacked


def unpacker(kind: type[M], most_fields: int) -> Callable[[bytes], Came[M]]:
    """What gRPC unpacks messages of a kind with.

    Args:
        most_fields: that a message may have, with all those in it.
    """
    return partial(_unpack, kind, most_fields)


def _unpack(kind: type[M], most_fields: int, wire: bytes) -> Came[M]:
    contents = _Contents(most_fields)
    try:
        contents.count(memoryview(wire), kind.DESCRIPTOR)  # type: ignore[arg-type]  # of either implementation, which are alike
        unpacked: M | RequestError = kind.FromString(wire)
    except DecodeError as error:
        unpacked = InvalidRequest(f"The message is no {kind.DESCRIPTOR.full_name} ({error}).")
    except TooLarge as error:
        unpacked = error.with_traceback(None)  # which has the message, and stays as long as the refusal does
    return Came(unpacked, len(wire), len(wire) + contents.extra_bytes)


class _Contents:
    """What has been counted of one message."""

    def __init__(self, most_fields: int) -> None:
        self._most_fields = most_fields
        self._fields = self._integer_bytes = self._float_bytes = self._float_pieces = 0

    @property
    def extra_bytes(self) -> int:
        """By how much more than on the wire it takes in memory, at most."""
        copied = 2 if self._float_pieces > 1 else 0  # a list that grows is, to twice the room; its past is kept
        return self._fields * _FIELD_BYTES + self._integer_bytes * _INTEGER_BYTES + self._float_bytes * copied

    def count(self, message: memoryview, kind: Descriptor) -> None:
        """The fields of a message of a kind, and of those in it.

        Raises:
            TooLarge: too many, or too many integers in lists.
            DecodeError: it is no message, or breaks off.
        """
        place = 0
        while place < len(message):
            self._count_field()
            tag, place = _varint(message, place)
            wire = tag & 7
            if wire == _VARINT:
                _, place = _varint(message, place)
            elif wire == _LENGTH:
                size, place = _varint(message, place)
                field = kind.fields_by_number.get(tag >> 3)
                if field is not None:
                    self._look_into(message[place : place + size], field)
                place += size
            elif wire in _FIXED_BYTES:
                place += _FIXED_BYTES[wire]
            else:
                raise DecodeError(f"a field of wire type {wire}")
        if place > len(message):
            raise DecodeError("it breaks off")

    def _count_field(self) -> None:
        self._fields += 1
        if self._fields > self._most_fields:
            raise TooLarge(
                f"The message has over {self._most_fields} fields. Send samples as bytes or as one list.",
                max_fields=self._most_fields,
            )

    def _look_into(self, content: memoryview, field: FieldDescriptor) -> None:
        """What :meth:`count` says of a field that has a length: a message, text, bytes, or a list of numbers."""
        if field.message_type is not None:
            self.count(content, field.message_type)
        elif field.cpp_type in _FLOATS:
            self._float_bytes += len(content)
            self._float_pieces += 1
        elif field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            self._integer_bytes += len(content)
            if self._integer_bytes > _MOST_INTEGER_BYTES:
                raise TooLarge(
                    f"The message has over {_MOST_INTEGER_BYTES} bytes of integers, the last of them in {field.name}. "
                    "Send samples as FP32.",
                    max_bytes=_MOST_INTEGER_BYTES,
                )


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """The integer that begins at a place, and where the next thing does."""
    value = 0
    for index, byte in enumerate(message[place : place + _VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, place + index + 1
    raise DecodeError("an integer breaks off")
