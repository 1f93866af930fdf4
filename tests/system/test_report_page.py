"""The report as a person meets it: in a browser, on a phone, without a mouse, without a network."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from storage import record

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.metrics import signal_to_error
from hyca_calib.report.figures import ReportFigures, figures_in
from hyca_calib.report.front import write_front
from hyca_calib.report.looks import error_shown
from hyca_calib.report.tiles import AMPLIFY
from hyca_calib.report.write import Summary, siblings, write_report
from hyca_calib.search.problem import Problem
from hyca_calib.search.run import search_preset
from hyca_calib.search.study import StudyFolder
from hyca_calib.trace.store import Trace
from hyca_runtime import load_plan, save_plan

ARTEFACTS = Path(__file__).parents[2] / ".artefacts"
"""Screenshots, for people to look at after a run of the tests."""


def reported(folder: Path, pipe: Any, workload: Workload, batch: int) -> tuple[Path, Summary]:
    """A study of a published recipe, with its report."""
    record(folder / "t.zarr", workload, pipe, batch=batch)
    trace = Trace(folder / "t.zarr")
    study = StudyFolder.open(folder / "study", {})
    search_preset(pipe, [Problem(trace)], Budget.parse("2x"), study, "hyca", "anchored")
    return study.report, write_report(pipe, study, [trace])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, workload: Workload) -> tuple[Path, Summary]:
    return reported(tmp_path_factory.mktemp("pictures"), tiny.pipeline(), workload, 4)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium as the distribution packages it."""
    selenium = pytest.importorskip("selenium.webdriver")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium and chromedriver: apt install chromium chromium-driver")
    from selenium.webdriver.chrome.service import Service

    options = selenium.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    profile = tmp_path_factory.mktemp("profile")
    quiet = ("background-networking", "component-update", "sync", "quic", "gpu", "dev-shm-usage")
    for argument in ("headless=new", "no-sandbox", "no-first-run", *(f"disable-{name}" for name in quiet)):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def opened(browser: Any, page: Path, width: int, height: int) -> Any:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.get(page.as_uri())
    return browser


def test_one_file_without_a_network(pictures: tuple[Path, Summary]) -> None:
    text = pictures[0].read_text()
    assert not re.findall(r'(?:src|href|srcset)="(?!data:)', text), "everything is inside"
    assert "<script" not in text
    assert text.count("data:image/png") >= 2 * 2, "pictures and differences of two select samples"


def test_it_says_what_was_gained_and_what_it_cost(pictures: tuple[Path, Summary]) -> None:
    page, summary = pictures
    plan, baselines, text = summary.wall.plan, summary.wall.baselines, page.read_text()
    assert plan.name == "plan"
    assert summary.page == page
    assert f"{plan.flops_ratio:.1f} times less compute" in text
    assert f"{plan.mean_db:.1f} dB" in text
    assert {tile.name for tile in baselines} <= {"fewer steps", "DPM-Solver++", "TaylorSeer"}
    assert baselines[0].mean_db == max(tile.mean_db for tile in baselines)
    assert summary.table().row_count == 1 + len(baselines)
    markdown = page.with_suffix(".md").read_text()
    for linked in re.findall(r"!\[.*?\]\((.*?)\)", markdown):
        assert (page.parent / linked).stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)], ids=["phone", "desk"])
def test_in_a_browser(pictures: tuple[Path, Summary], browser: Any, width: int, height: int) -> None:
    opened(browser, pictures[0], width, height)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width, "nothing sticks out"
    broken = "return [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.alt)"
    assert browser.execute_script(broken) == []
    assert browser.execute_script("return [...document.images].every(i => i.alt)")
    ARTEFACTS.mkdir(exist_ok=True)
    browser.save_screenshot(str(ARTEFACTS / f"report-{width}.png"))


@pytest.mark.slow
def test_without_a_mouse(pictures: tuple[Path, Summary], browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser, pictures[0], 1280, 900)
    body = browser.find_element("tag name", "body")
    body.send_keys(Keys.TAB)
    focused = browser.switch_to.active_element
    assert focused.get_attribute("id") == "pictures"
    shown = "return getComputedStyle(document.querySelector('picture.differences')).display"
    assert browser.execute_script(shown) == "none"
    focused.send_keys(Keys.ARROW_RIGHT)
    assert browser.switch_to.active_element.get_attribute("id") == "differences"
    assert browser.execute_script(shown) == "block"
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.tag_name == "summary"


