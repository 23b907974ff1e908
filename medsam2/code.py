"""Which code computes: a job that waits in a queue must not start with other code than it was submitted with."""

from __future__ import annotations

import subprocess
from pathlib import Path

from medsam2.files import hash_contents

PROJECT = Path(__file__).resolve().parent.parent


def code_hash() -> str:
    """Sixteen hex digits that change with every edit of the package, of conf/ and of run.py, committed or not."""
    files = [*(PROJECT / "medsam2").rglob("*.py"), *(PROJECT / "conf").rglob("*.yaml"), PROJECT / "run.py"]
    return hash_contents((f for f in files if f.is_file()), PROJECT)[:16]


def git_revision() -> str:
    """The commit of the code, with `-dirty` behind it where files differ from it; `unknown` outside a checkout."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
