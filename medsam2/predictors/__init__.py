"""SAM 2's public inference interface under the names people know: NumPy in, NumPy out."""
