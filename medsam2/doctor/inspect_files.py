"""What single files say about themselves and no loader asks: turned by a tag, coloured by a palette, stored which way.

Headers alone are read, but for palette images. A file that cannot be read tells nothing here: its loader says why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medsam2.data.volumes import ITK, NIFTI, itk_affine, nifti_affine

ORIENTATION_TAG = 0x0112
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")


def exif_orientation(path: Path) -> int:
    """How a picture is to be turned when it is shown, 1 (as stored) to 8, by its EXIF tag; 1 without one."""
    if not path.name.lower().endswith(PICTURES):
        return 1
    try:
        with Image.open(path) as file:
            if file.format == "PNG" and "exif" not in file.info:
                return 1  # Pillow would decode all pixels to look behind them
            return int(file.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # Pillow raises many kinds for a damaged file
        return 1


def palette_colours(path: Path) -> dict[int, tuple[int, int, int]]:
    """index -> colour, of a palette image that uses colours; empty for grey palettes and all other files.

    A mask that is stored so is read by its indices, and other programs may read its colours.
    """
    if not path.name.lower().endswith(PICTURES):
        return {}
    try:
        with Image.open(path) as file:
            if file.mode != "P" or file.palette is None:
                return {}
            indices = np.unique(np.asarray(file)).tolist()
            flat = file.getpalette("RGB") or []
    except Exception:
        return {}
    colours = {i: (flat[3 * i], flat[3 * i + 1], flat[3 * i + 2]) for i in indices if 3 * i + 2 < len(flat)}
    return colours if any(len(set(colour)) > 1 for colour in colours.values()) else {}


def read_affine(path: Path) -> NDArray[np.float64] | None:
    """4×4, the indices of a NIfTI, NRRD or MetaImage file to (right, anterior, superior) mm; None if it states none."""
    name = path.name.lower()
    if not name.endswith(NIFTI + ITK):
        return None
    try:
        return _read_nifti_affine(path) if name.endswith(NIFTI) else _read_itk_affine(path)
    except Exception:  # nibabel and ITK raise many kinds for a damaged file
        return None


def axis_codes(affine: NDArray[np.float64]) -> str:
    """Where the axes run, as `RAS`: the first to the right, the second to the front, the third upwards."""
    import nibabel

    return "".join(str(code) for code in nibabel.orientations.aff2axcodes(affine))


def _read_nifti_affine(path: Path) -> NDArray[np.float64] | None:
    import nibabel

    image: Any = nibabel.load(path)
    stated = image.header["sform_code"] != 0 or image.header["qform_code"] != 0
    return nifti_affine(image.header) if stated else None


def _read_itk_affine(path: Path) -> NDArray[np.float64]:
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return itk_affine(reader.GetDirection(), reader.GetSpacing(), reader.GetOrigin())
