# SPDX-License-Identifier: Apache-2.0
"""The two console scripts, `optimize` and `burnish`, and how errors become exit codes.

Nothing but click is imported here: `--help` must be instant.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import click

from burnish.errors import BurnishError

EXIT_INTERNAL = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

# Command -> (module:attribute, one line of help); the module is imported when the command runs.
_COMMANDS = {
    "optimize": "burnish.tools.optimize:command",
    "inspect": "burnish.tools.inspect:command",
    "passes": "burnish.tools.passes:command",
    "calibrate": "burnish.tools.calibrate:command",
    "bench": "burnish.tools.bench:command",
    "run": "burnish.tools.run:command",
    "profiles": "burnish.tools.profiles:command",
    "partition": "burnish.tools.partition:command",
    "verify-artifact": "burnish.tools.verify_artifact:command",
    "bisect": "burnish.tools.bisect:command",
    "zoo": "burnish.tools.zoo_command:command",
}


class LazyGroup(click.Group):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        found: click.Command = getattr(importlib.import_module(module), attribute)
        return found


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="burnish")
def group() -> None:
    """Optimize neural networks: never slower, never wrong, never silent."""


def main() -> None:
    """Run the console script `burnish`."""
    leave(run(group, "burnish"))


def optimize_main() -> None:
    """Run the console script `optimize`."""
    from burnish.tools.optimize import command

    leave(run(command, "optimize"))


def leave(code: int) -> NoReturn:
    """End the process at once: the system frees in one go what Python would take apart."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads any more
            stream.flush()
    os._exit(code)


def run(command: click.Command, name: str) -> int:
    """Run a click command, turning every error into one line and the documented exit code."""
    debug = "--debug" in sys.argv
    # A graph is many small objects that live long. Looking for garbage among them as often as the
    # default does takes a tenth of the time of a whole optimization.
    gc.set_threshold(100_000, 50, 50)
    try:
        code = command.main(prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as leave:
        code = leave.exit_code
    except click.Abort:
        code = EXIT_INTERRUPTED
    except click.UsageError as error:
        code = _misuse(name, error)
    except BurnishError as error:
        code = _fail(name, error, debug, error.exit_code)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except Exception as error:
        code = _fail(name, error, debug, EXIT_INTERNAL)
    return code if isinstance(code, int) else 0


def _misuse(name: str, error: click.UsageError) -> int:
    # A group called without a command raises its help text, since click 8.2.
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        error.show()
        return error.exit_code
    message = " ".join(error.format_message().split()).removesuffix(".")
    of = name if error.ctx is None else error.ctx.command_path
    click.echo(f"{name}: error: {message}; see {of} --help", err=True)
    return error.exit_code


def _fail(name: str, error: Exception, debug: bool, code: int) -> int:
    if debug:
        traceback.print_exc()
    message = str(error) if isinstance(error, BurnishError) else f"internal error: {error!r}"
    for note in getattr(error, "__notes__", ()):
        message += f"; {note}"
    click.echo(f"{name}: error: {message}", err=True)
    return code


def debug_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--debug`, which `run` reads from the command line itself."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
    )(function)
