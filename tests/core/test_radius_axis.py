"""Axes that figures share."""

from hfc_probe.core.drawing import new_figure, radius_axis


def test_half_a_figure_has_room_for_fewer_labels_than_the_whole():
    radii = range(4, 64, 2)
    labels = []
    for figure in (new_figure(4, 3), new_figure(8, 3).subfigures(1, 2)[0], new_figure(8, 3)):
        axes = figure.subplots()
        radius_axis(axes, radii, "cycles/image")
        labels.append([one.get_text() for one in axes.get_xticklabels()])
    assert labels[0] == labels[1]
    assert sum(map(bool, labels[1])) < sum(map(bool, labels[2]))
