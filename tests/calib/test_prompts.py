"""Prompt files as people write them, and what their pictures become."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run
from diffusers import FluxImg2ImgPipeline
from diffusers.utils import load_image
from PIL import Image

from hyca_calib.pipelines.given import given_calls
from hyca_calib.pipelines.media import load_media
from hyca_calib.pipelines.prompts import read_prompts
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job, Workload
from hyca_runtime.errors import WorkloadError
from studies.zoo import PIPELINES

TWO = ({"prompt": "one"}, {"prompt": "two words"})


@pytest.mark.parametrize(
    "content",
    [
        b"one\n\n two words \n",
        b"one\r\n\r\ntwo words\r\n",
        b"one\rtwo words",
        b"\xef\xbb\xbfone\ntwo words",
        b"\xef\xbb\xbfone\n\xef\xbb\xbftwo words",  # two such files, put together
        "one\r\ntwo words\r\n".encode("utf-16"),
        "one\ntwo words\n".encode("utf-16-be").join([b"\xfe\xff", b""]),
        "\u200bone\u200e\n\u2060\n \u00a0 \n\u200b\ntwo words\ufeff\n".encode(),
    ],
)
def test_text_of_all_systems(tmp_path: Path, content: bytes) -> None:
    """Neither a byte order mark nor what nobody sees is a prompt or a part of one."""
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    assert read_prompts(path) == TWO


@pytest.mark.parametrize("text", ["a\u2028b", "a\x0cb", "a\x85b", "a\x1cb", "a \u2764\ufe0f\u200d\U0001f525", "a\tb"])
def test_what_is_no_line_end_stays_in_the_prompt(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.txt").write_text(f"{text}\nend\n", newline="")
    assert read_prompts(tmp_path / "p.txt") == ({"prompt": text}, {"prompt": "end"})
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": text}, ensure_ascii=False) + "\n", newline="")
    if text.isprintable():
        assert read_prompts(tmp_path / "p.jsonl") == ({"prompt": text},)


def test_a_prompt_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else one prompt may be in several splits."""
    path = tmp_path / "prompts.txt"
    path.write_text("a\nb\na\nc\na\n")
    assert [call["prompt"] for call in read_prompts(path)] == ["a", "b", "c"]
    assert "2 of 5 prompts are there already" in capsys.readouterr().err
    assert given_calls(["a", {"prompt": "a"}, "b"]) == ({"prompt": "a"}, {"prompt": "b"})


