"""What a release is: the files of one published dataset. It knows nothing of splits to carve, sizes or prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from medsam2.data.records import DatasetError, Record


class Problem(NamedTuple):
    """One thing wrong with the files, found while listing them: a case that is half there."""

    kind: str  # "missing mask", "missing rater"
    text: str  # names the file, relative to the root


@dataclass
class Listing:
    """The cases of a release: ``split`` and ``patient_id`` as published, split "" where the release has none."""

    records: list[Record]
    problems: list[Problem] = field(default_factory=list)


def join(listings: Iterable[Listing]) -> Listing:
    """Several listings as one."""
    each = list(listings)
    return Listing([r for one in each for r in one.records], [p for one in each for p in one.problems])


class Decoded(NamedTuple):
    """One image as read: float32 H×W×3 (or ×1) in [0, 1], bool R×H×W per structure, (row, column) mm or None."""

    image: NDArray[np.float32]
    raters: dict[str, NDArray[np.bool_]]
    spacing: tuple[float, float] | None = None


class Volume(NamedTuple):
    """A volume as its file has it.

    ``array`` is X×Y×Z (images: or X×Y×Z×C, channels in [0, 1] or raw intensities); ``affine`` 4×4 maps its indices to
    millimetres (right, anterior, superior). None: the array is slice×row×column already and has no physical size.
    """

    array: NDArray[np.generic]
    affine: NDArray[np.float64] | None


class Release(Protocol):
    """What ImageDataset and VolumeDataset ask of the files alike."""

    @property
    def tree(self) -> str:
        """The expected tree below the root, a line per kind of file, as an error shows it."""

    @property
    def remedy(self) -> str:
        """How to obtain the data, in a sentence."""

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """Every structure that is labelled, in the order of their ids."""

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every labelled case, nothing decoded. Raises DatasetError (``missing``) where the tree is not there."""


class ImageRelease(Release, Protocol):
    """Files of single images."""

    def read(self, root: Path, record: Record) -> Decoded:
        """Decode the image and the raters of every structure in ``record.labels``.

        Raises DatasetError naming the file that is damaged, of another size, or holds undeclared values.
        """


class VolumeRelease(Release, Protocol):
    """Files of volumes; ``list_cases`` gives a record per volume, its structures all with the same label file."""

    def find_labels(self, root: Path) -> Mapping[str, tuple[int, ...]]:
        """structure -> the values that mark it; a structure may be the union of several."""

    def read_image(self, root: Path, record: Record) -> Volume:
        """The intensities, raw (HU for CT)."""

    def read_label(self, root: Path, record: Record) -> Volume:
        """The label values, integers, on the grid of the image."""


def missing(release: Release, root: Path, what: str) -> DatasetError:
    """The one error for a tree that is not there: what is expected, what was found, which key."""
    hint = "".join(f". Did you mean dataset.root={folder}?" for folder in find_below(release, root))
    text = f"{root}: {what}. Found there: {show_folder(root)}{hint}\n{explain(release)}"
    return DatasetError(text, kind="missing")


def find_below(release: Release, root: Path) -> list[Path]:
    """The folder right below the root that begins like the tree, if it is one: archives often add a folder."""
    lines = [line.strip().split("/")[0] for line in release.tree.splitlines() if "/" in line]
    names = {name for name in lines if name and not set(name) & set("<{*…([ ")}
    folders = [folder for folder in sorted(root.iterdir()) if folder.is_dir()] if root.is_dir() else []
    below = [folder for folder in folders if any((folder / name).is_dir() for name in names)]
    return below if len(below) == 1 else []


def explain(release: Release) -> str:
    """The end of every error about a tree that is not there or is half there: what is expected, whence, which key."""
    tree = "\n".join("  " + line for line in release.tree.strip("\n").splitlines())
    return (
        f"expected below it\n{tree}\n{release.remedy}\n"
        "Set dataset.root to that folder, or paths.data_root to the folder that holds it."
    )


def show_folder(folder: Path, limit: int = 10) -> str:
    """The first names of a folder on one line."""
    if not folder.is_dir():
        return "no such folder" if not folder.exists() else "a file, not a folder"
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return ", ".join(names[:limit]) + (f", … {len(names)} entries" if len(names) > limit else "") or "an empty folder"


def files_by_stem(folder: Path, suffixes: Iterable[str], strip: str = "") -> dict[str, Path]:
    """case id -> file of a folder and its subfolders; ``strip`` is what the names carry behind the id.

    Hidden files are left out: archives made on a Mac hold ``._name`` beside every ``name``; so are links to nothing.
    Raises DatasetError for two files with one id, and for nothing but such links.
    """
    endings = tuple(f"{strip}{suffix}".lower() for suffix in suffixes)
    return collect(sorted(folder.rglob("*")), partial(strip_ending, endings=endings))


def strip_ending(path: Path, endings: Iterable[str]) -> str:
    """A file's name without the first of ``endings`` (in lower case) that it has; "" if it has none."""
    lower = path.name.lower()
    return next((path.name[: -len(ending)] for ending in endings if lower.endswith(ending)), "")


def collect(paths: Iterable[Path], case_of: Callable[[Path], str]) -> dict[str, Path]:
    """case id -> path, where ``case_of`` finds an id; hidden files and links to nothing are left out.

    Raises DatasetError for two paths with one id, and for nothing but such links.
    """
    found: dict[str, Path] = {}
    broken = []
    for path in paths:
        case = case_of(path)
        if not case or path.name.startswith((".", "__")):
            continue
        if not path.exists():
            broken.append(path)
            continue
        if case in found:
            other = found[case].name if found[case].parent == path.parent else found[case]
            raise DatasetError(
                f"{path} and {other} are both named {case}. Delete one of them, or rename it.",
                kind="duplicate id",
            )
        found[case] = path
    if broken and not found:
        raise links_to_nothing(broken)
    return found


def links_to_nothing(links: Sequence[Path]) -> DatasetError:
    """The error where all that is there are links whose files are not, as git-annex leaves them."""
    number = len(links) - 1
    others = f", and so {'is' if number == 1 else 'are'} {number} more" if number else ""
    return DatasetError(
        f"{links[0]} is a link to a file that is not there{others}: fetch the files (git annex get, datalad get)",
        kind="missing",
    )
