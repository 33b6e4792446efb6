"""The `clara` command line: one sub-command for each file of this folder that does a job."""

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

USER_ERRORS = (ValueError, OSError, ImportError, RuntimeError)


def find_commands() -> dict[str, ModuleType]:
    """Every module of this folder that has `add_arguments` and `run`, by the name of its command."""
    folder = importlib.import_module(__package__)
    names = [info.name for info in pkgutil.iter_modules(folder.__path__)]
    modules = {name.replace("_", "-"): importlib.import_module(f"{__package__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "add_arguments")}


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; importing and parsing load neither torch nor transformers."""
    parser = argparse.ArgumentParser(
        prog="clara",
        description="CLaRa: documents become memories, which are both searched and read for answers.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in find_commands().items():
        text = module.__doc__.strip()
        summary = text.splitlines()[0]
        command = commands.add_parser(
            name,
            help=summary[0].lower() + summary[1:].rstrip("."),
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: the words after `clara`; those of the process by default.

    Returns:
        The exit status: 0, 2 after an error of the user (one line on stderr), 130 when interrupted.
    """
    parsed = make_parser().parse_args(arguments)
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
