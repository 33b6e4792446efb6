"""CLaRa: retrieval and generation in one continuous space. Import from the submodules (`clara.modeling_clara`)."""
