"""Experiments, one module each, run by `clara experiment NAME`.

A module has `NEEDS_MODEL`, `add_arguments(parser)`, `measure(arguments, model)` which returns JSON values,
`render(result)` which returns a Markdown page, and `plot(result, path)` which writes a PNG.
"""
