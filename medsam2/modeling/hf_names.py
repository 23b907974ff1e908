"""Hugging Face's names of SAM 2's tensors (transformers' Sam2VideoModel and Sam2Model), both ways.

The layouts differ in names only, with two exceptions: the four point embeddings are one tensor there, and the
frequencies of the position encoding are stored twice. Names that are not in the tables pass unchanged.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Renames = Sequence[tuple[str, str]]

POINTS = "sam_prompt_encoder.point_embeddings"
HF_POINTS = "prompt_encoder.point_embed.weight"
FREQUENCIES = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
HF_FREQUENCIES = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)

NORMS: Renames = tuple((f".norm{i}.", f".layer_norm{i}.") for i in range(1, 5))
OUT: Renames = ((".out_proj.", ".o_proj."),)
FEED_FORWARD: Renames = ((".mlp.layers.0.", ".mlp.proj_in."), (".mlp.layers.1.", ".mlp.proj_out."))
# In this order, and backwards in the reverse one: ".layers.0." means another layer on either side.
HEAD: Renames = ((".layers.0.", ".proj_in."), (".layers.1.", ".layers.0."), (".layers.2.", ".proj_out."))
MASK_EMBED: Renames = (
    (".0.", ".conv1."),
    (".1.", ".layer_norm1."),
    (".3.", ".conv2."),
    (".4.", ".layer_norm2."),
    (".6.", ".conv3."),
)
FUSER: Renames = (
    (".dwconv.", ".depthwise_conv."),
    (".norm.", ".layer_norm."),
    (".pwconv1.", ".pointwise_conv1."),
    (".pwconv2.", ".pointwise_conv2."),
    (".gamma.", ".scale."),
)
DOWNSAMPLER = "memory_encoder.mask_downsampler"

# (ours, theirs, renames within): the first part that a name belongs to decides, so a part precedes what holds it.
PARTS: Sequence[tuple[str, str, Renames]] = (
    ("image_encoder.trunk.patch_embed.proj", "vision_encoder.backbone.patch_embed.projection", ()),
    ("image_encoder.trunk", "vision_encoder.backbone", (*NORMS, *FEED_FORWARD)),
    *((f"image_encoder.neck.convs.{i}.conv", f"vision_encoder.neck.convs.{i}", ()) for i in range(4)),
    ("sam_prompt_encoder.mask_downscaling", "prompt_encoder.mask_embed", MASK_EMBED),
    ("sam_prompt_encoder", "prompt_encoder", ()),
    ("sam_mask_decoder.output_upscaling.0", "mask_decoder.upscale_conv1", ()),
    ("sam_mask_decoder.output_upscaling.1", "mask_decoder.upscale_layer_norm", ()),
    ("sam_mask_decoder.output_upscaling.3", "mask_decoder.upscale_conv2", ()),
    ("sam_mask_decoder.output_hypernetworks_mlps", "mask_decoder.output_hypernetworks_mlps", HEAD),
    ("sam_mask_decoder.iou_prediction_head", "mask_decoder.iou_prediction_head", HEAD),
    ("sam_mask_decoder.pred_obj_score_head", "mask_decoder.pred_obj_score_head", HEAD),
    (
        "sam_mask_decoder",
        "mask_decoder",
        (*NORMS, *OUT, *FEED_FORWARD, (".norm_final_attn.", ".layer_norm_final_attn.")),
    ),
    ("memory_attention", "memory_attention", (*NORMS, *OUT, (".norm.", ".layer_norm."))),
    *((f"{DOWNSAMPLER}.encoder.{3 * i}", f"{DOWNSAMPLER}.layers.{i}.conv", ()) for i in range(4)),
    *((f"{DOWNSAMPLER}.encoder.{3 * i + 1}", f"{DOWNSAMPLER}.layers.{i}.layer_norm", ()) for i in range(4)),
    (f"{DOWNSAMPLER}.encoder.12", f"{DOWNSAMPLER}.final_conv", ()),
    ("memory_encoder.pix_feat_proj", "memory_encoder.feature_projection", ()),
    ("memory_encoder.out_proj", "memory_encoder.projection", ()),
    ("memory_encoder.fuser", "memory_encoder.memory_fuser", FUSER),
    ("maskmem_tpos_enc", "memory_temporal_positional_encoding", ()),
    ("no_mem_embed", "no_memory_embedding", ()),
    ("no_mem_pos_enc", "no_memory_positional_encoding", ()),
    ("no_obj_ptr", "no_object_pointer", ()),
    ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter", ()),
    ("obj_ptr_proj", "object_pointer_proj", HEAD),
    ("obj_ptr_tpos_proj", "temporal_positional_encoding_projection_layer", ()),
)
BACKWARDS: Sequence[tuple[str, str, Renames]] = tuple(
    (theirs, ours, tuple((b, a) for a, b in reversed(renames))) for ours, theirs, renames in PARTS
)


def to_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A SAM 2 state dict under the names of Sam2VideoModel; Sam2Model takes what it has of it."""
    points = [name for name in sorted(state) if name.startswith(POINTS + ".")]
    renamed = {_rename(name, PARTS): value for name, value in state.items() if name not in (*points, FREQUENCIES)}
    if points:
        renamed[HF_POINTS] = torch.cat([state[name] for name in points])
    if FREQUENCIES in state:  # copies: a .safetensors file takes no two names of one memory
        renamed |= {name: state[FREQUENCIES].clone() for name in HF_FREQUENCIES}
    return renamed


def from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of to_hugging_face; a file may hold only one of the two copies of the frequencies."""
    special = (HF_POINTS, *HF_FREQUENCIES)
    renamed = {_rename(name, BACKWARDS): value for name, value in state.items() if name not in special}
    if HF_POINTS in state:
        rows = state[HF_POINTS].split(1)
        renamed |= {f"{POINTS}.{i}.weight": row for i, row in enumerate(rows)}
    for name in HF_FREQUENCIES:
        if name in state:
            renamed[FREQUENCIES] = state[name]
    return renamed


def _rename(name: str, parts: Sequence[tuple[str, str, Renames]]) -> str:
    for old, new, renames in parts:
        if name == old or name.startswith(old + "."):
            rest = name.removeprefix(old) + "."  # the dot ends the last component too
            for a, b in renames:
                rest = rest.replace(a, b)
            return new + rest[:-1]
    return name
