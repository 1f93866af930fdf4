"""Caching and quantising one model: each alone, both without knowing of each other, corrected, and searched together.

`python -m studies.precision --model demo` compares them at equal bit operations.
"""
