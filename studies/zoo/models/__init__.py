"""A tiny model of every transformer class of diffusers.

To add one, write its configuration and the inputs of a call into the file of its family, or into a
new file that is named here.
"""

from importlib import import_module

FAMILIES = (
    "flux",
    "cogview",
    "dit",
    "lumina",
    "image",
    "kandinsky",
    "cosmos",
    "video_dit",
    "others",
    "audio",
    "video",
    "wan",
    "video_descendants",
)
"""In the order of the tables; Wan, HunyuanVideo, LTX and CogVideoX are in ``video``."""

for family in FAMILIES:
    import_module(f"{__name__}.{family}")
