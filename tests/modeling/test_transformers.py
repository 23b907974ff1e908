"""Side by side with Hugging Face transformers, on mapped random weights: names, and what the network computes.

Left out, for there transformers differs from the official network on purpose or by mistake: whole videos with mask
prompts, corrections, limited conditioning frames. No prompt means one padding point there.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medsam2.modeling.hf_names import from_hugging_face, to_hugging_face
from medsam2.modeling.sam import ImageFeatures
from medsam2.modeling.sam2 import SAM2
from medsam2.modeling.weights import load_checkpoint, save_checkpoint
from tests.goldens import TOLERANCE, build_model, choose, draw_image, draw_mask_logits, draw_weight
from tests.peers import configure

pytestmark = pytest.mark.slow  # importing transformers alone takes seconds

FILE = Path(__file__).parent / "data" / "released_tensors.json.gz"
RELEASED: dict[str, Any] = json.loads(gzip.decompress(FILE.read_bytes()))


# ------------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize("variant", RELEASED)
def test_names_and_shapes_are_those_of_the_library(variant: str) -> None:
    from transformers import Sam2Model, Sam2VideoModel

    video_config, image_config = configure(variant, 1024)
    with torch.device("meta"):
        video, image = Sam2VideoModel(video_config).state_dict(), Sam2Model(image_config).state_dict()
    released = {name: tuple(shape) for name, shape in RELEASED[variant]["tensors"].items()}
    state = {name: torch.empty(shape, device="meta") for name, shape in released.items()}
    theirs = {name: tuple(value.shape) for name, value in to_hugging_face(state).items()}
    assert theirs == {name: tuple(value.shape) for name, value in video.items()}
    assert {name: tuple(value.shape) for name, value in from_hugging_face(video).items()} == released
    assert {name: tuple(value.shape) for name, value in image.items()}.items() <= theirs.items()


# ------------------------------------------------------------------------------------------------ computation


@dataclass
class Peers:
    """Three networks with the same weights, and what two of them make of the same image."""

    ours: SAM2
    image: Any
    video: Any
    raw: ImageFeatures  # without "no memory"
    features: ImageFeatures
    maps: list[Tensor]

    @property
    def size(self) -> int:
        return self.ours.image_size


@pytest.fixture(
    scope="module",
    params=[("sam2.1_hiera_tiny", 256), ("sam2.1_hiera_small", 512), ("sam2_hiera_base_plus", 256)],
    ids=lambda param: f"{param[0]}@{param[1]}",
)
def peers(request: pytest.FixtureRequest) -> Iterator[Peers]:
    from transformers import Sam2Model, Sam2VideoModel

    variant, size = request.param
    choice, release = choose(variant)
    ours = build_model(choice, size, [release, "model/mask_selection=stable"])
    ours.load_state_dict({name: draw_weight(name, value.shape) for name, value in ours.state_dict().items()})
    theirs = to_hugging_face(ours.state_dict())
    video_config, image_config = configure(variant, size)
    image, video = Sam2Model(image_config).eval(), Sam2VideoModel(video_config).eval()
    image.load_state_dict({name: theirs[name] for name in image.state_dict()})
    video.load_state_dict(theirs)
    rgb = torch.from_numpy(draw_image(size)).permute(2, 0, 1)[None] / 255
    pixels = ours.normalize(rgb)
    with torch.no_grad():
        raw = ours.forward_image(pixels)
        yield Peers(ours, image, video, raw, ours.without_memory(raw), image.get_image_embeddings(pixels))


def deviation(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference in units of the largest value, if that is above 1."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max()) / max(1.0, float(theirs.abs().max()))


def test_image_features(peers: Peers) -> None:
    for mine, theirs in zip((*peers.features.high_res, peers.features.embed), peers.maps, strict=True):
        assert deviation(mine, theirs) <= TOLERANCE


POINTS = {  # (x, y, label) per object in units of a 256-pixel image: objects have equally many
    "click": [[(100.25, 118.5, 1)]],
    "clicks": [[(100.25, 118.5, 1), (190, 60.75, 0), (130, 140, 1)]],
    "box": [[(62.5, 78.25, 2), (146, 162.75, 3)]],
    "box_click": [[(62.5, 78.25, 2), (146, 162.75, 3), (30, 200.5, 0)]],
    "two objects": [[(100.25, 118.5, 1), (0, 0, -1)], [(190, 60.75, 1), (130, 140, 0)]],
    "no prompt": [[(0, 0, -1)]],
}


@pytest.mark.parametrize("multimask", [False, True], ids=["single", "multi"])
@pytest.mark.parametrize("mask", [False, True], ids=["points", "points and mask"])
@pytest.mark.parametrize("prompt", POINTS)
def test_masks_and_scores(peers: Peers, prompt: str, mask: bool, multimask: bool) -> None:
    table = torch.tensor(POINTS[prompt], dtype=torch.float32)
    coords, labels = table[..., :2] * peers.size / 256, table[..., 2].int()
    mask_input = draw_mask_logits(peers.size) if mask else None
    mine = peers.ours.decode(peers.features, coords, labels, mask_input, multimask_output=multimask)
    theirs = peers.image(
        image_embeddings=list(peers.maps),
        input_points=coords[None],
        input_labels=labels[None],
        input_masks=mask_input,
        multimask_output=multimask,
    )
    assert deviation(mine.low_res_masks, theirs.pred_masks[0]) <= TOLERANCE
    assert deviation(mine.iou_predictions, theirs.iou_scores[0]) <= TOLERANCE
    assert deviation(mine.object_score_logits, theirs.object_score_logits[0]) <= TOLERANCE


def test_memory_encoder(peers: Peers) -> None:
    n = peers.size // 16
    generator = torch.Generator().manual_seed(0)
    mask = 20 * torch.rand(1, 1, 16 * n, 16 * n, generator=generator) - 10
    theirs, position = peers.video.memory_encoder(peers.raw.embed, mask)
    mine = peers.ours.memory_encoder(peers.raw.embed, mask)
    assert deviation(mine, theirs) <= TOLERANCE
    assert deviation(peers.ours.memory_encoder.position_encoding(mine), position) <= TOLERANCE


@pytest.mark.parametrize("pointers", [0, 8])
@pytest.mark.parametrize(("objects", "frames"), [(1, 1), (2, 3)])
def test_memory_attention(peers: Peers, objects: int, frames: int, pointers: int) -> None:
    n = peers.size // 16
    generator = torch.Generator().manual_seed(frames)
    embed, position = (torch.randn(1, 256, n, n, generator=generator) for _ in range(2))
    memory = torch.randn(objects, frames * n * n + pointers, 64, generator=generator)
    memory_pos = torch.randn(1, memory.shape[1], 64, generator=generator)
    theirs = peers.video.memory_attention(
        current_vision_features=embed.flatten(2).permute(2, 0, 1).expand(-1, objects, -1),
        current_vision_position_embeddings=position.flatten(2).permute(2, 0, 1).expand(-1, objects, -1),
        memory=memory.transpose(0, 1),
        memory_posision_embeddings=memory_pos.transpose(0, 1).expand(-1, objects, -1),
        num_object_pointer_tokens=pointers,
    )
    mine = peers.ours.memory_attention(embed, position, memory, memory_pos, pointers)
    assert deviation(mine.flatten(2).transpose(1, 2), theirs[0]) <= TOLERANCE


# ------------------------------------------------------------------------------------------------------ files


def test_files_go_to_the_library_and_back(peers: Peers, tmp_path: Path) -> None:
    from transformers import Sam2VideoModel

    save_checkpoint(peers.ours, tmp_path / "model.safetensors", "huggingface")
    peers.video.config.save_pretrained(tmp_path)
    read = Sam2VideoModel.from_pretrained(tmp_path)
    expected = peers.video.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in read.state_dict().items())

    read.save_pretrained(tmp_path / "theirs")
    state = {name: value.clone() for name, value in peers.ours.state_dict().items()}
    for value in peers.ours.state_dict().values():
        value.zero_()
    load_checkpoint(peers.ours, tmp_path / "theirs" / "model.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in peers.ours.state_dict().items())


def test_a_file_of_the_image_model_is_told_apart(peers: Peers, tmp_path: Path) -> None:
    torch.save(peers.image.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"without memory file.*Sam2VideoModel, not Sam2Model"):
        load_checkpoint(peers.ours, tmp_path / "pytorch_model.bin")
