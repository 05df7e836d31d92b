"""Sounds and files that the tests make for themselves; none of any corpus."""

from __future__ import annotations

from benchmarks.sounds import Sound as Sound
from benchmarks.sounds import encode as encode
from benchmarks.sounds import encode_av as encode_av
from benchmarks.sounds import speech as speech
from benchmarks.sounds import voice as voice
