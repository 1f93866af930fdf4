"""A custom-node folder of ComfyUI: load a plan, sample by it, and read what it did.

Link or copy this folder into ``ComfyUI/custom_nodes``, where hyca is installed in ComfyUI's environment.
"""

from hyca_runtime.integrations.comfyui.nodes import ApplyPlan, LoadPlan, PlanReport, PlanSigmas

NODE_CLASS_MAPPINGS = {
    "HycaLoadPlan": LoadPlan,
    "HycaApplyPlan": ApplyPlan,
    "HycaSigmas": PlanSigmas,
    "HycaReport": PlanReport,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "HycaLoadPlan": "Load plan (HyCa)",
    "HycaApplyPlan": "Apply plan to model (HyCa)",
    "HycaSigmas": "Sigmas of plan (HyCa)",
    "HycaReport": "Report of plan (HyCa)",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
