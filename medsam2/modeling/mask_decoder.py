"""SAM 2's mask decoder: masks, their predicted IoU, the object's presence (SAM 2 2408.00714, section 4)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam2.modeling.layers import MLP, LayerNorm2d
from medsam2.modeling.transformer import TwoWayTransformer

PRESENT_LOGIT = 10.0  # the object score of a decoder that does not judge it: present


class MaskPredictions(NamedTuple):
    """What the decoder says about N prompts, K masks each.

    low_res_masks: N x K x 4n x 4n logits, positive inside, not gated by the object score.
    iou_predictions: N x K in [0, 1] with iou_prediction_use_sigmoid, else about so.
    object_score_logits: N x 1, positive where the object is present.
    mask_tokens: N x K (or 1) x C, the output tokens that object pointers are made from.
    """

    low_res_masks: Tensor
    iou_predictions: Tensor
    object_score_logits: Tensor
    mask_tokens: Tensor


def compute_stability(mask_logits: Tensor, delta: float) -> Tensor:
    """IoU of a mask at thresholds +delta and -delta, 1 where both are empty: N x H x W logits -> N."""
    inside = (mask_logits > delta).sum((-2, -1)).float()
    union = (mask_logits > -delta).sum((-2, -1)).float()
    return torch.where(union > 0, inside / union.clamp(min=1), 1.0)


def run_parallel(mlps: nn.ModuleList, x: Tensor) -> Tensor:
    """Apply MLP k to x[:, k]: N x K x in -> N x K x out. Equal MLPs run as one batched product per layer."""
    x = x.transpose(0, 1)
    layers = list(zip(*(mlp.layers for mlp in mlps), strict=True))
    for depth, group in enumerate(layers):
        weight = torch.stack([layer.weight for layer in group])
        bias = torch.stack([layer.bias for layer in group])
        x = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
        x = F.relu(x) if depth + 1 < len(layers) else x
    return x.transpose(0, 1)


class MaskDecoder(nn.Module):
    """Decode image embedding and prompts into one mask, or into candidates for an ambiguous prompt.

    Mask 0 answers unambiguous prompts, the others are the candidates. With dynamic_multimask_via_stability,
    in eval mode only, an unstable mask 0 gives way to the candidate of highest predicted IoU.
    SAM 1's decoder is the one without skips, object score and sigmoid.

    Args:
        transformer_dim: channels C of tokens and embedding; transformer: the built two-way transformer.
        num_multimask_outputs: number of candidates (3).
        iou_head_depth, iou_head_hidden_dim: layers and hidden width of the IoU head.
        use_high_res_features: the encoder's finer levels are added while upscaling.
        pred_obj_scores: judge whether the object is there; without, every score is PRESENT_LOGIT.
        iou_prediction_use_sigmoid: predicted IoUs pass a sigmoid.
        use_multimask_token_for_obj_ptr: candidates hand on their own tokens instead of token 0.
        dynamic_multimask_stability_delta: shift of the threshold, in logits.
        dynamic_multimask_stability_thresh: a mask of at least this stability (0...1) is kept.
    """

    def __init__(
        self,
        transformer_dim: int,
        transformer: TwoWayTransformer,
        num_multimask_outputs: int,
        iou_head_depth: int,
        iou_head_hidden_dim: int,
        use_high_res_features: bool,
        pred_obj_scores: bool,
        iou_prediction_use_sigmoid: bool,
        use_multimask_token_for_obj_ptr: bool,
        dynamic_multimask_via_stability: bool,
        dynamic_multimask_stability_delta: float,
        dynamic_multimask_stability_thresh: float,
    ) -> None:
        super().__init__()
        dim, num_masks = transformer_dim, num_multimask_outputs + 1
        self.transformer = transformer
        self.num_mask_tokens = num_masks
        self.use_high_res_features = use_high_res_features
        self.pred_obj_scores = pred_obj_scores
        self.iou_prediction_use_sigmoid = iou_prediction_use_sigmoid
        self.use_multimask_token_for_obj_ptr = use_multimask_token_for_obj_ptr
        self.dynamic_multimask_via_stability = dynamic_multimask_via_stability
        self.stability_delta = dynamic_multimask_stability_delta
        self.stability_thresh = dynamic_multimask_stability_thresh

        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(num_masks, dim)
        if pred_obj_scores:
            self.obj_score_token = nn.Embedding(1, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        if use_high_res_features:
            self.conv_s0 = nn.Conv2d(dim, dim // 8, 1)
            self.conv_s1 = nn.Conv2d(dim, dim // 4, 1)
        hypernetworks = (MLP(dim, dim, dim // 8, depth=3) for _ in range(num_masks))
        self.output_hypernetworks_mlps = nn.ModuleList(hypernetworks)
        self.iou_prediction_head = MLP(dim, iou_head_hidden_dim, num_masks, iou_head_depth)
        if pred_obj_scores:
            self.pred_obj_score_head = MLP(dim, dim, 1, depth=3)

    def project_high_res(self, *levels: Tensor) -> tuple[Tensor, ...]:
        """Neck levels at strides 4 and 8 -> the skips, B x C/8 x 4n x 4n and B x C/4 x 2n x 2n; none without."""
        if not self.use_high_res_features:
            return ()
        fine, middle = levels
        return self.conv_s0(fine), self.conv_s1(middle)

    def predict_masks(
        self, embed: Tensor, dense_pe: Tensor, sparse: Tensor, dense: Tensor, high_res: tuple[Tensor, ...]
    ) -> MaskPredictions:
        """All masks, the single one first; arguments as in forward. K is num_multimask_outputs + 1."""
        own = [self.obj_score_token] if self.pred_obj_scores else []
        out_tokens = torch.cat([token.weight for token in (*own, self.iou_token, self.mask_tokens)])
        tokens = torch.cat((out_tokens.expand(sparse.shape[0], -1, -1), sparse), dim=1)
        tokens, image = self.transformer(embed + dense, dense_pe, tokens)
        score_token, iou_token, mask_tokens = tokens[:, : len(out_tokens)].split(
            (len(own), 1, self.num_mask_tokens), dim=1
        )
        pixels = self._upscale(image, high_res)
        hyper = run_parallel(self.output_hypernetworks_mlps, mask_tokens)
        masks = (hyper @ pixels.flatten(2)).unflatten(2, pixels.shape[-2:])
        ious = self.iou_prediction_head(iou_token[:, 0]).float()
        ious = ious.sigmoid() if self.iou_prediction_use_sigmoid else ious
        return MaskPredictions(masks.float(), ious, self._score(score_token, ious), mask_tokens)

    def _score(self, token: Tensor, like: Tensor) -> Tensor:
        """The object's score N x 1 from its token N x 1 (or 0) x C."""
        if not self.pred_obj_scores:
            return like.new_full((like.shape[0], 1), PRESENT_LOGIT)
        return self.pred_obj_score_head(token[:, 0]).float()

    def _upscale(self, image: Tensor, high_res: tuple[Tensor, ...]) -> Tensor:
        """N x C x n x n -> N x C/8 x 4n x 4n; the skips are added before norm and activation."""
        if not self.use_high_res_features:
            return self.output_upscaling(image)
        up1, norm, act1, up2, act2 = self.output_upscaling
        image = act1(norm(up1(image) + high_res[1]))
        return act2(up2(image) + high_res[0])

    def select(self, every: MaskPredictions, multimask_output: bool) -> MaskPredictions:
        """Keep the candidates (K = num_multimask_outputs), or one mask (K = 1) and its IoU."""
        first = every.mask_tokens[:, :1]
        if multimask_output:
            tokens = every.mask_tokens[:, 1:] if self.use_multimask_token_for_obj_ptr else first
            return MaskPredictions(
                every.low_res_masks[:, 1:], every.iou_predictions[:, 1:], every.object_score_logits, tokens
            )
        masks, ious = every.low_res_masks[:, :1], every.iou_predictions[:, :1]
        if self.dynamic_multimask_via_stability and not self.training:
            masks, ious = self._replace_unstable(every)
        # The token stays that of mask 0 even where another mask replaced it: pointers were trained that way.
        return MaskPredictions(masks, ious, every.object_score_logits, first)

    def _replace_unstable(self, every: MaskPredictions) -> tuple[Tensor, Tensor]:
        """Mask 0 where stable, else the candidate of highest predicted IoU: N x 1 x 4n x 4n and N x 1."""
        stability = compute_stability(every.low_res_masks[:, 0], self.stability_delta)
        best = every.iou_predictions[:, 1:].argmax(dim=1) + 1
        index = torch.where(stability >= self.stability_thresh, 0, best)[:, None]
        masks = torch.take_along_dim(every.low_res_masks, index[..., None, None], dim=1)
        return masks, torch.take_along_dim(every.iou_predictions, index, dim=1)

    def forward(
        self,
        embed: Tensor,
        dense_pe: Tensor,
        sparse: Tensor,
        dense: Tensor,
        high_res: tuple[Tensor, ...],
        multimask_output: bool,
    ) -> MaskPredictions:
        """Predict masks for N prompts.

        Args:
            embed: image embedding, N (or 1, shared by all prompts) x C x n x n.
            dense_pe: 1 x C x n x n, encoding of the embedding's grid.
            sparse: N x T x C prompt tokens; dense: N (or 1) x C x n x n mask prompt.
            high_res: skips of project_high_res, batch N (or 1); none without use_high_res_features.
            multimask_output: return the candidates instead of one mask.
        """
        every = self.predict_masks(embed, dense_pe, sparse, dense, high_res)
        return self.select(every, multimask_output)
