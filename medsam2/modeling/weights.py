"""Read a checkpoint into a model: strict on everything the model has; code in a file never runs."""

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

RELEASE_URL = "https://dl.fbaipublicfiles.com/segment_anything_2"
# (width of the first stage, number of blocks) -> (variant, model choice)
VARIANTS = {
    (96, 12): ("tiny", "sam2_t"),
    (96, 16): ("small", "sam2_s"),
    (112, 24): ("base_plus", "sam2_b"),
    (144, 48): ("large", "sam2_l"),
}
# Parts of a released file that serve tracking; a model without them works on single images.
MEMORY_PREFIXES = (
    "memory_attention.",
    "memory_encoder.",
    "mask_downsample.",
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_",
    "obj_ptr_",
)
RELEASES = {"2.0": "sam2_0", "2.1": "sam2_1"}
SHOWN = 8  # names listed per kind of mismatch


def describe_checkpoint(state: Mapping[str, Tensor]) -> str:
    """Say which released variant a state dict looks like and how to choose it; empty for no known one."""
    patches = state.get("image_encoder.trunk.patch_embed.proj.weight")
    blocks = {name.split(".")[3] for name in state if name.startswith("image_encoder.trunk.blocks.")}
    known = VARIANTS.get((patches.shape[0], len(blocks))) if patches is not None else None
    if known is None:
        return ""
    variant, choice = known
    release = "2.1" if any(name.startswith("obj_ptr_tpos_proj") for name in state) else "2.0"
    return f"the file looks like SAM {release} {variant}: use model={choice} model/release={RELEASES[release]}"


def missing_checkpoint_message(path: str | Path) -> str:
    """What to do about a checkpoint that is not there: where a released file of that name is, or random weights."""
    path = Path(path)
    folder = "072824" if path.name.startswith("sam2_hiera") else "092824"
    name = path.name if "hiera_" in path.name else "sam2.1_hiera_{tiny,small,base_plus,large}.pt"
    return (
        f"model.checkpoint={path} does not exist. Released weights: download {RELEASE_URL}/{folder}/{name} into "
        "paths.checkpoint_dir; model.checkpoint=null starts from random weights"
    )


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read `{"model": state_dict}` or a bare state dict from a .pt or .safetensors file, to the CPU.

    Raises:
        FileNotFoundError: no such file; the message says where the released files are.
        ValueError: the file is damaged, would run code when unpickled, or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(missing_checkpoint_message(path))
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    state = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict: expected tensors by name, or the same under the key 'model'")
    return dict(state)


def _read_pickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"model.checkpoint={path} is damaged, or holds objects that could run code: not loaded. "
            "Download it again, or save model.state_dict() alone"
        ) from error
    except Exception as error:  # damaged bytes make the unpickler raise almost anything
        raise ValueError(
            f"model.checkpoint={path} is no checkpoint, or a damaged one ({error!r}); get it again"
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or incomplete ({error}). Download it again") from error


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint into `model`; every tensor of the model must be there in its shape.

    Tensors of SAM 2's memory that the model does not have are left out and their number is logged.

    Raises:
        FileNotFoundError, ValueError: as read_state_dict.
        ValueError: tensors are missing, of another shape or unexpected; one message lists them all.
    """
    state = read_state_dict(path)
    wanted = model.state_dict()
    extra = [name for name in state if name not in wanted]
    unused = [name for name in extra if name.startswith(MEMORY_PREFIXES)]
    problems = {
        "missing": [name for name in wanted if name not in state],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} (the model has {tuple(wanted[name].shape)})"
            for name in wanted
            if name in state and state[name].shape != wanted[name].shape
        ],
        "unexpected": sorted(set(extra) - set(unused)),
    }
    if any(problems.values()):
        raise ValueError(_explain(path, problems, describe_checkpoint(state)))
    model.load_state_dict({name: state[name] for name in wanted})
    log.info("loaded %d tensors from %s, %d of the memory left out", len(wanted), path, len(unused))


def _explain(path: str | Path, problems: dict[str, list[str]], variant: str) -> str:
    lines = [f"model.checkpoint={path} does not fit the model" + (f"; {variant}" if variant else "")]
    for kind, names in problems.items():
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        if names:
            lines.append(f"  {len(names)} {kind}: {', '.join(names[:SHOWN])}{more}")
    return "\n".join(lines)
