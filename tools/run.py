# SPDX-License-Identifier: Apache-2.0
"""`burnish run ARTIFACT --input x.npz --output y.npz`: run an artefact on files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from burnish.errors import InputError
from burnish.tools.cli import debug_option

if TYPE_CHECKING:
    from burnish.backends.serve import Feeds


@click.command(name="run", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("artifact")
@click.option(
    "--input",
    "source",
    required=True,
    metavar="X.npz|DIR",
    help="Arrays by name of input; or a folder of such files, one request each.",
)
@click.option(
    "--output", required=True, metavar="Y.npz|DIR", help="Where the outputs go, by the same names."
)
@click.option("--threads", type=click.IntRange(min=0), help="Instead of the artefact's own.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that share the requests of a folder.",
)
@click.option("--no-check", is_flag=True, help="Do not compare files with their digests first.")
@debug_option
def command(
    artifact: str, source: str, output: str, threads: int | None, workers: int, no_check: bool
) -> None:
    """Run ARTIFACT on the arrays of an .npz file, or of each in a folder."""
    from burnish.tools.startup import defer_imports

    defer_imports()
    from burnish.backends.artifact.folder import samples
    from burnish.backends.serve import serve
    from burnish.tools.present import show

    target = Path(output)
    many = Path(source).is_dir()
    if many:
        _make_folder(target)
    elif target.is_dir():
        raise InputError(f"output {target} is a folder", hint="name an .npz file")
    settings = {} if threads is None else {"threads": threads}
    requests = samples(source)
    count = 0
    for name, outputs in serve(
        artifact, requests, workers=workers, check=not no_check, settings=settings
    ):
        _save(target / name if many else target, outputs)
        count += 1
    show(f"wrote {count} file{'s' * (count != 1)} to {target}")


def _make_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output {folder} is a file", hint="name a folder")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make folder {folder}: {error.strerror}", hint="choose another output"
        ) from error


def _save(path: Path, outputs: Feeds) -> None:
    import numpy as np

    from burnish.files import write_aside

    with write_aside(path) as aside, aside.open("wb") as file:
        np.savez(file, allow_pickle=False, **outputs)
