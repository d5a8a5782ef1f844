"""How figures look is a style file's to say, and a model's colour is the same in every figure."""

import matplotlib
import pytest

from vitals.figures import look, scrambling, style, style_file


def test_what_a_style_sets_is_seen_and_its_sizes_grow_with_the_scale():
    with look.chosen(["font.size: 9", "axes.spines.top: True"]), style.theme(2.0):
        assert matplotlib.rcParams["font.size"] == 18
        assert matplotlib.rcParams["axes.spines.top"]
        assert matplotlib.rcParams["axes.titlesize"] == pytest.approx(21.6)  # "large", of 18
        # what it leaves out is matplotlib's own
        assert matplotlib.rcParams["axes.titlelocation"] == "center"
    with style.theme(1.0):
        assert matplotlib.rcParams["font.size"] == 7
        assert matplotlib.rcParams["axes.titlelocation"] == "left"


def test_a_figure_is_drawn_in_the_style_that_is_chosen(by_model):
    with look.chosen(["axes.facecolor: '0.9'", "lines.linewidth: 3"]):
        figure, _ = scrambling.draw({"small": by_model["small"]})
    assert figure.axes[0].lines[0].get_linewidth() == 3


def test_settings_of_the_machine_do_not_change_a_figure():
    with matplotlib.rc_context({"axes.grid": True}), style.theme(1.0):
        assert not matplotlib.rcParams["axes.grid"]


def test_comments_and_empty_lines_of_a_style_say_nothing(tmp_path):
    file = tmp_path / "own.mplstyle"
    file.write_text("# mine\n\n  font.size: 9  \n")
    assert style_file.lines(file) == ["font.size: 9"]


@pytest.mark.parametrize(
    ("line", "value"),
    [('axes.edgecolor: "#112233"', "#112233"), ("axes.edgecolor: red # warm", "red")],
)
def test_a_colour_may_be_quoted_and_a_line_may_end_in_a_comment(line, value):
    assert style_file.setting(line) == {"axes.edgecolor": value}
