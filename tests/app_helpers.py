"""The demonstration page's script, imported as a Space runs it: from the root, beside its two files."""

import importlib
import sys

from conftest import ROOT


def import_app():
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module("app")
    finally:
        sys.path.remove(str(ROOT))
