"""A plan for a pipeline at hand: cells of a notebook, in the form that editors and Jupytext read.

The embedded model stands for yours; any pipeline that is ready will do.
"""

# %%
import hyca_calib
from hyca_calib.demo import demo_pipeline, demo_prompts
from hyca_runtime import apply_plan

pipe = demo_pipeline()
prompts = [call["prompt"] for call in demo_prompts()]

# %% [markdown]
# Everything at once. It tells what it will take, and goes on where it stopped if the cell is run again.

# %%
plan = hyca_calib.calibrate(pipe, prompts, steps=20, budget="3x", effort="quick", out="studies/notebook")
certificate = plan.section.certificate
print(certificate)

# %% [markdown]
# Or step by step: one trace serves several budgets.

# %%
trace = hyca_calib.trace(pipe, prompts, steps=20, samples=28, batch=8, out="traces/notebook.zarr")
plans = {budget: hyca_calib.search(pipe, trace, budget=budget, effort="quick") for budget in ("2x", "4x")}
found = {budget: hyca_calib.evaluate(pipe, made) for budget, made in plans.items()}
for budget, figures in found.items():
    print(f"{budget}: {figures.agreement_db:.1f} dB, {figures.flops_ratio:.2f}x fewer FLOPs")

# %% [markdown]
# Does the plan hold for other runs?

# %%
verdict = hyca_calib.check(plan, trace).verdict
print(verdict)

# %% [markdown]
# Use it. At inference only `hyca_runtime` is needed.

# %%
with apply_plan(pipe, plan) as session:
    image = pipe(prompts[0], num_inference_steps=20).images[0]
    print(session.report())
