"""Compare the network with reference outputs of the official SAM 2 on seeded weights and inputs.

    python -m tests.goldens FILE...                worst deviation per group of tensors
    python -m tests.goldens --reduce FILE OUT      a small file: fewer values per tensor

No checkpoint is needed: every weight is drawn from a generator seeded by its name, the image is integer
arithmetic. A golden file (`sam2-goldens-v1`) holds shape, mean, std, absmax and sampled values per tensor.
"""

import argparse
import sys
import zlib
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor

from medsam2.build import build_network
from medsam2.modeling.identity import CHOICES
from medsam2.modeling.sam import ImageFeatures
from medsam2.modeling.sam2 import SAM2, FrameOutput
from tests.fakes import compose_config
from tests.golden_clips import clip_points, compute_clips, compute_gradients
from tests.golden_predictor import compute_predictor

FORMAT = "sam2-goldens-v1"
TOLERANCE = 1e-4  # of max(1, absmax); two attention kernels of the reference differ by 1.3e-5
DRAWN = 4096  # positions drawn per tensor; a file may keep fewer, always the first ones
KEPT = 64  # in a reduced file
LIMITS = {  # group: tolerance in units of max(floor, absmax), floor
    "grad": (2e-2, 1e-3),
    "predictor": (5e-3, 1.0),
}
BF16_ULP = 2.0**-7  # of a value's own magnitude: stored memories are bfloat16
RELEASES = {"sam2": "sam2_0", "sam2.1": "sam2_1"}
EMBEDDINGS = {
    "pos_embed", "pos_embed_window", "maskmem_tpos_enc", "no_mem_embed", "no_mem_pos_enc", "no_obj_ptr",
    "no_obj_embed_spatial", "not_a_point_embed", "no_mask_embed", "iou_token", "mask_tokens",
    "obj_score_token",
}  # fmt: skip


def choose(variant: str) -> tuple[str, str]:
    """The choice of `model` of a released name such as sam2.1_hiera_tiny, and the override for its release."""
    release, size = variant.split("_hiera_")
    return CHOICES[size], f"model/release={RELEASES[release]}"


def compose_model(choice: str, image_size: int, overrides: Sequence[str] = ()) -> DictConfig:
    """The config of a run with a choice of `model`, at an image size."""
    return compose_config(f"model={choice}", f"image_size={image_size}", *overrides)


def build_model(choice: str, image_size: int, overrides: Sequence[str] = ()) -> SAM2:
    """The network of a size with random weights, in evaluation mode."""
    network = build_network(compose_model(choice, image_size, ["model.checkpoint=null", *overrides]))
    return cast(SAM2, network.eval())


def draw_weight(name: str, shape: Sequence[int]) -> Tensor:
    """The value of a state-dict entry, from its name alone: float32(loc + std * z), z normal, MT19937."""
    owner = name.split(".")[-2:]
    loc, std = 0.0, 0.0
    if name == "sam_mask_decoder.pred_obj_score_head.layers.2.bias":
        loc, std = 3.0, 0.05
    elif name.endswith("positional_encoding_gaussian_matrix"):
        std = 1.0
    elif name.endswith(".gamma"):
        loc, std = 0.5, 0.1
    elif name.endswith(".bias"):
        std = 0.05
    elif name.endswith(".weight") and len(shape) == 1:
        loc, std = 1.0, 0.1
    elif EMBEDDINGS.intersection(owner) or ".point_embeddings." in name:
        std = 0.5
    elif name.endswith(("output_upscaling.0.weight", "output_upscaling.3.weight")):
        std = shape[0] ** -0.5
    else:
        std = float(np.prod(shape[1:])) ** -0.5
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return torch.from_numpy((loc + std * z).astype(np.float32))


def squared_distance(x: np.ndarray, y: np.ndarray, frame: int) -> np.ndarray:
    """From the centre of the disc, in units of the 256-pixel image."""
    return (x - (104 + 10 * frame)) ** 2 + (y - (120 + 5 * frame)) ** 2


