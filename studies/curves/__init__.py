"""What binds refinement where trajectories bend: its learning curves.

`python -m studies.curves` refines one searched plan anew for more and more iterations on more and more prompts, and
measures each on the fit, the select and the test split.
"""
