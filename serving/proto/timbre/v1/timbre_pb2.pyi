from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PredictRequest(_message.Message):
    __slots__ = ("audio", "pcm", "options")
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    PCM_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    audio: bytes
    pcm: Pcm
    options: Options
    def __init__(self, audio: _Optional[bytes] = ..., pcm: _Optional[_Union[Pcm, _Mapping]] = ..., options: _Optional[_Union[Options, _Mapping]] = ...) -> None: ...

class Pcm(_message.Message):
    __slots__ = ("samples", "rate_hz")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    samples: bytes
    rate_hz: int
    def __init__(self, samples: _Optional[bytes] = ..., rate_hz: _Optional[int] = ...) -> None: ...

class Options(_message.Message):
    __slots__ = ("model_version", "key", "min_confidence", "filename")
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    MIN_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    model_version: str
    key: str
    min_confidence: float
    filename: str
    def __init__(self, model_version: _Optional[str] = ..., key: _Optional[str] = ..., min_confidence: _Optional[float] = ..., filename: _Optional[str] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("emotion", "confidence", "all_emotions", "filename", "model_version", "duration_s", "segments", "timing_ms")
    class AllEmotionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    EMOTION_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    ALL_EMOTIONS_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    TIMING_MS_FIELD_NUMBER: _ClassVar[int]
    emotion: str
    confidence: float
    all_emotions: _containers.ScalarMap[str, float]
    filename: str
    model_version: str
    duration_s: float
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    timing_ms: Timing
    def __init__(self, emotion: _Optional[str] = ..., confidence: _Optional[float] = ..., all_emotions: _Optional[_Mapping[str, float]] = ..., filename: _Optional[str] = ..., model_version: _Optional[str] = ..., duration_s: _Optional[float] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., timing_ms: _Optional[_Union[Timing, _Mapping]] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("start_s", "end_s", "emotion", "confidence", "all_emotions")
    class AllEmotionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    START_S_FIELD_NUMBER: _ClassVar[int]
    END_S_FIELD_NUMBER: _ClassVar[int]
    EMOTION_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    ALL_EMOTIONS_FIELD_NUMBER: _ClassVar[int]
    start_s: float
    end_s: float
    emotion: str
    confidence: float
    all_emotions: _containers.ScalarMap[str, float]
    def __init__(self, start_s: _Optional[float] = ..., end_s: _Optional[float] = ..., emotion: _Optional[str] = ..., confidence: _Optional[float] = ..., all_emotions: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("decode", "queue", "inference", "total")
    DECODE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    decode: float
    queue: float
    inference: float
    total: float
    def __init__(self, decode: _Optional[float] = ..., queue: _Optional[float] = ..., inference: _Optional[float] = ..., total: _Optional[float] = ...) -> None: ...

class PredictManyResponse(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[Answer]
    def __init__(self, answers: _Optional[_Iterable[_Union[Answer, _Mapping]]] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("prediction", "error", "variant", "request_id")
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    prediction: Prediction
    error: Error
    variant: str
    request_id: str
    def __init__(self, prediction: _Optional[_Union[Prediction, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., variant: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "retry_after_s", "utterance")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    UTTERANCE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    retry_after_s: float
    utterance: int
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., retry_after_s: _Optional[float] = ..., utterance: _Optional[int] = ...) -> None: ...

class ListenRequest(_message.Message):
    __slots__ = ("start", "frame")
    START_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    start: ListenStart
    frame: bytes
    def __init__(self, start: _Optional[_Union[ListenStart, _Mapping]] = ..., frame: _Optional[bytes] = ...) -> None: ...

class ListenStart(_message.Message):
    __slots__ = ("rate_hz", "options")
    RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    rate_hz: int
    options: Options
    def __init__(self, rate_hz: _Optional[int] = ..., options: _Optional[_Union[Options, _Mapping]] = ...) -> None: ...

class ListenResponse(_message.Message):
    __slots__ = ("session", "utterance_start", "measurement", "utterance_end", "error")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    UTTERANCE_START_FIELD_NUMBER: _ClassVar[int]
    MEASUREMENT_FIELD_NUMBER: _ClassVar[int]
    UTTERANCE_END_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    session: Session
    utterance_start: UtteranceStart
    measurement: Measurement
    utterance_end: UtteranceEnd
    error: Error
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., utterance_start: _Optional[_Union[UtteranceStart, _Mapping]] = ..., measurement: _Optional[_Union[Measurement, _Mapping]] = ..., utterance_end: _Optional[_Union[UtteranceEnd, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("rate_hz", "model_version", "hop_s", "window_s", "emotions")
    RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    HOP_S_FIELD_NUMBER: _ClassVar[int]
    WINDOW_S_FIELD_NUMBER: _ClassVar[int]
    EMOTIONS_FIELD_NUMBER: _ClassVar[int]
    rate_hz: int
    model_version: str
    hop_s: float
    window_s: float
    emotions: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, rate_hz: _Optional[int] = ..., model_version: _Optional[str] = ..., hop_s: _Optional[float] = ..., window_s: _Optional[float] = ..., emotions: _Optional[_Iterable[str]] = ...) -> None: ...

class UtteranceStart(_message.Message):
    __slots__ = ("utterance", "start_s")
    UTTERANCE_FIELD_NUMBER: _ClassVar[int]
    START_S_FIELD_NUMBER: _ClassVar[int]
    utterance: int
    start_s: float
    def __init__(self, utterance: _Optional[int] = ..., start_s: _Optional[float] = ...) -> None: ...

class Measurement(_message.Message):
    __slots__ = ("utterance", "start_s", "end_s", "emotion", "confidence", "all_emotions")
    class AllEmotionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    UTTERANCE_FIELD_NUMBER: _ClassVar[int]
    START_S_FIELD_NUMBER: _ClassVar[int]
    END_S_FIELD_NUMBER: _ClassVar[int]
    EMOTION_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    ALL_EMOTIONS_FIELD_NUMBER: _ClassVar[int]
    utterance: int
    start_s: float
    end_s: float
    emotion: str
    confidence: float
    all_emotions: _containers.ScalarMap[str, float]
    def __init__(self, utterance: _Optional[int] = ..., start_s: _Optional[float] = ..., end_s: _Optional[float] = ..., emotion: _Optional[str] = ..., confidence: _Optional[float] = ..., all_emotions: _Optional[_Mapping[str, float]] = ...) -> None: ...

class UtteranceEnd(_message.Message):
    __slots__ = ("utterance", "start_s", "end_s", "start_sample", "end_sample", "prediction", "variant", "request_id")
    UTTERANCE_FIELD_NUMBER: _ClassVar[int]
    START_S_FIELD_NUMBER: _ClassVar[int]
    END_S_FIELD_NUMBER: _ClassVar[int]
    START_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    END_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    utterance: int
    start_s: float
    end_s: float
    start_sample: int
    end_sample: int
    prediction: Prediction
    variant: str
    request_id: str
    def __init__(self, utterance: _Optional[int] = ..., start_s: _Optional[float] = ..., end_s: _Optional[float] = ..., start_sample: _Optional[int] = ..., end_sample: _Optional[int] = ..., prediction: _Optional[_Union[Prediction, _Mapping]] = ..., variant: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...
