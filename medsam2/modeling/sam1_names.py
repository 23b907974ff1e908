"""SAM 1's parameter names (segment_anything, MedSAM, LiteMedSAM) as SAM 2's, which are ours."""

from collections.abc import Mapping

from torch import Tensor

PARTS = ("prompt_encoder.", "mask_decoder.")
RENAMED = {".mlp.lin1.": ".mlp.layers.0.", ".mlp.lin2.": ".mlp.layers.1."}  # the MLPs of the two-way transformer


def from_sam1(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename prompt encoder and mask decoder; the image encoder, whose lin1 and lin2 are its own, keeps its names."""
    return {_rename(name): value for name, value in state.items()}


def _rename(name: str) -> str:
    if not name.startswith(PARTS):
        return name
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    return f"sam_{name}"