def test_flags_keep_their_last_sign(tmp_path: Path) -> None:
    flag = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
    (tmp_path / "p.txt").write_text(flag)
    assert read_prompts(tmp_path / "p.txt") == ({"prompt": flag},)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"\n", "no prompts"),
        ("a.txt", b"\xef\xbb\xbf\r\n\xe2\x80\x8b", "no prompts"),
        ("a.txt", "caf\u00e9".encode("latin-1"), "save the file as UTF-8"),
        ("a.txt", "one".encode("utf-16-le"), "zero bytes in it; save the file as UTF-8"),
        ("a.jsonl", b'{"prompt": "a"}\n\n{"prompt": ', "line 3: not JSON"),
        ("a.jsonl", b"[1]\n", "expected an object"),
        ("a.jsonl", b'{"num_inference_steps": 4}', "line 1: num_inference_steps cannot be given here, .*--steps"),
        ("a.jsonl", b'{"generator": 3}', "generator cannot be given here, noise comes of --seed"),
        ("a.jsonl", b'{"output_type": "pil"}', "output_type cannot be given here"),
        ("a.jsonl", b'{"num_images_per_prompt": 2}', "num_images_per_prompt cannot be given here.*raise --samples"),
        ("a.jsonl", b'{"image": "cat.png"}', "line 1: image: .*cat.png: no such file; names are relative to the file"),
        ("a.jsonl", b'{"image": "https://x.org/cat.png"}', "is on another machine; copy it"),
        ("a.jsonl", b'{"image": "https://x.org/cat?id=3"}', "https://x.org/cat.id=3 is a URL or is on another machine"),
        ("a.jsonl", b'{"image": "file:///pictures/cat.png"}', "file:///pictures/cat.png is a URL"),
        ("a.jsonl", b'{"prompt": "a", "prompt": "b"}', "line 1: not JSON: prompt is there twice"),
        ("a.jsonl", b'{"guidance_scale": NaN}', "line 1: not JSON: NaN is no number"),
        ("a.JSONL", b'{"prompt": ', "line 1: not JSON"),
        ("a.json", b'[\n{"prompt": "a"}\n]', "JSON in it; expected a name that ends in .jsonl"),
        ("a.txt", b'{"prompt": "a"}', "JSON in it; expected a name that ends in .jsonl"),
        ("a.jsonl", b'{"mask_image": ["no.jpg"]}', "mask_image: .*no.jpg: cannot load it: UnidentifiedImageError"),
    ],
)
def test_bad_prompt_files(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "no.jpg").write_bytes(b"no picture")
    with pytest.raises(WorkloadError, match=reason) as caught:
        read_prompts(tmp_path / name)
    assert "\n" not in str(caught.value)
    with pytest.raises(WorkloadError, match="cannot read"):
        read_prompts(tmp_path / "none.txt")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A file whose lines name a picture, a mask, a list, a clip, and what only looks like a file."""
    (tmp_path / "pictures").mkdir()
    for name, colour in (("cat.png", "red"), ("mask.jpg", "white"), ("dog.webp", "blue")):
        Image.new("RGB", (32, 32), colour).save(tmp_path / "pictures" / name)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "white", "blue")]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    calls: list[dict[str, Any]] = [
        {"prompt": "say cat.png", "image": "pictures/cat.png", "num_frames": 9, "num_images_per_prompt": 1},
        {"image": ["pictures/cat.png", "pictures/dog.webp"], "mask_image": "pictures/mask.jpg"},
        {"video": "clip.gif", "image": "clip.gif", "image_style": "bold"},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(call) for call in calls))
    return tmp_path / "p.jsonl"


def test_pictures_and_videos_are_loaded_as_diffusers_does(prompts: Path) -> None:
    first, second, third = (load_media(call) for call in read_prompts(prompts))
    cat = load_image(str(prompts.parent / "pictures" / "cat.png"))
    assert first["image"] == cat
    assert (first["prompt"], first["num_frames"]) == ("say cat.png", 9)
    assert second["image"] == [cat, load_image(str(prompts.parent / "pictures" / "dog.webp"))]
    assert second["mask_image"].size == (32, 32)
    assert [frame.mode for frame in third["video"]] == ["RGB"] * 3
    assert third["image"].size == (8, 8)
    assert third["image_style"] == "bold"


def test_samples_depend_on_what_files_hold_not_on_where_they_lie(prompts: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(prompts.parent / "pictures", elsewhere / "pictures")
    for name in ("p.jsonl", "clip.gif"):
        shutil.copy(prompts.parent / name, elsewhere / name)
    here, there = (Workload(read_prompts(path)) for path in (prompts, elsewhere / "p.jsonl"))
    assert here.digest == there.digest
    Image.new("RGB", (32, 32), "green").save(elsewhere / "pictures" / "cat.png")
    assert Workload(read_prompts(elsewhere / "p.jsonl")).digest != here.digest
    with pytest.raises(WorkloadError, match=r"cat.png is not the file it was when the prompts were read"):
        load_media(there.prompts[0])


class Worded(FluxImg2ImgPipeline):  # type: ignore[misc]
    """Diffusers' own pipeline; only the text encoder is another one."""

    def encode_prompt(self, prompt: list[str], **_: Any) -> tuple[torch.Tensor, ...]:
        noise = [torch.randn(8, 32, generator=torch.Generator().manual_seed(len(text))) for text in prompt]
        words = torch.stack(noise)
        return words, words[:, 0], torch.zeros(8, 3)


def edited() -> Any:
    pipe = PIPELINES["FLUX.1 image to image"].build()
    pipe.__class__ = Worded
    return pipe


def test_a_picture_of_a_prompt_file_reaches_the_pipeline(prompts: Path) -> None:
    call = {"prompt": "red heart", "image": "pictures/cat.png", "strength": 0.6, "height": 32, "width": 32}
    prompts.write_text("\n".join(json.dumps({**call, "image": f"pictures/{n}"}) for n in ("cat.png", "dog.webp")))
    pipe, jobs = edited(), [Job(i, "test", 0, found) for i, found in enumerate(read_prompts(prompts))]
    ours = sample_latents(pipe, jobs, 4, batch=2)
    for job, name in zip(jobs, ("cat.png", "dog.webp"), strict=True):
        given = {**call, "prompt": ["red heart"], "image": load_image(str(prompts.parent / "pictures" / name))}
        noise = [torch.Generator().manual_seed(0)]
        (direct,) = pipe(**given, num_inference_steps=4, generator=noise, output_type="latent", return_dict=False)
        assert torch.equal(ours[job.index], direct[0].float())
    assert not torch.equal(ours[0], ours[1])


def test_the_number_of_prompts_is_told(prompts: Path) -> None:
    prompts.with_name("p.txt").write_text("a\rb\rc")
    done = run("trace", "--model", "tiny:broken", "--prompts", prompts.with_name("p.txt"), "--samples", 7)
    assert done.exit_code == 2
    told, error = done.stderr.splitlines()
    assert told == f"{prompts.with_name('p.txt')}: 3 prompts"
    assert error.startswith("error: WorkloadError: model 'tiny:broken': the factory failed with KeyError")
