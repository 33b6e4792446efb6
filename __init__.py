"""CLaRa: retrieval and generation in one continuous space. Import from the submodules."""
