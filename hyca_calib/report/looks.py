"""What a person is shown of a sample: pictures and clips themselves, sound as a spectrogram, all else as curves."""

from typing import Literal

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from hyca_calib.pipelines.outputs import are_pictures
from hyca_calib.quality.metrics import peaks
from hyca_calib.report.drawing import bare
from hyca_calib.report.tiles import AMPLIFY

Look = Literal["pictures", "clips", "spectrograms", "curves"]
SOUND = 4096
"""Values on the longest axis from which a sample is shown by its frequencies."""
MOST_CURVES = 5
COLUMNS, FREQUENCIES, FLOOR_DB = 256, 128, -80.0
"""Pixels of a spectrogram, and what is shown as silence."""


def look_of(samples: Tensor) -> Look:
    """How samples ``(sample, ...)`` are shown; pictures are clips of one frame."""
    if are_pictures(samples):
        return "clips" if samples.shape[1] > 1 else "pictures"
    return "spectrograms" if max(samples.shape[1:], default=1) >= SOUND else "curves"


def shown(sample: Tensor, full: Tensor) -> Tensor:
    """A sample as a clip ``(frame, 3, height, width)`` in [0, 1], on the scale of the full run's."""
    if _is_clip(sample):
        return _colours(_scaled(sample, full))
    return _spectrogram(sample, full) if _series(full).shape[1] >= SOUND else _curves(sample, full)


def error_shown(sample: Tensor, full: Tensor) -> Tensor:
    """The difference of a sample from the full run's times `AMPLIFY`, as `shown`; of pictures dark on white."""
    if _is_clip(sample):
        return _colours(1 - (AMPLIFY * (_scaled(sample, full) - _scaled(full, full))).abs())
    error = AMPLIFY * (sample - full)
    return _spectrogram(error, full) if _series(full).shape[1] >= SOUND else _curves(error, full)


def _is_clip(sample: Tensor) -> bool:
    return sample.ndim == 4 and are_pictures(sample)


def _scaled(clip: Tensor, full: Tensor) -> Tensor:
    (peak,) = peaks(full[None])
    return clip if peak == 1 else (clip - full.min()) / peak


def _colours(clip: Tensor) -> Tensor:
    return clip[:, :3].expand(-1, 3, -1, -1).clamp(0, 1)


def _series(sample: Tensor) -> Tensor:
    """A sample as curves over its longest axis, ``(curve, time)``."""
    if not sample.ndim:
        return sample.reshape(1, 1)
    longest = int(np.argmax(sample.shape))
    return sample.movedim(longest, -1).reshape(-1, sample.shape[longest])


def _curves(sample: Tensor, full: Tensor) -> Tensor:
    curves = _series(sample)
    picked = np.unique(np.linspace(0, len(curves) - 1, MOST_CURVES).round().astype(int))
    figure = Figure(figsize=(2.4, 1.6), dpi=100)
    canvas, axes = FigureCanvasAgg(figure), figure.add_axes((0.17, 0.12, 0.8, 0.83))
    axes.plot(curves[picked].T.numpy(), lw=0.8)
    low, high = float(full.min()), float(full.max())
    if high > low:
        axes.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
    axes.tick_params(labelsize=5)
    bare(axes)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255


def _spectrogram(sample: Tensor, full: Tensor) -> Tensor:
    loudest = _power(full).max().clamp_min(1e-30)
    levels = 10 * (_power(sample) / loudest).clamp_min(1e-30).log10() / -FLOOR_DB + 1
    colours = colormaps["magma"](levels.clamp(0, 1).flip(0).numpy())[..., :3]
    return torch.from_numpy(colours).float().permute(2, 0, 1)[None]


def _power(sample: Tensor) -> Tensor:
    """Mean power of all curves by frequency and time, ``(frequency, time)``."""
    series, size = _series(sample), 2 * FREQUENCIES
    window = torch.hann_window(size)
    spectrum = torch.stft(
        series, size, max(1, series.shape[1] // COLUMNS), window=window, center=True, return_complex=True
    )
    return spectrum.abs().square().mean(0)
