"""What a plot shows."""

import math
from unittest import mock

from matplotlib.figure import Figure
from matplotlib.image import imread


def drawn(figure):
    """Every number at which a figure has a point, or up to which it has a bar."""
    for axes in figure.axes:
        for line in axes.lines:
            yield from (float(value) for value in [*line.get_xdata(), *line.get_ydata()])
        for bar in axes.patches:
            yield from (bar.get_height(), bar.get_width()) if hasattr(bar, "get_height") else ()


def assert_shows(plot, result, path, values):
    """A plot of a result is written as a picture that is not blank, and shows all these values."""
    figures, save = [], Figure.savefig

    def note(figure, *args, **kwargs):
        figures.append(figure)
        return save(figure, *args, **kwargs)

    with mock.patch.object(Figure, "savefig", note):
        plot(result, path)
    (figure,) = figures
    image = imread(path)
    assert image.shape[0] > 200 and image.shape[1] > 200 and image[..., :3].std() > 0.02
    numbers, values = list(drawn(figure)), list(values)
    missing = [value for value in values if not any(math.isclose(value, n, abs_tol=1e-9) for n in numbers)]
    assert values and not missing
