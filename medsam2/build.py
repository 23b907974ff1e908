"""The network from its configuration, for use without a run, and what trains it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from medsam2.config import PROJECT, environment_path, register_resolvers

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from medsam2.methods.base import Method
    from medsam2.modeling.sam import SAM

log = logging.getLogger(__name__)


def build_model(model: str, *overrides: str) -> SAM:
    """A network of conf/model with its weights, in evaluation mode: `build_model("sam2_t", "image_size=512")`.

    Args:
        model: a choice of the group `model`; its checkpoint is loaded, `model.checkpoint=null` leaves random weights.
        overrides: any others, as on the command line of run.py.

    Raises:
        FileNotFoundError, ValueError: as load_checkpoint. ValueError: an image_size that is no multiple of 32.
        hydra.errors.HydraException: an override that is none.
    """
    from medsam2.modeling.image_encoder import check_image_size

    register_resolvers()
    with no_other_app(), initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        cfg = compose("config", [f"model={model}", *overrides])
    check_image_size("image_size", cfg.image_size, 32)
    return build_network(cfg).eval()


@contextmanager
def no_other_app() -> Iterator[None]:
    """Let a caller that is a Hydra application itself keep its own state."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer


def build_method(cfg: DictConfig, structures: Sequence[str] = (), num_tokens: int = 0) -> Method:
    """The method of a run with its network, as build_network, which gets low-rank updates where the tuning says so.

    Masks that are there already need no network.
    """
    if "network" not in cfg.model:
        stored: Method = instantiate(cfg.method)()
        return stored
    network = build_network(cfg, structures, num_tokens)
    if cfg.model.tuning.lora is not None:
        from medsam2.modeling.lora import add_lora

        add_lora(network, seed=cfg.seed, **OmegaConf.to_container(cfg.model.tuning.lora, resolve=True))  # type: ignore[arg-type]
    method: Method = instantiate(cfg.method)(model=network, loss=instantiate(cfg.loss), seed=cfg.seed)
    return method


def build_optimizer(cfg: DictConfig, method: Method) -> Optimizer:
    """The optimiser of the parameters that the tuning names; all others are frozen."""
    from medsam2.optim import build_groups

    tuning: Any = OmegaConf.to_container(cfg.model.tuning, resolve=True)
    groups = build_groups(method.model, tuning["groups"], cfg.optim.lr, tuning["decay_all"])
    optimizer: Optimizer = instantiate(cfg.optim)(params=groups)
    return optimizer


def build_network(cfg: DictConfig, structures: Sequence[str] = (), num_tokens: int = 0) -> SAM:
    """The network of a run's config, with its weights, in training mode.

    Args:
        structures, num_tokens: those that get learned prompts, of so many tokens each; the checkpoint may hold them.
    """
    from medsam2.modeling.weights import load_checkpoint

    network: SAM = instantiate(cfg.model.network)
    if num_tokens:
        from medsam2.modeling.learned_prompts import LearnedPrompts

        dim = network.sam_prompt_encoder.no_mask_embed.embedding_dim
        network.learned_prompts = LearnedPrompts(structures, num_tokens, dim)
    if cfg.model.checkpoint is not None:
        path = environment_path(cfg.model.checkpoint)
        lacking = load_checkpoint(network, path, cfg.model.strict, cfg.model.sha256, optional=["learned_prompts."])
        if network.learned_prompts is not None:
            network.learned_prompts.untrained = lacking
    count = sum(p.numel() for p in network.parameters())
    start = "random weights" if cfg.model.checkpoint is None else Path(cfg.model.checkpoint).name
    log.info("%s: %.2f M parameters, %s, %d px", cfg.model.name, count / 1e6, start, cfg.image_size)
    return network
