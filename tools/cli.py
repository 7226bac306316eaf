# SPDX-License-Identifier: Apache-2.0
"""The two console scripts, `optimize` and `burnish`, and how errors become exit codes.

Nothing but click is imported here: `--help` must be instant.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import importlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import click

from burnish.errors import BurnishError

EXIT_INTERNAL = 1
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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
    "ablate": "burnish.tools.ablate:command",
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
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None if closed from the start
        with contextlib.suppress(OSError):  # nobody reads any more
            stream.flush()
    os._exit(code)


def run(command: click.Command, name: str) -> int:
    """Run a click command, turning every error into one line and the documented exit code."""
    debug = "--debug" in sys.argv
    # A graph is many small objects that live long. Looking for garbage among them as often as the
    # default does takes a tenth of the time of a whole optimization.
    gc.set_threshold(100_000, 50, 50)
    _print_whatever_the_locale()
    try:
        with _cleaning_up_when_told_to_end():
            code = command.main(prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as leave:
        code = leave.exit_code
    except _ToldToEnd as told:
        code = 128 + told.signal
    except click.Abort:
        code = EXIT_INTERRUPTED
    except click.UsageError as error:
        code = _misuse(name, error)
    except BurnishError as error:
        code = _fail(name, error, debug, error.exit_code)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        code = EXIT_INTERNAL  # nobody reads any more
    except Exception as error:
        code = _fail(name, error, debug, EXIT_INTERNAL)
    return code if isinstance(code, int) else 0


class _ToldToEnd(BaseException):
    """A signal that ends a process; no error, so nothing handles it but what cleans up."""

    def __init__(self, signal: int) -> None:
        self.signal = signal


@contextlib.contextmanager
def _cleaning_up_when_told_to_end() -> Iterator[None]:
    """Within the context, a process that is told to end removes what it has half written."""
    if threading.current_thread() is not threading.main_thread():
        yield  # others cannot handle signals
        return

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # told again, it ends at once
        raise _ToldToEnd(number)

    names = ("SIGTERM", "SIGHUP")
    numbers = [number for name in names if (number := getattr(signal, name, None)) is not None]
    # What is ignored, as by nohup, stays so.
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _print_whatever_the_locale() -> None:
    """Let characters that a terminal does not have be shown as codes, and not be an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


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
    message = str(error) if isinstance(error, BurnishError) else _internal(error)
    for note in getattr(error, "__notes__", ()):
        message += f"; {note}"
    click.echo(f"{name}: error: {message}", err=True)
    return code


def _internal(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"no space left{f' for {error.filename}' if error.filename else ''}"
    return f"internal error: {error!r}"


def debug_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--debug`, which `run` reads from the command line itself."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
    )(function)
