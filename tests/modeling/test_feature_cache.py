"""A frozen encoder is asked once per image; whatever could change its answer is asked anew."""

import pytest
import torch
from torch import Tensor, nn

from medsam2.modeling.feature_cache import FeatureCache
from medsam2.modeling.layers import DropPath


class Counter(nn.Module):
    """Scales images at two resolutions and counts those that it was given."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0), requires_grad=False)
        self.drop = DropPath(rate)
        self.seen = 0

    def forward(self, x: Tensor) -> list[Tensor]:
        self.seen += len(x)
        return [x * self.scale, x[..., ::2, ::2] * self.scale]


def images(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone()


def test_an_image_is_encoded_once_in_whatever_batch_it_comes() -> None:
    encoder, cache = Counter(), FeatureCache(8)
    for values in ((1.0, 2.0, 3.0), (3.0, 1.0), (2.0,), (4.0, 2.0)):
        fine, coarse = cache.encode(encoder, images(*values))
        assert fine[:, 0, 0, 0].tolist() == [2 * v for v in values]
        assert torch.equal(coarse, fine[..., ::2, ::2])
    assert encoder.seen == 4


def test_a_flipped_image_is_another_one() -> None:
    encoder, cache = Counter(), FeatureCache(8)
    x = torch.arange(48.0).view(1, 3, 4, 4)
    for image in (x, x.flip(-1), x, x.transpose(2, 3)):
        assert torch.equal(cache.encode(encoder, image)[0], 2 * image)
    assert encoder.seen == 3


def test_the_image_that_was_longest_unused_goes_first() -> None:
    encoder, cache = Counter(), FeatureCache(2)
    for value in (1.0, 2.0, 1.0, 3.0, 1.0):
        cache.encode(encoder, images(value))
    assert encoder.seen == 3
    cache.encode(encoder, images(2.0))
    assert (encoder.seen, len(cache.kept)) == (4, 2)


def change_weight(encoder: Counter) -> None:
    with torch.no_grad():
        encoder.scale.mul_(3)


def load_weight(encoder: Counter) -> None:
    encoder.load_state_dict({"scale": torch.tensor(6.0)})


def replace_weight(encoder: Counter) -> None:
    encoder.scale.data = torch.tensor(6.0)


def assign_weight(encoder: Counter) -> None:
    encoder.load_state_dict({"scale": torch.tensor(6.0)}, assign=True)


@pytest.mark.parametrize("change", [change_weight, load_weight, replace_weight, assign_weight])
def test_a_changed_encoder_forgets(change: object) -> None:
    encoder, cache = Counter(), FeatureCache(8)
    cache.encode(encoder, images(1.0))
    change(encoder)  # type: ignore[operator]
    assert cache.encode(encoder, images(1.0))[0][0, 0, 0, 0] == 6.0


def test_a_weight_written_under_another_name_is_not_seen_until_the_cache_is_emptied() -> None:
    encoder, cache = Counter(), FeatureCache(8)
    cache.encode(encoder, images(1.0))
    encoder.scale.data.copy_(torch.tensor(6.0))
    assert cache.encode(encoder, images(1.0))[0][0, 0, 0, 0] == 2.0  # what the docstring warns of
    cache.kept.clear()
    assert cache.encode(encoder, images(1.0))[0][0, 0, 0, 0] == 6.0


@pytest.mark.parametrize("where", ["parameter", "buffer"])
def test_an_encoder_made_in_inference_mode_is_asked_each_time(where: str) -> None:
    encoder, cache = Counter(), FeatureCache(8)
    with torch.inference_mode():
        made = torch.tensor(2.0)
        if where == "parameter":
            encoder.scale = nn.Parameter(made, requires_grad=False)
        else:
            encoder.register_buffer("offset", made)
        for value in (2.0, 6.0):
            made.fill_(value)
            encoder.scale.fill_(value)
            assert cache.encode(encoder, images(1.0))[0][0, 0, 0, 0] == value
    assert (encoder.seen, len(cache.kept)) == (2, 0)


@pytest.mark.parametrize("reason", ["no room", "trained", "random", "pixels with a gradient"])
def test_nothing_is_kept_where_the_answer_may_differ(reason: str) -> None:
    encoder, cache = Counter(0.5 if reason == "random" else 0.0), FeatureCache(0 if reason == "no room" else 8)
    encoder.scale.requires_grad_(reason == "trained")
    x = images(1.0, 1.0).requires_grad_(reason == "pixels with a gradient")
    for _ in range(2):
        cache.encode(encoder, x)
    assert (encoder.seen, len(cache.kept)) == (4, 0)


def test_precisions_and_inference_tensors_are_kept_apart() -> None:
    encoder, cache = Counter(), FeatureCache(8)
    with torch.inference_mode():
        cache.encode(encoder, images(1.0))
    kept = cache.encode(encoder, images(1.0))[0]
    assert not kept.is_inference()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cache.encode(encoder, images(1.0))
    assert encoder.seen == 3


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="keep_features=-1 must be a number of images"):
        FeatureCache(-1)
