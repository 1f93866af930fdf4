"""What is written down beside results: provenance, whole files or none, and the lines on a terminal."""
