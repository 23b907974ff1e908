"""Which checkpoint a file is, by its hash or by its tensors; torch is not imported, so that fetching starts at once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

RELEASES = {"2.0": "sam2_0", "2.1": "sam2_1"}  # version -> choice of model/release
CHOICES = {"tiny": "sam2_t", "small": "sam2_s", "base_plus": "sam2_b", "large": "sam2_l"}
# (width of the first stage, number of blocks) -> variant
VARIANTS = {(96, 12): "tiny", (96, 16): "small", (112, 24): "base_plus", (144, 48): "large"}
LITEMEDSAM_STEM = ("image_encoder.patch_embed.seq.0.c.weight", (32, 3, 1, 1))  # MobileSAM's has a 3 x 3 kernel
SAM1_MARKS = ("image_encoder.blocks.0.attn.rel_pos_h", "vision_encoder.layers.0.attn.rel_pos_h")  # Hugging Face's last


class Identity(NamedTuple):
    """What tensors are of. version: SAM 2's, 2.0 or 2.1; empty where the memory is missing, and for other networks."""

    version: str
    variant: str

    def __str__(self) -> str:
        if self.variant not in CHOICES:
            return self.variant
        return f"sam{self.version or '2'} {self.variant}" + ("" if self.version else " without memory")


LITEMEDSAM = Identity("", "LiteMedSAM")
SAM1 = Identity("", "SAM 1 (ViT)")


def hash_file(path: str | Path) -> str:
    """The SHA-256 of a file, as hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identify(state: Mapping[str, Tensor]) -> Identity | None:
    """The network that a state dict in the official names looks like; None for any other."""
    stem, shape = LITEMEDSAM_STEM
    if stem in state and state[stem].shape == shape:
        return LITEMEDSAM
    if any(mark in state for mark in SAM1_MARKS):
        return SAM1
    patches = state.get("image_encoder.trunk.patch_embed.proj.weight")
    blocks = {name.split(".")[3] for name in state if name.startswith("image_encoder.trunk.blocks.")}
    variant = VARIANTS.get((patches.shape[0], len(blocks))) if patches is not None else None
    if variant is None:
        return None
    version = "2.1" if "obj_ptr_tpos_proj.weight" in state else "2.0"
    return Identity(version if "maskmem_tpos_enc" in state else "", variant)


def advise(file: Identity | None, model: Identity | None) -> str:
    """What the file is, what the model is, and what brings them together; empty if they look alike."""
    if file is None or file == model:
        return ""
    said = f": this is a {file} file, the model is {model or 'of no released size'}"
    if file == SAM1:
        return f"{said}: no model here is a SAM 1, use a file of SAM 2 or LiteMedSAM"
    if file == LITEMEDSAM:
        return f"{said}: use model=litemedsam"
    cures = _bring_together(file, model if model is not None and model.variant in CHOICES else None)
    return f"{said}: use {' and '.join(cures)}" if cures else said


def _bring_together(file: Identity, model: Identity | None) -> list[str]:
    """The overrides, and the file, with which a SAM 2 file and a model (None: no released SAM 2) fit."""
    overrides = [f"model={CHOICES[file.variant]}"] if model is None or model.variant != file.variant else []
    if file.version and (model is None or file.version != model.version != ""):
        overrides.append(f"model/release={RELEASES[file.version]}")
    cures = [" ".join(overrides)] if overrides else []
    if model is not None and model.version and not file.version:
        fetch = f"python run.py task=fetch model={CHOICES[model.variant]}"
        cures.append(f"a file with the memory (Hugging Face: Sam2VideoModel, not Sam2Model; or `{fetch}`)")
    return cures
