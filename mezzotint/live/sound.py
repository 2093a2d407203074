"""Sound as a transcriber hears it: int16 samples of one channel, `RATE` a second, whatever came in.

    WAV, PCM of 8, 16, 24 or 32 bits     its own rate and channels
    raw int16, little-endian             as `Form` says

Channels are averaged; other rates are resampled by soxr, which looks a little ahead: `Converter.end` has the rest.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

RATE = 16_000  # samples a second
CHUNK = 0.1  # seconds
RATES = (8_000, 192_000)
MOST_CHANNELS = 8
WIDTHS = (1, 2, 3, 4)  # bytes a sample
ALLOWED = "WAV with PCM of 8, 16, 24 or 32 bits, 8000 to 192000 samples a second, 1 to 8 channels"


@dataclass(frozen=True)
class Form:
    """rate: samples a second and channel; width: bytes of one. Raises ValueError for values out of range."""

    rate: int = RATE
    channels: int = 1
    width: int = 2

    def __post_init__(self) -> None:
        if not RATES[0] <= self.rate <= RATES[1]:
            raise ValueError(
                f"the sound has {self.rate} samples a second; from {RATES[0]} to {RATES[1]} can be resampled"
            )
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise ValueError(f"the sound has {self.channels} channels; 1 to {MOST_CHANNELS} can be mixed down")
        if self.width not in WIDTHS:
            raise ValueError(f"a sample of the sound has {8 * self.width} bits; 8, 16, 24 or 32 are read")

    @property
    def frame(self) -> int:
        """Bytes of one sample of every channel."""
        return self.channels * self.width


class Converter:
    """Bytes of a form as PCM of `RATE`, chunk by chunk. Raises ValueError where another rate needs soxr and it is not there."""

    def __init__(self, form: Form) -> None:
        self.form, self._rest = form, b""
        self._resampler: Any = None
        if form.rate != RATE:
            try:
                import soxr
            except ImportError:
                raise ValueError(
                    f"the sound has {form.rate} samples a second; give {RATE}, or install soxr, which resamples: "
                    "pip install 'mezzotint[speech]'"
                ) from None
            self._resampler = soxr.ResampleStream(form.rate, RATE, 1, dtype="float32")

    def feed(self, data: bytes) -> bytes:
        """What of it is whole; half a sample waits for its other half."""
        return self._convert(data, False)

    def end(self) -> bytes:
        return self._convert(b"", True)

    def _convert(self, data: bytes, last: bool) -> bytes:
        data, size = self._rest + data, self.form.frame
        whole = len(data) - len(data) % size
        data, self._rest = data[:whole], data[whole:]
        if self.form == Form():
            return data
        mixed = _samples(data, self.form.width).reshape(-1, self.form.channels).mean(1, dtype=np.float32)
        if self._resampler is not None:
            mixed = self._resampler.resample_chunk(mixed, last)
        return (mixed * 32768).round().clip(-32768, 32767).astype("<i2").tobytes()


def _samples(data: bytes, width: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """From -1 to 1."""
    if width == 1:  # unsigned, the only one
        return (np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
    if width == 3:
        parts = np.frombuffer(data, np.uint8).reshape(-1, 3)
        data = np.concatenate((np.zeros((len(parts), 1), np.uint8), parts), 1).tobytes()
    bits = 16 if width == 2 else 32
    return np.frombuffer(data, f"<i{bits // 8}").astype(np.float32) / np.float32(2 ** (bits - 1))


def pcm(stream: BinaryIO, name: str, raw: Form | None = None) -> Iterator[bytes]:
    """Sound as PCM of `RATE`, about `CHUNK` seconds at a time, while it arrives. raw: the form of sound without a header.

    name: for messages. Raises ValueError for what is no WAV, or one in another encoding.
    """
    if raw is not None:
        yield from _converted(stream, raw)
        return
    try:
        with wave.open(stream) as file:
            form = Form(file.getframerate(), file.getnchannels(), file.getsampwidth())
            yield from _converted(_Frames(file, form), form)
    except (wave.Error, EOFError) as error:
        told = str(error) or "it ends too soon"
        raise ValueError(f"{name} cannot be read as WAV ({told}); allowed: {ALLOWED}") from None


def seconds(data: bytes | bytearray) -> float:
    """How long PCM of `RATE` lasts."""
    return len(data) / 2 / RATE


class _Frames(io.RawIOBase):
    """A WAV's frames as a stream of bytes."""

    def __init__(self, file: wave.Wave_read, form: Form) -> None:
        self._file, self._form = file, form

    def read(self, size: int = -1) -> bytes:
        return self._file.readframes(size // self._form.frame)


def _converted(stream: Any, form: Form) -> Iterator[bytes]:
    converter = Converter(form)
    size = round(CHUNK * form.rate) * form.frame
    while data := stream.read(size):
        if found := converter.feed(data):
            yield found
    if found := converter.end():
        yield found
