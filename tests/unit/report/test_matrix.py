"""How verdicts are laid out, and what mixing matrices are said to mean."""

from __future__ import annotations

import dataclasses
import re

import pytest

from _architecture_table import SETTINGS, fresh, registered_encoders
from _module_networks import KINDS
from _report import finished_study, with_overall
from taskloom.report import plots
from taskloom.report.matrix import MOST_CELLS_ACROSS, verdict_matrix
from taskloom.report.mixing_words import MEANINGS, meaning_of
from taskloom.report.model import ReportData
from taskloom.report.render import render
from taskloom.report.training_model import Balancing
from taskloom.sharing import MultiTaskNetwork, PlanNetwork
from taskloom.sharing.modules.sluice import SluiceNetwork
from taskloom.tasks import Binary, Regression, TaskSet


def many_cells(number: int, data: ReportData | None = None) -> ReportData:
    """The finished study with `number` cells, all tasks in each; the gain of cell k is k hundredths."""
    data = data or finished_study()
    cells = [dataclasses.replace(data.cells[0], id=f"n{k}", name=f"way {k}") for k in range(number)]
    tasks = [dataclasses.replace(task, chosen_cell="n1") for task in data.tasks]
    gains = [
        dataclasses.replace(data.gains[0], task=task.name, cell=cell.id, gain=k / 100, low=-1.0, high=1.0)
        for task in tasks
        for k, cell in enumerate(cells)
    ]
    return dataclasses.replace(data, tasks=tasks, cells=cells, gains=gains, mixing=(), curves=())


def squares(page: str) -> list[list[str]]:
    """The texts of the matrix's squares by row of the table."""
    table = page[page.index('<table class="matrix') : page.index("</table>")]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table, flags=re.DOTALL)
    texts = [
        [re.sub(r"<small>.*?</small>|<[^>]+>", "", text).strip() for text in re.findall(r"<td.*?</td>", row)]
        for row in rows
    ]
    return [row for row in texts if row]


def test_few_cells_stand_across_and_many_below_each_other() -> None:
    across = squares(render(many_cells(MOST_CELLS_ACROSS)))
    assert [len(row) for row in across] == [1 + MOST_CELLS_ACROSS] * 3  # alone, then the cells
    down = squares(render(many_cells(22)))
    assert [len(row) for row in down] == [3] * 23  # alone, then 22 cells of three tasks


def test_the_table_that_lies_the_other_way_holds_the_same() -> None:
    data = many_cells(22)
    matrix = verdict_matrix(data, data.tasks)
    alone, *rows = squares(render(data))
    assert alone == list(matrix.alone)
    assert rows == [[matrix.squares[task][cell].text for task in range(3)] for cell in range(22)]


def test_of_many_tasks_and_cells_the_fewer_stand_across_and_the_page_says_that_it_goes_on() -> None:
    few = many_cells(22)
    assert "goes on to the right" not in render(few)
    named = [dataclasses.replace(few.tasks[0], name=f"task {k}") for k in range(12)]
    page = render(dataclasses.replace(few, tasks=named))
    assert "The table goes on to the right: 12 columns." in page
    assert 'class="matrix down wide"' in page
    page = render(dataclasses.replace(many_cells(8), tasks=named))
    assert "The table goes on to the right: 8 columns." in page
    assert 'class="matrix wide"' in page


def test_the_sentences_stand_before_a_long_table_and_after_a_short_one() -> None:
    short, long = render(finished_study()), render(many_cells(22))
    assert short.index("<table") < short.index("sharing helped, by")
    assert long.index("<b class") < long.index("<table")
    for page in (short, long):
        assert page.count('<b class="unclear">gender</b>') == 1


def test_the_mean_of_all_tasks_is_set_apart_in_both_layouts() -> None:
    data = with_overall()
    assert '<tr class="overall">' in render(data)
    page = render(many_cells(22, data))
    assert page.count(" together") == 22
    assert page.count('class="together"') == 2


@pytest.mark.parametrize("name", SETTINGS)
def test_matrices_that_do_not_mix_are_not_said_to(name: str) -> None:
    """Whoever has matrices of its own must say what they mean; those of a plan and of sluices mix outputs."""
    tasks = TaskSet(Regression("age"), Binary("sex"))
    with registered_encoders():
        network = fresh(name, KINDS[0], tasks)
    own = type(network).mixing_matrices not in (
        MultiTaskNetwork.mixing_matrices,
        PlanNetwork.mixing_matrices,
        SluiceNetwork.mixing_matrices,
    )
    assert own == (name in MEANINGS)


def test_the_page_says_what_an_architectures_matrices_mean() -> None:
    data = finished_study()
    mixing = data.mixing[0]
    page = render(dataclasses.replace(data, mixing=(dataclasses.replace(mixing, architecture="adashare"),)))
    assert "probabilities of executing the stage" in page
    assert "A row receives" not in page
    assert "mean mixing weight" not in page
    assert "A row receives" in render(data)


def test_a_matrix_that_never_changes_has_no_curve_and_none_is_minus_zero() -> None:
    mixing = finished_study().mixing[0]
    still = [[1.0, -0.001], [0.2, -0.25]]
    fixed = dataclasses.replace(mixing, matrices={"a": still}, over_time={"a": [still, still, still]})
    assert plots.mixing_over_time(fixed) == ""
    svg = plots.mixing_heatmaps(fixed)
    assert ">0.00<" in svg
    assert ">−0.25<" in svg
    assert "-0.00" not in svg
    moving = dataclasses.replace(mixing, over_time={"a": [still, still, [[0.9, 0.1], [0.2, 0.3]]]})
    assert plots.mixing_over_time(moving) != ""


def test_a_remark_on_several_cells_stands_once_and_a_reversal_is_drawn() -> None:
    data = finished_study()
    weights, lambdas = {"age": [0.2, 0.4]}, {"sex": [0.0, 0.4]}
    entries = tuple(
        Balancing(cell, weights, note=f"Of {cell}.", remark="They learn slowly.", reversal=lambdas)
        for cell in ("c1", "c2")
    )
    page = render(dataclasses.replace(data, balancing=entries))
    assert page.count("They learn slowly.") == 1
    assert "Of c1." in page
    assert "Of c2." in page
    assert page.count(">gradient reversal λ<") == 2


def test_every_meaning_is_of_an_architecture_that_exists() -> None:
    assert set(MEANINGS) <= set(SETTINGS)
    assert meaning_of("hard_sharing") is meaning_of("cross_stitch")