@pytest.mark.slow
def test_clips_move_in_step(tmp_path: Path, motion: Any, browser: Any) -> None:
    prompts = tuple({"prompt": f"crab {what} on sky"} for what in ("rising", "falling", "turning"))
    page, summary = reported(tmp_path, motion, Workload(prompts, num_samples=7, num_steps=8), 2)
    text = page.read_text()
    assert "the clips are those of the full run" in text
    assert text.count("data:image/webp") == 2, "one row, as clips and as differences: all ways in one picture"
    assert text.count("prefers-reduced-motion") == 2
    opened(browser, page, 1280, 900)
    assert browser.get_log("browser") == []
    width = browser.execute_script("return document.querySelector('picture.pictures img').naturalWidth")
    assert width == (32 + 2) * len(summary.wall.columns) - 2


def test_time_series_are_curves_with_their_signal_to_error(tmp_path: Path) -> None:
    """From the trace to the page: nothing takes them for pictures."""
    workload = Workload(tiny.prompts(), num_samples=7, num_steps=8, seed=3)
    page, summary = reported(tmp_path, tiny.series(), workload, 4)
    text, wall = page.read_text(), summary.wall
    assert wall.full.samples.shape[1:] == (16, 48)
    assert "the curves are those of the full run" in text
    assert "signal-to-error ratio to the full run" in page.with_suffix(".md").read_text()
    assert not re.findall("PSNR|8 bits", text + page.with_suffix(".md").read_text())
    assert summary.table().columns[3].header == "signal-to-error ratio to the full run"
    assert wall.plan.agreement_db == pytest.approx(signal_to_error(wall.plan.samples, wall.full.samples))


def test_only_plans_of_the_same_model_are_beside_it(pictures: tuple[Path, Summary], tmp_path: Path) -> None:
    """With what their own reports have found of pictures, which a plan's quality, of latents, is not."""
    plan = load_plan(pictures[0].parent / "plan.json")
    found = ReportFigures(flops_ratio=2.5, agreement_db=33.0, measure="PSNR", num_samples=2)
    other = plan.section.model.model_copy(update={"config_digest": "0" * 64})
    for name, changed, figures in (
        ("own", {}, found),
        ("sibling", {}, found),
        ("without a report", {}, None),
        ("stranger", {"model": other}, found),
    ):
        (tmp_path / name).mkdir()
        section = plan.section.model_copy(update=changed)
        save_plan(plan.model_copy(update={"sections": (section,)}), tmp_path / name / "plan.json")
        if figures:
            figures.write(tmp_path / name)
    assert siblings(StudyFolder(tmp_path / "own"), plan.section) == [(2.5, 33.0)]


def test_a_front_has_the_figures_of_the_reports(pictures: tuple[Path, Summary], tmp_path: Path) -> None:
    page, summary = pictures
    plan = load_plan(page.parent / "plan.json")
    assert plan.section.quality is not None
    figures = figures_in(page.parent)
    assert figures is not None
    assert figures.agreement_db == summary.wall.plan.mean_db
    text = write_front([(page.parent / "plan.json", plan)], page.parent.parent).read_text()
    assert "| FLOPs ratio | computed steps | point | PSNR, dB | latent PSNR, dB | plan |" in text
    assert f"| {summary.wall.plan.mean_db:.1f} | {plan.section.quality.psnr_db:.1f} |" in text
    assert f"| {summary.wall.plan.mean_db:.1f} |" in page.with_suffix(".md").read_text()
    (tmp_path / "figures.json").write_text("{}")
    assert figures_in(tmp_path) is None


def test_differences_are_dark_on_white() -> None:
    clip = torch.full((1, 3, 2, 2), 0.5)
    assert torch.equal(error_shown(clip, clip), torch.ones_like(clip))
    torch.testing.assert_close(error_shown(clip + 0.01, clip), torch.full_like(clip, 1 - 0.01 * AMPLIFY))
