"""How sweeps stand, told from their manifests and run directories alone: on any machine that sees them, at any time."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from rich.console import Console

from medsam2.manifest import Manifest
from medsam2.results.board import build_board, count_states, survey

log = logging.getLogger(__name__)


def status(output_dir: str, sweep: str | None = None) -> None:
    """Prints the jobs of a sweep with their states, epochs and reasons, or how every sweep stands.

    Args:
        output_dir: holds sweeps/ and runs/.
        sweep: the id of a sweep, or its beginning; None lists all sweeps and shows the one that was given last.

    Raises:
        ValueError: there is no such sweep; the message lists what there is.
    """
    folder = Path(output_dir).expanduser().absolute()
    console = Console()
    console = Console(width=None if console.is_terminal else 160)
    manifests = [Manifest.find(folder, sweep)] if sweep else Manifest.every(folder)
    if not manifests:
        log.info("no sweep below %s yet", folder / "sweeps")
        return
    for manifest in reversed(manifests[1:]):
        console.print(f"{manifest.folder.name}  {manifest.read()['name']}: {count_states(survey(manifest))}")
    manifest = manifests[0]
    states = survey(manifest)
    console.print(build_board(states, f"sweep {manifest.folder.name}: {count_states(states)}"))
    for name, state in states:
        if state["state"] == "failed":
            said = f"{name}: {state.get('error')}\n  {state.get('run_dir', '')}"
            console.print(said, soft_wrap=True, markup=False, highlight=False)
    if any(state["state"] != "finished" for _, state in states):
        command = shlex.join(["python", *(word for word in manifest.read()["command"] if word != "force=true")])
        console.print(
            f"the same command runs what is missing: {command}", soft_wrap=True, markup=False, highlight=False
        )
