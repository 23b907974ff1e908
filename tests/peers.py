"""The networks others built, configured as ours: those of Hugging Face transformers, for tests and benchmarks."""

from typing import Any

from omegaconf import OmegaConf

from tests.goldens import choose, compose_model


def configure(variant: str, size: int) -> tuple[Any, Any]:
    """transformers' configs of a released network for images of side `size`: of its video and its image model.

    Args:
        variant: a released name such as sam2.1_hiera_tiny.
    """
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2VideoConfig, Sam2VisionConfig

    choice, release = choose(variant)
    encoder: Any = OmegaConf.to_container(compose_model(choice, size, [release]).model.network.image_encoder)
    trunk, stages = encoder["trunk"], range(4)
    maps = [[size // stride, size // stride] for stride in (4, 8, 16)]
    vision = Sam2VisionConfig(
        backbone_config=Sam2HieraDetConfig(
            image_size=[size, size],
            hidden_size=trunk["embed_dim"],
            num_attention_heads=trunk["num_heads"],
            blocks_per_stage=trunk["stages"],
            embed_dim_per_stage=[trunk["embed_dim"] * 2**i for i in stages],
            num_attention_heads_per_stage=[trunk["num_heads"] * 2**i for i in stages],
            window_size_per_stage=trunk["window_spec"],
            global_attention_blocks=trunk["global_att_blocks"],
            window_positional_embedding_background_size=trunk["window_pos_embed_bkg_spatial_size"],
        ),
        backbone_channel_list=encoder["neck"]["backbone_channel_list"],
        backbone_feature_sizes=maps,
    )
    prompts, new = {"image_size": size}, variant.startswith("sam2.1")
    video = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=prompts,
        image_size=size,
        memory_attention_rope_feat_sizes=maps[-1],
        enable_occlusion_spatial_embedding=new,
        enable_temporal_pos_encoding_for_object_pointers=new,
    )
    return video, Sam2Config(vision_config=vision, prompt_encoder_config=prompts)
