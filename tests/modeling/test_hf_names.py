"""Hugging Face's names: one for one with the official ones of every released network, and back."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from medsam2.modeling.hf_names import FREQUENCIES, HF_FREQUENCIES, from_hugging_face, to_hugging_face

FILE = Path(__file__).parent / "data" / "released_tensors.json.gz"
RELEASED: dict[str, Any] = json.loads(gzip.decompress(FILE.read_bytes()))

# One name for every rule; `test_transformers.py` holds all of them to the library itself.
PAIRS = {
    "image_encoder.trunk.pos_embed": "vision_encoder.backbone.pos_embed",
    "image_encoder.trunk.patch_embed.proj.weight": "vision_encoder.backbone.patch_embed.projection.weight",
    "image_encoder.trunk.blocks.10.norm1.bias": "vision_encoder.backbone.blocks.10.layer_norm1.bias",
    "image_encoder.trunk.blocks.3.attn.proj.weight": "vision_encoder.backbone.blocks.3.attn.proj.weight",
    "image_encoder.trunk.blocks.3.attn.qkv.weight": "vision_encoder.backbone.blocks.3.attn.qkv.weight",
    "image_encoder.trunk.blocks.3.proj.weight": "vision_encoder.backbone.blocks.3.proj.weight",
    "image_encoder.trunk.blocks.0.mlp.layers.0.weight": "vision_encoder.backbone.blocks.0.mlp.proj_in.weight",
    "image_encoder.trunk.blocks.0.mlp.layers.1.weight": "vision_encoder.backbone.blocks.0.mlp.proj_out.weight",
    "image_encoder.neck.convs.2.conv.bias": "vision_encoder.neck.convs.2.bias",
    "sam_prompt_encoder.no_mask_embed.weight": "prompt_encoder.no_mask_embed.weight",
    "sam_prompt_encoder.not_a_point_embed.weight": "prompt_encoder.not_a_point_embed.weight",
    "sam_prompt_encoder.mask_downscaling.0.weight": "prompt_encoder.mask_embed.conv1.weight",
    "sam_prompt_encoder.mask_downscaling.1.weight": "prompt_encoder.mask_embed.layer_norm1.weight",
    "sam_prompt_encoder.mask_downscaling.3.weight": "prompt_encoder.mask_embed.conv2.weight",
    "sam_prompt_encoder.mask_downscaling.4.bias": "prompt_encoder.mask_embed.layer_norm2.bias",
    "sam_prompt_encoder.mask_downscaling.6.bias": "prompt_encoder.mask_embed.conv3.bias",
    "sam_mask_decoder.iou_token.weight": "mask_decoder.iou_token.weight",
    "sam_mask_decoder.conv_s0.weight": "mask_decoder.conv_s0.weight",
    "sam_mask_decoder.output_upscaling.0.weight": "mask_decoder.upscale_conv1.weight",
    "sam_mask_decoder.output_upscaling.1.weight": "mask_decoder.upscale_layer_norm.weight",
    "sam_mask_decoder.output_upscaling.3.bias": "mask_decoder.upscale_conv2.bias",
    "sam_mask_decoder.transformer.layers.1.norm4.bias": "mask_decoder.transformer.layers.1.layer_norm4.bias",
    "sam_mask_decoder.transformer.norm_final_attn.bias": "mask_decoder.transformer.layer_norm_final_attn.bias",
    "sam_mask_decoder.transformer.layers.0.self_attn.out_proj.bias": (
        "mask_decoder.transformer.layers.0.self_attn.o_proj.bias"
    ),
    "sam_mask_decoder.transformer.layers.0.mlp.layers.0.bias": "mask_decoder.transformer.layers.0.mlp.proj_in.bias",
    "sam_mask_decoder.transformer.layers.1.mlp.layers.1.bias": "mask_decoder.transformer.layers.1.mlp.proj_out.bias",
    "sam_mask_decoder.output_hypernetworks_mlps.0.layers.0.bias": (
        "mask_decoder.output_hypernetworks_mlps.0.proj_in.bias"
    ),
    "sam_mask_decoder.output_hypernetworks_mlps.2.layers.1.bias": (
        "mask_decoder.output_hypernetworks_mlps.2.layers.0.bias"
    ),
    "sam_mask_decoder.iou_prediction_head.layers.2.weight": "mask_decoder.iou_prediction_head.proj_out.weight",
    "sam_mask_decoder.pred_obj_score_head.layers.1.weight": "mask_decoder.pred_obj_score_head.layers.0.weight",
    "memory_attention.layers.3.cross_attn_image.out_proj.bias": (
        "memory_attention.layers.3.cross_attn_image.o_proj.bias"
    ),
    "memory_attention.layers.0.linear1.weight": "memory_attention.layers.0.linear1.weight",
    "memory_attention.layers.0.norm3.weight": "memory_attention.layers.0.layer_norm3.weight",
    "memory_attention.norm.weight": "memory_attention.layer_norm.weight",
    "memory_encoder.mask_downsampler.encoder.0.weight": "memory_encoder.mask_downsampler.layers.0.conv.weight",
    "memory_encoder.mask_downsampler.encoder.10.bias": "memory_encoder.mask_downsampler.layers.3.layer_norm.bias",
    "memory_encoder.mask_downsampler.encoder.12.bias": "memory_encoder.mask_downsampler.final_conv.bias",
    "memory_encoder.pix_feat_proj.weight": "memory_encoder.feature_projection.weight",
    "memory_encoder.out_proj.weight": "memory_encoder.projection.weight",
    "memory_encoder.fuser.layers.1.gamma": "memory_encoder.memory_fuser.layers.1.scale",
    "memory_encoder.fuser.layers.1.dwconv.weight": "memory_encoder.memory_fuser.layers.1.depthwise_conv.weight",
    "memory_encoder.fuser.layers.0.norm.weight": "memory_encoder.memory_fuser.layers.0.layer_norm.weight",
    "memory_encoder.fuser.layers.0.pwconv2.weight": "memory_encoder.memory_fuser.layers.0.pointwise_conv2.weight",
    "maskmem_tpos_enc": "memory_temporal_positional_encoding",
    "no_mem_embed": "no_memory_embedding",
    "no_mem_pos_enc": "no_memory_positional_encoding",
    "no_obj_ptr": "no_object_pointer",
    "no_obj_embed_spatial": "occlusion_spatial_embedding_parameter",
    "obj_ptr_proj.layers.1.weight": "object_pointer_proj.layers.0.weight",
    "obj_ptr_tpos_proj.bias": "temporal_positional_encoding_projection_layer.bias",
    "mask_downsample.weight": "mask_downsample.weight",
    "adapter.layers.0.norm.weight": "adapter.layers.0.norm.weight",  # not of SAM 2: passes
}


@pytest.mark.parametrize(("official", "theirs"), PAIRS.items(), ids=list(PAIRS))
def test_a_name_and_back(official: str, theirs: str) -> None:
    value = torch.zeros(1)
    assert to_hugging_face({official: value}) == {theirs: value}
    assert from_hugging_face({theirs: value}) == {official: value}


@pytest.mark.parametrize("variant", RELEASED)
def test_a_released_network_comes_back_whole(variant: str) -> None:
    shapes = {name: tuple(shape) for name, shape in RELEASED[variant]["tensors"].items()}
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    theirs = to_hugging_face(state)
    assert len(theirs) == len(state) - 3 + 1  # four point embeddings are one, the frequencies are two
    assert {name: tuple(value.shape) for name, value in from_hugging_face(theirs).items()} == shapes
    ours = ("trunk", "sam_", "out_proj", "mem_", "gamma", "norm1", "dwconv", "encoder.12")
    assert [name for name in theirs if any(part in name.replace("layer_norm", "") for part in ours)] == []


def test_points_are_rows_in_order() -> None:
    points = {f"sam_prompt_encoder.point_embeddings.{i}.weight": torch.full((1, 2), float(i)) for i in range(4)}
    shuffled = {name: points[name] for name in reversed(points)}
    merged = to_hugging_face(shuffled)
    assert merged.keys() == {"prompt_encoder.point_embed.weight"}
    assert merged["prompt_encoder.point_embed.weight"].tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    back = from_hugging_face(merged)
    assert {name: value.tolist() for name, value in back.items()} == {n: v.tolist() for n, v in points.items()}


@pytest.mark.parametrize("copy", HF_FREQUENCIES)
def test_one_copy_of_the_frequencies_is_enough(copy: str) -> None:
    value = torch.randn(2, 4)
    theirs = to_hugging_face({FREQUENCIES: value})
    assert theirs.keys() == set(HF_FREQUENCIES)
    assert len({tensor.data_ptr() for tensor in theirs.values()}) == 2
    assert torch.equal(from_hugging_face({copy: theirs[copy]})[FREQUENCIES], value)
