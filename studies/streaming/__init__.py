"""What chunks of a video gain by decisions, plans and kept keys of their own, on the embedded streaming model.

``python -m studies.streaming`` measures it, see `studies.streaming.chapters`. A killed run goes on: every number is
kept in ``notebook.json`` as soon as it is there.
"""
