"""The page: order of its sections, verdicts in text, nothing loaded from outside, nothing unescaped."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from _report import finished_study, with_overall
from taskloom.report import plots
from taskloom.report.model import AuxiliaryRow
from taskloom.report.render import hurt_rows, render, write


@pytest.fixture(scope="module")
def page() -> str:
    return render(finished_study())


def test_sections_stand_in_order(page: str) -> None:
    found = re.findall(r"<h2>(.*?)</h2>", page)
    assert found == [
        "What sharing cost",
        "Where it hurt",
        "Curves",
        "What the network learned to share",
        "How sure we are",
        "Data",
        "The study",
    ]
    assert page.index('class="matrix"') < page.index("<h2>")


def test_page_loads_nothing(page: str) -> None:
    outside = re.findall(r"""(?:src|href)\s*=\s*["']([^"'#][^"']*)""", page)
    assert outside == []
    assert "<script" not in page
    assert "@import" not in page


def test_tags_are_balanced(page: str) -> None:
    class Balance(HTMLParser):
        open_tags: list[str]

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "br", "link", "img"):
                self.open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open_tags.pop() == tag

    parser = Balance()
    parser.open_tags = []
    parser.feed(page)
    assert parser.open_tags == []


def test_matrix_has_a_square_for_every_task_and_cell(page: str) -> None:
    squares = re.findall(r'<td class="square (\w+)( chosen)?"', page)
    assert [css for css, _ in squares] == ["unclear", "helped", "unclear", "unclear", "hurt", "none"]
    assert [bool(chosen) for _, chosen in squares] == [False, True, True, False, True, False]


def test_names_are_escaped(page: str) -> None:
    assert "<per channel>" not in page
    assert "cross-stitch &lt;per channel&gt;" in page
    assert "faces &amp; co" in page


def test_negative_transfer_is_listed_and_worst_comes_first() -> None:
    data = finished_study()
    worse = dataclasses.replace(data.gains[-1], cell="c2", gain=-0.1)
    data = dataclasses.replace(data, gains=(*data.gains, worse))
    assert [(task.name, gain.cell) for task, gain, _ in hurt_rows(data)] == [
        ("smiling", "c2"),
        ("smiling", "c1"),
    ]


def test_no_negative_transfer_is_not_sold_as_proof() -> None:
    data = finished_study()
    kept = tuple(gain for gain in data.gains if gain.verdict != "hurt")
    assert "No negative transfer was shown" in render(dataclasses.replace(data, gains=kept))


def test_failed_runs_and_warnings_are_on_the_page(page: str) -> None:
    assert "the loss became NaN at step 12." in page
    assert page.index("1 of 6 runs has not finished.") < page.index('class="matrix"')


def test_same_data_give_the_same_page() -> None:
    assert render(finished_study()) == render(finished_study())


def test_write_leaves_only_the_page(tmp_path: Path) -> None:
    path = write(finished_study(), tmp_path / "report.html")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(("count", "folded"), [(12, False), (13, True)])
def test_a_long_table_of_tasks_beside_is_folded(count: int, folded: bool) -> None:
    row = AuxiliaryRow("hat", "auxiliary", "shared", "accuracy", "", 0.5, 0.1, 3, 100)
    page = render(dataclasses.replace(finished_study(), auxiliary=(row,) * count))
    section = page[page.index("Trained beside, not judged") : page.index("What sharing cost")]
    assert section.count("<td>auxiliary</td>") == count
    assert (f"<details><summary>{count} rows</summary>" in section) is folded
    assert section.count("<details>") == section.count("</details>")


def test_a_study_without_any_finished_cell_renders() -> None:
    data = finished_study()
    bare = dataclasses.replace(
        data,
        tasks=tuple(dataclasses.replace(task, chosen_cell="") for task in data.tasks),
        gains=(),
        curves=(),
        mixing=(),
    )
    page = render(bare)
    assert "no verdict yet" in page
    assert "No cell of this study has learned mixing." in page


def test_curves_show_the_chosen_cell_and_the_baseline() -> None:
    data = finished_study()
    svg = plots.curves(data, data.tasks[0])
    assert ">alone<" in svg
    assert "cross-stitch" in svg
    assert plots.curves(dataclasses.replace(data, curves=()), data.tasks[0]) == ""


def test_heatmap_prints_every_weight_of_a_small_matrix() -> None:
    svg = plots.mixing_heatmaps(finished_study().mixing[0])
    for weight in ("0.90", "0.10", "0.20", "0.80", "0.50", "0.40", "0.60"):
        assert f">{weight}<" in svg


def test_a_heatmap_has_a_row_for_each_receiver_and_a_panel_for_each_depth() -> None:
    """Read off where the numbers stand: columns by x, rows by y from the top, panels from left to right."""
    mixing = finished_study().mixing[0]
    svg = plots.mixing_heatmaps(mixing)
    placed = re.findall(r'<text [^>]*? x="([\d.]+)" y="([\d.]+)"[^>]*>(-?\d\.\d\d)</text>', svg)
    assert len(placed) == 8
    rows = sorted({round(float(y)) for _, y, _ in placed})
    columns = sorted({round(float(x)) for x, _, _ in placed})
    assert (len(rows), len(columns)) == (2, 4)
    table = np.full((2, 4), np.nan)
    for x, y, weight in placed:
        table[rows.index(round(float(y))), columns.index(round(float(x)))] = float(weight)
    np.testing.assert_array_equal(table[:, :2], mixing.matrices["conv1"])
    np.testing.assert_array_equal(table[:, 2:], mixing.matrices["conv2"])


def test_all_tasks_together_stand_first() -> None:
    page = render(with_overall())
    rows = re.findall(r"<tr(?: class=\"overall\")?><th>(.*?)<br>", page)
    assert rows == ["mean of 3 tasks", "age", "gender", "smiling"]
    assert page.count('<tr class="overall">') == 1
    assert "On average over them sharing helped: accuracy +2.0 [1.0, 3.0]." in page
    assert '<tr class="overall">' not in render(finished_study())


def test_balancing_is_shown_where_there_is_something_to_show() -> None:
    page = render(with_overall())
    assert "How the losses were balanced" in page
    assert "hard sharing: age converged in epoch 4, 6, by repeat." in page
    for text in (">weight<", ">cosine of gradients<", ">share of conflicts<", ">age, gender<"):
        assert text in page
    assert "How the losses were balanced" not in render(finished_study())
