"""Every transformer class of diffusers, tiny and with random weights, and pipelines around them.

A new class of diffusers is one entry in a file of ``models``, a new pipeline one in a file of
``pipelines``, whose networks are those of ``models``.
"""

from studies.zoo import models, pipelines
from studies.zoo.base import MODELS, PIPELINES, TinyModel, TinyPipeline

__all__ = ["MODELS", "PIPELINES", "TinyModel", "TinyPipeline", "models", "pipelines"]
