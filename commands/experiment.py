"""Run one experiment: a result file (JSON), a page (Markdown) and a picture (PNG) in the output folder."""

from __future__ import annotations

import argparse
import importlib
import shlex
from pathlib import Path
from types import ModuleType

from .help import HelpFormatter
from .models import add_model_arguments, load_model, warn_untrained

EXPERIMENTS = {
    "scaling-curve": "examples seen against held-out loss and answers, extrapolated",
    "handbook": "files of nine kinds: all read, all found, answered, refused where they hold no answer",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clara experiment`."""
    listed = "\n".join(f"  {name:18}{text}" for name, text in EXPERIMENTS.items())
    parser.epilog = f"experiments:\n{listed}"
    parser.add_argument("experiment", choices=list(EXPERIMENTS), metavar="NAME", help="one of those below")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="of the experiment: clara experiment NAME --help lists them"
    )


def run(arguments: argparse.Namespace) -> None:
    """Measures, then writes result, page and picture."""
    from ..evaluation.language_models import ClaraModel
    from ..evaluation.tables import write_report

    module = find(arguments.experiment)
    prog, style = f"clara experiment {arguments.experiment}", HelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=module.__doc__, formatter_class=style)
    add = parser.add_argument
    add("--output", type=Path, default=Path("results"), metavar="FOLDER", help="of the files")
    add("--name", default=arguments.experiment, help="of the files")
    module.add_arguments(parser)
    if module.NEEDS_MODEL:
        add_model_arguments(parser)
    options = parser.parse_args(arguments.options)
    model = name = None
    if module.NEEDS_MODEL:
        model, trained = load_model(options.model, options.device)
        warn_untrained(trained)
        name = f"{model.config.base_model_name_or_path} at {model.config.compression_rate}x "
        name += f"(fingerprint {ClaraModel(model).fingerprint()[:12]})"
    result = module.measure(options, model)
    command = shlex.join(["clara", "experiment", arguments.experiment, *arguments.options])
    document = {"command": command, "model": name, "result": result}
    made = f" with {name}" if name else ""
    page = f"{module.render(result)}\nMade by `{command}`{made}.\n\n![picture]({options.name}.png)\n"
    write_report(options.output / options.name, document, page)
    module.plot(result, options.output / f"{options.name}.png")
    print(page)


def find(name: str) -> ModuleType:
    """The module of an experiment."""
    package = __package__.rpartition(".")[0]
    return importlib.import_module(f"{package}.evaluation.experiments.{name.replace('-', '_')}")
