"""What the sound model is trained on: short tunes of one instrument, made from sines and noise."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

RATE, LENGTH = 8_000, 8_192
"""Samples a second, and of a tune."""
PARTIALS = 12
NAMES = ("c", "cs", "d", "ds", "e", "f", "fs", "g", "gs", "a", "as", "b")
NOTES = {
    f"{name}{octave}": 440 * 2 ** ((12 * (octave - 4) + i - 9) / 12)
    for octave in (3, 4)
    for i, name in enumerate(NAMES)
}
"""Frequencies in Hz."""


@dataclass(frozen=True)
class Instrument:
    """How a note sounds.

    Attributes:
        partials: loudness of the overtones 1, 2, 3 ...
        attack, decay: seconds in which it swells to 63 %, and fades to 37 %; higher overtones fade earlier.
        stretch: overtone `n` is at ``n (1 + stretch n^2)`` times the note's frequency.
        vibrato: relative change of frequency, six times a second.
        breath: loudness of noise beside the tone.
    """

    partials: tuple[float, ...]
    attack: float = 0.005
    decay: float = 10.0
    stretch: float = 0.0
    vibrato: float = 0.0
    breath: float = 0.0


INSTRUMENTS = {
    "bell": Instrument((1, 0.6, 0.4, 0.5, 0.3, 0.3, 0.2), decay=0.35, stretch=0.03),
    "pluck": Instrument(tuple(1 / n for n in range(1, 13)), decay=0.2, stretch=0.0005),
    "organ": Instrument((1, 0.8, 0, 0.6, 0, 0, 0, 0.4), attack=0.02),
    "flute": Instrument((1, 0.3, 0.1), attack=0.06, vibrato=0.006, breath=0.03),
    "horn": Instrument((0.6, 1, 0.8, 0.6, 0.4, 0.3, 0.2), attack=0.09, vibrato=0.002),
    "reed": Instrument((1, 0, 0.7, 0, 0.5, 0, 0.3, 0, 0.2), attack=0.03, vibrato=0.003, breath=0.01),
}


@dataclass(frozen=True)
class Tune:
    """Up to three notes of one instrument, one after the other."""

    instrument: str
    notes: tuple[str, ...]

    @property
    def caption(self) -> str:
        return " ".join((self.instrument, *self.notes))


def vocabulary() -> list[str]:
    """All words of captions."""
    return [*INSTRUMENTS, *NOTES]


def drawn_tunes(count: int, seed: int) -> list[Tune]:
    """Different tunes of all instruments and lengths."""
    picker, found = random.Random(seed), dict[Tune, None]()
    while len(found) < count:
        notes = tuple(picker.choice(list(NOTES)) for _ in range(picker.randint(1, 3)))
        found[Tune(picker.choice(list(INSTRUMENTS)), notes)] = None
    return list(found)


def played(tune: Tune, generator: torch.Generator) -> Tensor:
    """A tune as a waveform ``(LENGTH,)`` within [-1, 1]; loudness, phases and noise are drawn anew."""
    instrument, sound = INSTRUMENTS[tune.instrument], torch.zeros(LENGTH)
    share = LENGTH // len(tune.notes)
    for number, note in enumerate(tune.notes):
        begin = number * share
        sound[begin:] += _note(instrument, NOTES[note], LENGTH - begin, share, generator)
    fade = torch.linspace(0, 1, 256)
    sound[-256:] *= fade.flip(0)
    loudness = 0.5 + 0.4 * torch.rand((), generator=generator)
    return loudness * sound / sound.abs().max()


def _note(instrument: Instrument, frequency: float, length: int, held: int, generator: torch.Generator) -> Tensor:
    """Held for so many samples, then released."""
    time = torch.arange(length) / RATE
    swell = 1 - torch.exp(-time / instrument.attack)
    release = torch.exp(-(time - held / RATE).clamp(min=0) / 0.03)
    wobble = instrument.vibrato * torch.sin(6 * 2 * torch.pi * time) / 6
    phases = 2 * torch.pi * torch.rand(PARTIALS, generator=generator)
    sound = instrument.breath * torch.randn(length, generator=generator)
    for n, loudness in enumerate(instrument.partials, 1):
        pitch = frequency * n * (1 + instrument.stretch * n * n)
        if pitch < RATE / 2:
            fading = torch.exp(-time * (1 + 0.3 * (n - 1)) / instrument.decay)
            sound += loudness * fading * torch.sin(2 * torch.pi * pitch * (time + wobble) + phases[n - 1])
    return swell * release * sound
