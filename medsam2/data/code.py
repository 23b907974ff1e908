"""What decodes cases, as a hash: this package's data code and the libraries it reads files with."""

from __future__ import annotations

import functools
import hashlib
from importlib import metadata
from pathlib import Path

from medsam2.files import hash_contents

LIBRARIES = ("numpy", "scipy", "torch", "pillow", "nibabel", "SimpleITK", "h5py", "pynrrd")


@functools.cache
def hash_code() -> str:
    """Another one after every edit of the code below medsam2/data and every update of a library that reads files."""
    folder = Path(__file__).parent
    digest = hashlib.sha256(hash_contents(folder.rglob("*.py"), folder).encode())
    digest.update(" ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES).encode())
    return digest.hexdigest()[:32]
