"""What `hyca_runtime.starter_plan` knows, and how it does.

`python -m studies.starter` learns its rule from the plans in ``studies/bench`` and measures it on the embedded models,
each by the rule of the two others.
"""
