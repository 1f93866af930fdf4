"""Progress where there is no terminal: lines, but not too many."""

from __future__ import annotations

import itertools
import logging
from types import SimpleNamespace

import pytest

from hyca_calib.records.console import LINE_EVERY_S, OF_OTHERS, counting, quiet_others, stages


def test_a_log_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = itertools.count()
    monkeypatch.setattr("hyca_calib.records.console.time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    with stages(("confirm", "refine")) as tell:
        for done in range(100):
            tell("confirm", done / 100, f"latent PSNR {done}.00 dB")
        tell("confirm", 1.0, "9 rollouts")
        tell("confirm", 1.0, "9 rollouts")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 100 / LINE_EVERY_S + 1
    assert lines[0] == "confirm      9%  0:00:09  latent PSNR 9.00 dB"
    assert lines[-1] == "confirm    100%  0:01:40  9 rollouts"


def test_what_is_counted_is_told_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = itertools.count(step=4)
    monkeypatch.setattr("hyca_calib.records.console.time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    with counting("trace", 8) as advance:
        for _ in range(4):
            advance(2)
    with counting("verify", None) as advance:
        for _ in range(3):
            advance(1)
    assert capsys.readouterr().err.splitlines() == [
        "trace       75%  0:00:08  6 of 8",
        "trace      100%  0:00:12  8 of 8",
        "verify           0:00:08  3",
    ]


def test_what_others_say_of_themselves_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    quiet_others()
    for name in OF_OTHERS:
        logging.getLogger(name).warning("a kernel is not there")
        logging.getLogger(name).error("it is broken")
    assert [record.message for record in caplog.records] == ["it is broken"] * len(OF_OTHERS)
