"""The `clara` command line: one sub-command for each file of this folder that does a job."""

import argparse
import atexit
import gc
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

from .. import __version__
from .help import EXAMPLES, EXIT_CODES, EXIT_LINE, HelpFormatter, examples, overview
from .models import quiet_kernels

USER_ERRORS = (ValueError, OSError, ImportError, RuntimeError)


def find_commands() -> dict[str, ModuleType]:
    """Every module of this folder that has `add_arguments` and `run`, by the name of its command."""
    folder = importlib.import_module(__package__)
    names = [info.name for info in pkgutil.iter_modules(folder.__path__)]
    modules = {name.replace("_", "-"): importlib.import_module(f"{__package__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "add_arguments")}


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; importing and parsing load neither torch nor transformers."""
    found = find_commands()
    parser = argparse.ArgumentParser(
        prog="clara",
        usage="clara [--version] [--help] COMMAND ...",
        description="CLaRa: documents become memories, which are both searched and read for answers.\n\n"
        f"{overview({name: _summary(module) for name, module in found.items()})}",
        epilog=f"{examples([*EXAMPLES['demo'][:1], *EXAMPLES['build-memory'][:1], *EXAMPLES['ask'][:1]])}\n\n"
        f"{EXIT_CODES}\n\n`clara COMMAND --help` says more of each.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"clara {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", help="one of the commands above", prog="clara"
    )
    for name, module in found.items():
        command = commands.add_parser(name, description=module.__doc__.strip(), formatter_class=HelpFormatter)
        module.add_arguments(command)
        lines = [command.epilog, EXIT_LINE, examples(EXAMPLES[name])]
        command.epilog = "\n\n".join(filter(None, lines))
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=module.run)
    return parser


def _summary(module: ModuleType) -> str:
    """The first sentence of a command's docstring, as it stands in a list."""
    line = module.__doc__.strip().splitlines()[0]
    return line[0].lower() + line[1:].rstrip(".")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command, given by the words after `clara`; its exit status is as `help.EXIT_CODES` says."""
    parsed = make_parser().parse_args(arguments)
    quiet_kernels()
    atexit.register(gc.freeze)  # the process ends at once: Python looks for no garbage on its way out
    os.environ.setdefault("LOGURU_LEVEL", "WARNING")  # datatrove's log files hold all
    try:
        parsed.run(parsed)
    except KeyboardInterrupt:
        print(f"clara {parsed.command}: interrupted", file=sys.stderr)
        return 130
    except USER_ERRORS as error:
        if parsed.debug:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"clara {parsed.command}: {message}", file=sys.stderr)
        return 2
    return 0
