"""The example of shared batches: pictures are what they are alone, and predicted steps cost no one a slot."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from plans import STEPS, changed, joint_plan, make_plan, probing_plan

from hyca_runtime import apply_plan, save_plan
from hyca_runtime.schedule import Schedule

EXAMPLE = Path(__file__).parents[2] / "docs/examples/batching.py"
SAMPLES = (("red heart", 0), ("blue cat", 1), ("green dog", 2), ("red star", 3))


@pytest.fixture(scope="module")
def batching() -> Any:
    return SimpleNamespace(**runpy.run_path(str(EXAMPLE), run_name="batching"))


def alone(prompt: str, seed: int) -> torch.Tensor:
    pipe = tiny.pipeline()
    with apply_plan(pipe, make_plan(pipe.transformer), "error"):
        generator = torch.Generator().manual_seed(seed)
        latents: torch.Tensor = pipe(
            prompt, num_inference_steps=STEPS, generator=generator, output_type="latent", return_dict=False
        )[0]
    return latents


def test_pictures_are_what_they_are_alone(batching: Any) -> None:
    """Requests begin three steps apart, so they compute and forecast beside each other in every way."""
    pipe = tiny.pipeline()
    packer = batching.Packer(pipe, make_plan(pipe.transformer))
    requests, sizes = [packer.request(*sample) for sample in SAMPLES], list[int]()
    pipe.transformer.transformer_blocks[0].register_forward_hook(lambda _, args, out: sizes.append(len(out[1])))
    for tick in range(STEPS + 3 * len(SAMPLES)):
        packer.advance([r for i, r in enumerate(requests) if 0 <= tick - 3 * i < STEPS])
        assert all(r.step == min(max(tick + 1 - 3 * i, 0), STEPS) for i, r in enumerate(requests)), "one step each"
    for request, sample in zip(requests, SAMPLES, strict=True):
        torch.testing.assert_close(request.latents, alone(*sample), rtol=1e-4, atol=1e-5)
    assert sum(sizes) == len(SAMPLES) * len(packer.schedule.computed_steps), "no forecast took part in a computed call"
    assert max(sizes) > 1, "some calls were shared"


COMPUTES = [step % 3 == 0 for step in range(50)]


def test_predicted_steps_leave_the_batch(batching: Any) -> None:
    """Times as on one CPU thread, where a call of n samples takes n times as long."""
    times = batching.CallTimes(tuple(0.04 * n for n in range(1, 5)), tuple(0.001 * n for n in range(1, 5)))
    served = batching.compare(COMPUTES, times, slots=4, requests=300, load=8)
    assert served["packed"].rate >= 1.8 * served["naive"].rate
    assert served["packed"].rate <= 1 / (17 * 0.04 + 33 * 0.001), "nobody is served faster than calls take"
    calm = batching.compare(COMPUTES, times, slots=4, requests=300, load=0.2)
    assert calm["packed"].rate == pytest.approx(calm["naive"].rate, rel=0.05), (
        "few requests: all are served as they come"
    )


def test_one_request_takes_what_its_calls_take(batching: Any) -> None:
    times = batching.CallTimes((2.0, 3.0), (0.5, 0.5))
    assert times.of(3, 0) == 5.0
    for turn in (batching.together, batching.packed):
        served = batching.simulate([1.0], COMPUTES, times, turn, slots=2, in_flight=8)
        assert served.latency == pytest.approx(17 * 2.0 + 33 * 0.5)


def test_two_requests_in_step_share_all_calls(batching: Any) -> None:
    times = batching.CallTimes((2.0, 3.0), (0.5, 0.5))
    for turn, waits in ((batching.together, False), (batching.together, True), (batching.packed, False)):
        served = batching.simulate([0.0, 0.0], COMPUTES, times, turn, slots=2, in_flight=2, waits=waits)
        assert served.latency == pytest.approx(17 * 3.0 + 33 * 0.5)


def test_it_runs(batching: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    main = batching.main
    monkeypatch.setitem(main.__globals__, "load_pipeline", lambda *_: tiny.pipeline())
    monkeypatch.setattr("sys.argv", ["batching.py", "--slots", "2", "--requests", "20"])
    main()
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("a computed call of 1 to 2, ms: ")
    assert len(told) == 8


def test_what_it_is_not_for_is_told(
    batching: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = tiny.pipeline().transformer
    told = {
        "another configuration": make_plan(tiny.pipeline(heads=4).transformer),
        "expected a static plan": probing_plan(transformer),
        "treats all guidance branches alike": joint_plan(transformer),
        "computes every step": changed(make_plan(transformer), schedule=Schedule.from_steps(STEPS, range(STEPS))),
    }
    path, main = str(tmp_path / "plan.json"), batching.main
    monkeypatch.setitem(main.__globals__, "load_pipeline", lambda *_: tiny.pipeline())

    def refused(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["batching.py", *arguments])
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().err

    for option in ("--slots", "--requests"):
        assert "expected 1 or more slots and requests" in refused(option, "0")
    for what, plan in told.items():
        save_plan(plan, path)
        assert what in refused("--plan", path)
