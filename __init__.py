"""CLaRa: retrieval and generation in one continuous space. Import from the submodules."""

__version__ = "0.1.0"
