"""Writes the catalogue in docs/datasets.md from the datasets' own files: `python docs/make_datasets.py`.

What is known of a dataset stands in one place, the header of its conf/dataset/NAME.yaml; the tree it expects stands in
its release, which shows it in errors too.
"""

from __future__ import annotations

import re
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from medsam2.config import PROJECT, register_resolvers

PAGE = PROJECT / "docs" / "datasets.md"
MARK = "<!-- From here on written by `python docs/make_datasets.py` -->"
FIELD = re.compile(r"^(\w+) {2,}(.*)$")


def make_page(text: str) -> str:
    """The page with everything below the mark made anew."""
    register_resolvers()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        files = sorted((PROJECT / "conf" / "dataset").glob("*.yaml"))
        sections = [_section(file) for file in files]
    index = [f"- [`{file.stem}`](#{file.stem}) {_split(file)[0][0]}" for file in files]
    return "\n".join([text.split(MARK)[0] + MARK, "", *index, "", *sections]).rstrip() + "\n"


def _split(file: Path) -> tuple[list[str], str]:
    """The lines of a file's header, and the rest."""
    lines = file.read_text(encoding="utf-8").splitlines()
    count = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return [line.removeprefix("#").removeprefix(" ") for line in lines[:count]], "\n".join(lines[count:])


def _section(file: Path) -> str:
    header, config = _split(file)
    parts = [f"## {file.stem}\n", header[0], ""]
    for line in header[1:]:
        if found := FIELD.match(line):
            parts.append(f"- **{found[1]}** {found[2].strip()}")
        elif line.strip():
            parts[-1] += f" {line.strip()}"
    release = getattr(instantiate(compose("config", [f"dataset={file.stem}"]).dataset), "release", None)
    if release is not None:
        parts += [f"\n{release.remedy}\n", "```text", release.tree.strip("\n"), "```"]
    own = config.replace("defaults:\n  - base/images@_here_\n  - _self_\n", "")
    own = own.replace("defaults:\n  - base/volumes@_here_\n  - _self_\n", "")
    return "\n".join([*parts, "\n```yaml", own.strip(), "```\n"])


if __name__ == "__main__":
    PAGE.write_text(make_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
