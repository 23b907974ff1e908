"""Small trees with exactly the layout, names and encodings of the real releases, written by the tests themselves.

``trees_fundus``, ``trees_volumes``, ``trees_flat`` and ``trees_folder`` each hold a list TREES.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Tree(NamedTuple):
    """One layout of one dataset. ``write(data_root)`` makes it where the dataset's config looks for it."""

    name: str  # unique, an id for tests
    dataset: str  # the choice of conf/dataset
    write: Callable[[Path], None]
    overrides: tuple[str, ...] = ()

    def command(self, data_root: Path) -> list[str]:
        """The overrides that select it, as on the command line."""
        return [f"dataset={self.dataset}", *self.overrides, f"paths.data_root={data_root}"]


def all_trees() -> list[Tree]:
    from trees_flat import TREES as FLAT
    from trees_folder import TREES as FOLDER
    from trees_fundus import TREES as FUNDUS
    from trees_volumes import TREES as VOLUMES

    return [*FUNDUS, *VOLUMES, *FLAT, *FOLDER]
