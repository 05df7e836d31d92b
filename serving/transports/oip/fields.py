"""How many fields a message has on the wire, before the library makes objects of them.

An empty message in a message takes two bytes on the wire and a hundred in memory, and an integer one byte and eight:
within the limit of a message's size there is room for a gigabyte.
"""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from serving.errors import InvalidRequest, RequestError, TooLarge
from serving.proto.inference import inference_pb2 as pb

_MOST_FIELDS = 4096  # of all messages in a message; 256 clips have one each, or all of their samples together
_MOST_INTEGER_BYTES = 4096  # of a list of integers: shapes only are such
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # https://protobuf.dev/programming-guides/encoding/#structure
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_VARINT_BYTES = 10
_FLOATS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)


def unpack(message: bytes) -> pb.ModelInferRequest | RequestError:
    """The request, or why it is none: gRPC has no other way to be told that while it unpacks."""
    try:
        _count(memoryview(message), pb.ModelInferRequest.DESCRIPTOR, _MOST_FIELDS)
        return pb.ModelInferRequest.FromString(message)
    except DecodeError as error:
        return InvalidRequest(f"The message is no {pb.ModelInferRequest.DESCRIPTOR.full_name} ({error}).")
    except TooLarge as error:
        return error


def _count(message: memoryview, kind: Descriptor, left: int) -> int:
    """How many fields more there may be behind a message of a kind.

    Raises:
        TooLarge: it has more than are ``left``, or a list of too many integers.
        DecodeError: it is no message, or breaks off.
    """
    place = 0
    while place < len(message):
        if not left:
            raise TooLarge(
                f"The message has over {_MOST_FIELDS} fields. Send samples as one list or in raw_input_contents.",
                max_fields=_MOST_FIELDS,
            )
        left -= 1
        tag, place = _varint(message, place)
        wire = tag & 7
        if wire == _VARINT:
            _, place = _varint(message, place)
        elif wire == _LENGTH:
            size, place = _varint(message, place)
            field = kind.fields_by_number.get(tag >> 3)
            if field is not None:
                left = _look_into(message[place : place + size], field, left)
            place += size
        elif wire in _FIXED_BYTES:
            place += _FIXED_BYTES[wire]
        else:
            raise DecodeError(f"a field of wire type {wire}")
    if place > len(message):
        raise DecodeError("it breaks off")
    return left


def _look_into(content: memoryview, field: FieldDescriptor, left: int) -> int:
    """What :func:`_count` says of a field that has a length: a message, text, bytes, or a list of numbers."""
    if field.message_type is not None:
        return _count(content, field.message_type, left)
    is_text = field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    if not is_text and field.cpp_type not in _FLOATS and len(content) > _MOST_INTEGER_BYTES:
        raise TooLarge(
            f"{field.name} has {len(content)} bytes of integers; {_MOST_INTEGER_BYTES} are read. Send samples as FP32.",
            max_bytes=_MOST_INTEGER_BYTES,
        )
    return left


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """The integer that begins at a place, and where the next thing does."""
    value = 0
    for index, byte in enumerate(message[place : place + _VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, place + index + 1
    raise DecodeError("an integer breaks off")
