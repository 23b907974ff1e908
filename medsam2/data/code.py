"""What decodes cases, as a hash: this package's data code and the libraries it reads files with."""

from __future__ import annotations

import functools
import hashlib
from importlib import metadata
from pathlib import Path

LIBRARIES = ("numpy", "scipy", "torch", "pillow", "nibabel", "SimpleITK", "h5py", "pynrrd")


@functools.cache
def hash_code() -> str:
    """Another one after every edit of the code below medsam2/data and every update of a library that reads files."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    digest.update(" ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES).encode())
    return digest.hexdigest()[:32]