def draw_image(size: int, frame: int = 0) -> np.ndarray:
    """A uint8 image, size x size x 3: a gradient, a disc, a rectangle and hashed noise."""
    y, x, c = np.meshgrid(*(np.arange(n, dtype=np.int64) for n in (size, size, 3)), indexing="ij")
    u, v = 256 * x // size, 256 * y // size
    value = ((u * (c + 1) + v * (3 - c)) // 4 + 20 * c + 3 * frame) % 160
    d2 = squared_distance(u, v, frame)
    value = np.where(d2 <= 1764, 150 + 30 * c - d2 // 60, value)
    box = (abs(u - 190) <= 24) & (abs(v - 60 - 4 * frame) <= 20)
    value = np.where(box, 220 - 70 * c, value)
    k = (374761393 * x + 668265263 * y + 2246822519 * (c + 3 * frame + 1)) % 2**32
    h = ((k ^ k >> 13) * 1274126177) % 2**32
    return np.clip(value + ((h ^ h >> 16) & 31), 0, 255).astype(np.uint8)


def draw_mask_logits(size: int, frame: int = 0) -> Tensor:
    """The disc as mask logits, 1 x 1 x size/4 x size/4."""
    centre = np.arange(size // 4) * 4 * 256 / size
    y, x = np.meshgrid(centre, centre, indexing="ij")
    logits = np.clip((1764 - squared_distance(x, y, frame)) / 64, -8, 8)
    return torch.from_numpy(logits.astype(np.float32))[None, None]


def draw_disc(size: int, frame: int = 0) -> Tensor:
    """The disc as a mask of 0 and 1, 1 x 1 x size x size."""
    y, x = np.meshgrid(*(np.arange(size) * 256 // size,) * 2, indexing="ij")
    return torch.from_numpy((squared_distance(x, y, frame) <= 1764).astype(np.float32))[None, None]


def compute_image(model: SAM2, features: ImageFeatures, pixels: Tensor) -> dict[str, Tensor]:
    """All image/... tensors; `features` are those of the normalised pixels 1 x 3 x S x S."""
    tensors: dict[str, Tensor] = {}
    encoder = model.image_encoder
    for prefix, crop in (("image", pixels), ("image/rect", pixels[..., :96, :160])):
        stages = encoder.trunk(crop)
        tensors |= {f"{prefix}/trunk/{i}": x for i, x in enumerate(stages)}
        tensors |= {f"{prefix}/fpn/{i}": x for i, x in enumerate(encoder(crop))}
    for i in range(3):
        tensors[f"image/pos/{i}"] = encoder.neck.position_encoding(tensors[f"image/fpn/{i}"])
    tensors |= {f"image/high_res/{i}": x for i, x in enumerate(features.high_res)}
    return tensors | {"image/embed": features.embed, "image/dense_pe": model.sam_prompt_encoder.dense_pe}


def compute_prompt(model: SAM2, features: ImageFeatures, points: Any, mask: Tensor | None) -> dict[str, Tensor]:
    """Prompt encoder and decoder for one prompt, all four masks and the single one."""
    coords, labels = points or (None, None)
    sparse, dense = model.sam_prompt_encoder(coords, labels, mask)
    every = model.sam_mask_decoder.predict_masks(
        features.embed, model.sam_prompt_encoder.dense_pe, sparse, dense, features.high_res
    )
    single = model.decode(features, coords, labels, mask, multimask_output=False)
    return {
        "sparse": sparse, "dense": dense, "masks4": every.low_res_masks, "iou4": every.iou_predictions,
        "tokens": every.mask_tokens, "obj": every.object_score_logits,
        "single_dynamic/mask": single.low_res_masks, "single_dynamic/iou": single.iou_predictions,
    }  # fmt: skip


def compute_heads(model: SAM2, features: ImageFeatures, points: Any, mask: Tensor | None) -> dict[str, Tensor]:
    """The decoder asked as a video does, for one mask and for three."""
    single = model.predict_masks(features, points, mask, multimask_output=False)
    multi = model.predict_masks(features, points, mask, multimask_output=True)
    named = {f"single/{key}": value for key, value in name_output(single).items()}
    named |= {f"multi/{key}": value for key, value in name_output(multi).items()}
    return named | {"multi/low_multi": multi.low_res_multimasks, "multi/high": multi.high_res_masks}


def name_output(output: FrameOutput) -> dict[str, Tensor]:
    return {
        "ious": output.iou_predictions, "low": output.low_res_masks,
        "obj_ptr": output.obj_ptr, "obj": output.object_score_logits,
    }  # fmt: skip


def compute_memory_encoder(model: SAM2, raw: ImageFeatures, size: int) -> dict[str, Tensor]:
    """The memory of the disc, of an object that is there and of one that is not."""
    logits = F.interpolate(draw_mask_logits(size), (size, size), mode="bilinear")
    encode = {name: torch.full((1, 1), score) for name, score in (("present", 5.0), ("absent", -5.0))}
    tensors = {f"{name}/features": model.encode_memory(raw, logits, x, prompted=False) for name, x in encode.items()}
    return tensors | {"pos": model.memory_encoder.position_encoding(tensors["present/features"])}


def compute_tensors(golden: dict[str, Any], model: SAM2, wanted: Collection[str]) -> dict[str, Tensor]:
    """Everything in the wanted groups (first parts of the keys) that the file's inputs define."""
    size, prompts = golden["image_size"], golden["inputs"]["prompts"]
    frames = [draw_image(size, frame) for frame in range(10)]
    if [zlib.crc32(frame.tobytes()) for frame in frames] != list(golden["inputs"]["image_crc32"]):
        raise ValueError("the drawn images are not the golden ones")
    rgb = [torch.from_numpy(frame).permute(2, 0, 1)[None] / 255 for frame in frames]

    @cache
    def raw(frame: int) -> ImageFeatures:
        return model.forward_image(model.normalize(rgb[frame]))

    tensors: dict[str, Tensor] = {}
    with torch.no_grad():
        tensors |= compute_single(model, wanted, raw(0), model.normalize(rgb[0]), prompts)
        tensors |= compute_clips(model, set(wanted), raw, lambda f: draw_disc(size, f), clip_points(prompts))
    if "predictor" in wanted:
        model.binarize_prompted = True
        tensors |= compute_predictor(model, [x[0] for x in rgb[:4]], size, prompts)
        model.binarize_prompted = False
    if "grad" in wanted:
        raw.cache_clear()
        tensors |= compute_gradients(model, raw, lambda f: draw_disc(size, f), clip_points(prompts))
    return tensors


def compute_single(
    model: SAM2, wanted: Collection[str], raw: ImageFeatures, pixels: Tensor, prompts: dict[str, Any]
) -> dict[str, Tensor]:
    """The groups about one frame: image, prompt, heads, mask_as_output, memory_encoder."""
    size, features = model.image_size, model.without_memory(raw)
    tensors: dict[str, Tensor] = compute_image(model, features, pixels) if "image" in wanted else {}
    mask = draw_mask_logits(size)
    cases: dict[str, tuple[Any, Tensor | None]] = {name: (points, None) for name, points in prompts.items()}
    cases |= {f"{name}+mask": (prompts[name], mask) for name in ("none", "point")}
    for group, compute in (("prompt", compute_prompt), ("heads", compute_heads)):
        for name, (points, mask_input) in cases.items() if group in wanted else ():
            parts = compute(model, features, points, mask_input)
            tensors |= {f"{group}/{name}/{key}": value for key, value in parts.items()}
    tensors["prompt/box_native/sparse"] = model.sam_prompt_encoder.embed_points(*prompts["box"])
    disc = draw_disc(size)
    for group, given in (("mask_as_output", disc), ("mask_as_output_empty", torch.zeros_like(disc))):
        output = name_output(model.use_mask_as_output(raw, given))
        tensors |= {f"{group}/{key}": value for key, value in output.items()}
    parts = compute_memory_encoder(model, raw, size)
    return tensors | {f"memory_encoder/{key}": value for key, value in parts.items()}


def sample(key: str, tensor: Tensor, count: int) -> Tensor:
    """The values a file holds: all, or those at the first `count` positions drawn for the key."""
    flat = tensor.detach().flatten().double()
    if count == flat.numel():
        return flat
    drawn = np.random.RandomState(zlib.crc32(key.encode())).randint(0, flat.numel(), DRAWN, dtype=np.int64)
    return flat[torch.from_numpy(drawn[:count])]


def find_limit(key: str) -> tuple[float, float]:
    """Tolerance of a tensor, and the smallest absmax it is relative to."""
    if key.endswith("_bf16"):
        return BF16_ULP, 1.0
    return LIMITS.get(key.split("/")[0], (TOLERANCE, 1.0))


def compute_deviation(key: str, entry: dict[str, Any], tensor: Tensor) -> float:
    """Largest difference of values, mean, std, absmax in units of the key's tolerance; inf for another shape."""
    if list(tensor.shape) != list(entry["shape"]):
        return float("inf")
    if tensor.numel() == 0:
        return 0.0
    values, exact = entry["values"].double(), tensor.detach().double()
    difference = (sample(key, tensor, values.numel()) - values).abs()
    if key.endswith("_bf16"):
        return float((difference / values.abs().clamp(min=1.0)).max()) / BF16_ULP  # value by value
    differences = [
        difference.max(),
        (exact.mean() - entry["mean"]).abs(),
        (exact.std(correction=0) - entry["std"]).abs(),
        (exact.abs().max() - entry["absmax"]).abs(),
    ]
    tolerance, floor = find_limit(key)
    return float(torch.stack(differences).max()) / max(floor, entry["absmax"]) / tolerance


def prepare_model(golden: dict[str, Any]) -> SAM2:
    """The model a golden file is about, with its drawn weights."""
    if golden["format"] != FORMAT:
        raise ValueError(f"format is {golden['format']!r}, expected {FORMAT!r}")
    choice, release = choose(golden["variant"])
    binarize = "model.network.binarize_mask_from_pts_for_mem_enc=false"  # the predictor's scene sets it
    model = build_model(choice, golden["image_size"], [release, "model/mask_selection=stable", binarize])
    model.load_state_dict({name: draw_weight(name, x.shape) for name, x in model.state_dict().items()})
    return model


def list_groups(golden: dict[str, Any]) -> list[str]:
    """The first parts of the file's keys; the loss belongs to the gradients."""
    return sorted({key.split("/")[0] for key in golden["tensors"]} - {"grad_loss"})


def check_golden(golden: dict[str, Any], model: SAM2, groups: Collection[str] = ()) -> dict[str, float]:
    """Deviation per key of the groups (none: all) in units of its tolerance, inf for one we do not compute."""
    groups = groups or list_groups(golden)
    tensors = compute_tensors(golden, model, groups)
    keys = [key for key in golden["tensors"] if key.split("/")[0].removesuffix("_loss") in groups]
    return {
        key: compute_deviation(key, golden["tensors"][key], tensors[key]) if key in tensors else float("inf")
        for key in keys
    }


def reduce_golden(golden: dict[str, Any]) -> dict[str, Any]:
    """Keep the first KEPT sampled values per tensor, no image (its formula and checksum remain)."""
    tensors = {}
    for key, entry in golden["tensors"].items():
        values, numel = entry["values"], int(np.prod(entry["shape"]))
        if values.numel() == numel > KEPT:  # stored whole: draw from it
            values = sample(key, values, KEPT).float()
        tensors[key] = {**entry, "values": values[:KEPT].clone()}
    inputs = {key: value for key, value in golden["inputs"].items() if key != "image_u8_frame0"}
    return {**golden, "inputs": inputs, "tensors": tensors}


def report(path: str, groups: Sequence[str]) -> bool:
    """Print the worst deviation per group of one file; False when one is beyond its tolerance."""
    golden = torch.load(path, weights_only=True)
    torch.set_num_threads(1)
    deviations = check_golden(golden, prepare_model(golden), groups)
    worst: dict[str, tuple[float, str]] = {}
    for key, value in deviations.items():
        parts = key.split("/")
        group = parts[0] if parts[0].startswith("grad") else "/".join(parts[:2])
        worst[group] = max(worst.get(group, (0.0, key)), (value, key))
    print(f"{path}: {golden['variant']}, image_size={golden['image_size']}, {len(deviations)} tensors")
    for group, (value, key) in worst.items():
        tolerance, _ = find_limit(key)
        verdict = "ok " if value <= 1 else "BAD"
        print(f"  {verdict} {group:28s} {value * tolerance:.1e} of {tolerance:.0e} allowed  ({key})")
    return max(deviations.values()) <= 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--groups", nargs="+", default=[], help="first parts of the keys to check; default all")
    parser.add_argument("--reduce", action="store_true", help="read the first FILE, write the second")
    arguments = parser.parse_args()
    if arguments.reduce:
        source, target = arguments.files
        torch.save(reduce_golden(torch.load(source, weights_only=True)), target)
    elif False in [report(path, arguments.groups) for path in arguments.files]:
        sys.exit(1)


if __name__ == "__main__":
    main()
