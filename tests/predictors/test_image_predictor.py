"""The predictor's answers are the network's, brought to the image's size."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medsam2.modeling.sam2 import SAM2
from medsam2.predictors.image import ImagePrediction, SAM2ImagePredictor
from tests.predictors.fakes_predictors import build_nano

BOXES = np.array([[5, 4, 40, 30], [10, 2, 69, 49], [0, 0, 20, 45]])


@pytest.fixture(scope="module")
def model() -> SAM2:
    return build_nano(64)


def image(height: int = 50, width: int = 70) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def predictor(model: SAM2) -> SAM2ImagePredictor:
    """With an image of 50 x 70."""
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(image())
    return predictor


def assert_same(answer: ImagePrediction, expected: ImagePrediction) -> None:
    for a, b in zip(answer, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if a.dtype == bool:
            assert (a != b).mean() < 1e-3
        else:
            np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [64, 96, 160, 224])
@torch.no_grad()
def test_prediction_is_that_of_the_network(size: int) -> None:
    sized = build_nano(size)
    predictor = SAM2ImagePredictor(sized)
    predictor.set_image(image())
    answer = predictor.predict([[35, 10]], [1], [7, 5, 63, 45], return_logits=True)

    pixels = torch.from_numpy(image()).permute(2, 0, 1)[None] / 255
    resized = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    coords = torch.tensor([[[0.1, 0.1], [0.9, 0.9], [0.5, 0.2]]]) * size
    expected = sized(resized, coords, torch.tensor([[2, 3, 1]]), multimask_output=True)
    low = expected.low_res_masks
    logits = F.interpolate(low, (50, 70), mode="bilinear", align_corners=False)
    assert answer.masks.shape == (3, 50, 70)
    assert answer.low_res_masks.shape == (3, size // 4, size // 4)
    assert np.abs(answer.masks).max() > 1
    np.testing.assert_allclose(answer.masks, logits[0], atol=1e-4)
    np.testing.assert_allclose(answer.iou_predictions, expected.iou_predictions[0], atol=1e-5)
    np.testing.assert_allclose(answer.low_res_masks, low[0].clamp(-32, 32), atol=1e-4)
    single = predictor.predict([[35, 10]], [1], [7, 5, 63, 45], multimask_output=False)
    assert single.masks.shape == (1, 50, 70)
    assert single.masks.dtype == bool


def test_clamping_is_for_the_low_resolution_only(model: SAM2, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(image())
    decode = model.decode
    monkeypatch.setattr(
        model, "decode", lambda *args: (y := decode(*args))._replace(low_res_masks=y.low_res_masks.sign() * 100)
    )
    answer = predictor.predict(return_logits=True)
    assert set(np.unique(answer.low_res_masks)) <= {-32.0, 32.0}
    assert np.abs(answer.masks).max() > 90


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_masks_are_logits_above_the_threshold(model: SAM2, threshold: float) -> None:
    predictor = SAM2ImagePredictor(model, mask_threshold=threshold)
    predictor.set_image(image())
    logits = predictor.predict(box=BOXES, return_logits=True).masks
    masks = predictor.predict(box=BOXES).masks
    assert np.array_equal(masks, logits > threshold)
    assert 0 < masks.mean() < 1


def test_boxes_as_one_batch_are_boxes_one_by_one(predictor: SAM2ImagePredictor) -> None:
    together = predictor.predict(box=BOXES)
    assert together.masks.shape == (3, 3, 50, 70)
    assert together.iou_predictions.shape == (3, 3)
    assert together.low_res_masks.shape == (3, 3, 16, 16)
    for i, box in enumerate(BOXES):
        assert_same(ImagePrediction(*(x[i] for x in together)), predictor.predict(box=box))
        one = predictor.predict(box=BOXES[i : i + 1])  # an axis of objects stays, even of one
        assert_same(ImagePrediction(*(x[i : i + 1] for x in together)), one)


def test_clicks_and_masks_of_several_objects(predictor: SAM2ImagePredictor) -> None:
    coords = np.array([[[5, 5], [60, 40]], [[33, 20], [1, 49]]])
    labels = np.array([[1, 0], [1, 1]])
    masks = predictor.predict(coords, labels, multimask_output=False).low_res_masks
    together = predictor.predict(coords, labels, mask_input=masks)
    for i in range(2):
        alone = predictor.predict(coords[i], labels[i], mask_input=masks[i])
        assert_same(ImagePrediction(*(x[i] for x in together)), alone)


def test_pixels_and_unit_coordinates_agree(predictor: SAM2ImagePredictor) -> None:
    scale = np.array([70, 50])
    pixels = predictor.predict([[35, 10]], [1], BOXES[0], return_logits=True)
    unit = predictor.predict(
        np.array([[35, 10]]) / scale,
        [1],
        (BOXES[0].reshape(2, 2) / scale).ravel(),
        return_logits=True,
        normalize_coords=False,
    )
    assert_same(unit, pixels)


@torch.no_grad()
def test_an_image_may_come_without_prompts(model: SAM2, predictor: SAM2ImagePredictor) -> None:
    answer = predictor.predict(return_logits=True)
    pixels = F.interpolate(
        torch.from_numpy(image()).permute(2, 0, 1)[None] / 255, (64, 64), mode="bilinear", antialias=True
    )
    low = model(pixels, multimask_output=True).low_res_masks
    logits = F.interpolate(low, (50, 70), mode="bilinear", align_corners=False)
    assert answer.masks.std() > 1
    np.testing.assert_allclose(answer.masks, logits[0], atol=1e-4)


def test_images_as_one_batch_are_images_one_by_one(model: SAM2) -> None:
    images = [image(50, 70), image(64, 64), image(33, 90), image(80, 20), image(51, 30)]
    prompts = [  # layouts: 1 click, box, 1 click with a mask, 1 click of two objects, none
        {"point_coords": [[9, 9]], "point_labels": [1]},
        {"box": [[1, 2, 40, 50], [0, 0, 9, 9]]},
        {"point_coords": [[80, 30]], "point_labels": [0], "mask_input": np.ones((1, 16, 16), np.float32)},
        {"point_coords": [[[4, 70]], [[10, 10]]], "point_labels": [[1], [1]]},
        {},
    ]
    predictor = SAM2ImagePredictor(model)
    expected = []
    for pixels, prompt in zip(images, prompts, strict=True):
        predictor.set_image(pixels)
        expected.append(predictor.predict(**prompt, return_logits=True))

    predictor.set_image_batch(images)
    assert predictor.get_image_embedding().shape == (5, 128, 4, 4)
    names = ("point_coords", "point_labels", "box", "mask_input")
    decoded = []
    decode = model.decode
    model.decode = lambda *args: decoded.append(args[4]) or decode(*args)  # type: ignore[method-assign]
    try:
        batches = ([prompt.get(name) for prompt in prompts] for name in names)
        answers = predictor.predict_batch(*batches, return_logits=True)
    finally:
        del model.decode
    assert [None if index is None else index.tolist() for index in decoded] == [[0, 3, 3], None, None, None]
    for i, answer in enumerate(zip(*answers, strict=True)):
        assert_same(ImagePrediction(*answer), expected[i])


def test_predict_batch_needs_no_prompt_and_an_entry_per_image(model: SAM2) -> None:
    predictor = SAM2ImagePredictor(model)
    predictor.set_image_batch([image(), image(40, 40)])
    masks, ious, low_res_masks = predictor.predict_batch(multimask_output=False)
    assert [x.shape for x in masks] == [(1, 50, 70), (1, 40, 40)]
    assert [x.shape for x in ious] == [(1,)] * 2
    assert [x.shape for x in low_res_masks] == [(1, 16, 16)] * 2
    with pytest.raises(ValueError, match="box_batch has 1 entries for 2 images"):
        predictor.predict_batch(box_batch=[BOXES[0]])
    with pytest.raises(RuntimeError, match="2 images are set: call predict_batch"):
        predictor.predict()


def test_without_an_image_there_is_no_answer(model: SAM2) -> None:
    predictor = SAM2ImagePredictor(model)
    for ask in (predictor.predict, predictor.predict_batch, predictor.get_image_embedding):
        with pytest.raises(RuntimeError, match="no image is set: call set_image first"):
            ask()
    predictor.set_image(image())
    predictor.reset_predictor()
    with pytest.raises(RuntimeError, match="no image is set"):
        predictor.predict()
    predictor.set_image(image())
    with pytest.raises(ValueError, match="4 x 4 x 4"):
        predictor.set_image(np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(RuntimeError, match="no image is set"):  # not the image before
        predictor.predict()


def test_bad_settings_are_refused(model: SAM2) -> None:
    with pytest.raises(ValueError, match=r"max_hole_area=-1 is negative"):
        SAM2ImagePredictor(model, max_hole_area=-1)
    with pytest.raises(ValueError, match="image_list is empty"):
        SAM2ImagePredictor(model).set_image_batch([])
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(image())
    model.train()
    try:
        for call in (predictor.predict, predictor.predict_batch, lambda: predictor.set_image(image())):
            with pytest.raises(RuntimeError, match=r"training mode.*model.eval\(\)"):
                call()
    finally:
        model.eval()


def test_mask_input_of_another_size_is_refused_with_the_right_one(predictor: SAM2ImagePredictor) -> None:
    with pytest.raises(ValueError, match=r"mask_input .*image_size=64 needs N x 1 x 16 x 16"):
        predictor.predict(mask_input=np.zeros((1, 64, 64), np.float32))


def test_holes_are_filled_before_resizing(model: SAM2, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = SAM2ImagePredictor(model, mask_threshold=5.0, max_hole_area=4, max_sprinkle_area=1)
    predictor.set_image(image(64, 64))
    low = torch.full((1, 3, 16, 16), -10.0)  # edges at 5, the threshold
    low[..., 2:12, 2:12] = 20
    low[..., 5:7, 5:7] = 3  # a hole of 4, below the threshold
    low[..., 14, 14] = 20  # an island of 1
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda *args: decode(*args)._replace(low_res_masks=low))
    answer = predictor.predict()
    expected = np.zeros((64, 64), bool)
    expected[8:48, 8:48] = True
    rounded = answer.masks ^ expected  # corners of the square only
    assert rounded.sum(axis=(1, 2)).max() <= 8
    assert np.array_equal(answer.low_res_masks, low[0])  # stays as the network said
    predictor.max_hole_area = 3
    assert not predictor.predict().masks[:, 22:26, 22:26].any()


def test_autocast_stays_close(model: SAM2, predictor: SAM2ImagePredictor) -> None:
    exact = predictor.predict(box=BOXES, return_logits=True)
    rough = SAM2ImagePredictor(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough.set_image(image())
        answer = rough.predict(box=BOXES, return_logits=True)
    assert {x.dtype for x in answer} == {np.dtype(np.float32)}
    assert np.abs(answer.masks - exact.masks).max() < 0.05 * np.abs(exact.masks).max()
    np.testing.assert_allclose(answer.iou_predictions, exact.iou_predictions, atol=0.02)


def test_no_gradients_are_kept_and_the_model_can_train_on(model: SAM2) -> None:
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(image())
    predictor.predict(box=BOXES)
    assert not predictor.get_image_embedding().requires_grad
    assert predictor.device == torch.device("cpu")
    loss = model(torch.rand(1, 3, 64, 64)).low_res_masks.mean()
    loss.backward()
    assert model.no_mem_embed.grad.abs().sum() > 0
    model.zero_grad()
