"""Rows, readers, synthesis, collation and the small samples."""
