# SPDX-License-Identifier: Apache-2.0
"""A picture of what a command prints in a terminal, for the README.

python -m burnish.tools.picture docs/report.svg optimize model.onnx --passes fuse
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from rich.console import Console
from rich.text import Text

from burnish.files import write_aside

_WIDTH = 92


def picture(path: Path, command: list[str]) -> None:
    """Run a command of this package and save its coloured output as SVG.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    program = Path(sysconfig.get_path("scripts")) / command[0]
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(_WIDTH)}
    done = subprocess.run(
        [program, *command[1:]], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    shown = " ".join(Path(word).name if word.startswith("/") else word for word in command)
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=_WIDTH, file=nowhere, force_terminal=True)
        console.print(f"$ {shown}", highlight=False, markup=False)
        # Absolute paths say nothing to a reader.
        console.print(Text.from_ansi(done.stdout.replace(f"{Path.cwd()}/", "")))
        svg = console.export_svg(title=command[0], unique_id="report")
    with write_aside(path) as aside:
        aside.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    picture(Path(sys.argv[1]), sys.argv[2:])
