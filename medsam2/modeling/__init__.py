"""SAM 2 itself in pure torch: classes take flat, typed keyword arguments and built submodules."""
