"""DiCache, arXiv 2508.17356: a shallow probe of every call says whether the rest of it is computed."""
