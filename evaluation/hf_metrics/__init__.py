"""Metrics in the form of the `evaluate` library, each file loadable by its path."""
