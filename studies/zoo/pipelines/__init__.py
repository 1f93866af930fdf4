"""Tiny pipelines: real diffusers pipelines, random weights, prompts given as embeddings.

Guidance is on wherever the pipeline has one, and prompts differ in length where it allows that. To
add one, write its components and the arguments of a call into the file of its family.
"""

from importlib import import_module

FAMILIES = ("flux", "qwen", "image", "video", "video_descendants")
"""In the order of the table."""

for family in FAMILIES:
    import_module(f"{__name__}.{family}")
