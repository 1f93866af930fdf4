"""Every transformer class of diffusers, tiny and with random weights, and pipelines around them."""

from hyca_calib.zoo import flux_family, image, image_pipelines, others, video, video_pipelines
from hyca_calib.zoo.base import MODELS, PIPELINES, TinyModel, TinyPipeline

__all__ = [
    "MODELS",
    "PIPELINES",
    "TinyModel",
    "TinyPipeline",
    "flux_family",
    "image",
    "image_pipelines",
    "others",
    "video",
    "video_pipelines",
]
