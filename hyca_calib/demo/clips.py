"""What the text-to-video demo pipelines share."""

from typing import Any

from diffusers.video_processor import VideoProcessor
from torch import Tensor

from hyca_calib.demo.motion.codec import BlockCodec
from hyca_calib.demo.sampling import FlowPipeline


class ClipPipeline(FlowPipeline):
    """Draws clips through a codec.

    Args:
        num_frames, frame_size: frames of a clip, and pixels of their sides, unless asked otherwise.
        modules: the pipeline's others by name; who inherits names them and their classes, which diffusers reads.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"

    def __init__(self, num_frames: int, frame_size: int, vae: BlockCodec, **modules: Any) -> None:
        super().__init__()
        self.register_modules(vae=vae, **modules)
        self.register_to_config(num_frames=num_frames, frame_size=frame_size)
        self.video_processor = VideoProcessor(vae_scale_factor=vae.config["side"])

    def decode(self, latents: Tensor, output_type: str) -> Any:
        """Latents ``(B, channels, F, H, W)`` of the codec to frames, as `output_type` says."""
        video = self.vae.decode(latents.to(self.vae.dtype))
        return self.video_processor.postprocess_video(video, output_type=output_type)
