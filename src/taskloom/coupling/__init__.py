"""Related tasks that teach each other, with few or no labels in common (paper 003).

===================  ==================================================================================
relatedness          `Relatedness`; from `expression_action_units`, `read_table`, `from_labels`,
                     `from_predictions`, or as named in a study file by
                     `choose_relatedness`; `diff`, `check`, `draw_heatmap`
losses               `Coupling(relatedness, classes=..., attributes=...).terms(...)`, made of `Matching`
                     and `CoAnnotation`; on plain tensors `taskloom.coupling.losses`
after training       `measure_consistency`: share of rows whose predictions contradict the relatedness
===================  ==================================================================================

>>> table = expression_action_units()
>>> tasks = tl.TaskSet(tl.Multiclass("face", table.classes), tl.Multilabel("units", table.attributes))
>>> coupling_ = Coupling(table, classes="face", attributes="units")
>>> coupling_.names
('coupling.matching_to_attributes', 'coupling.co_annotation_to_classes')
"""

from taskloom.coupling.choose import choose_relatedness
from taskloom.coupling.compare import Comparison, Entry, RelatednessWarning, check, diff
from taskloom.coupling.consistency import Consistency, contradictions, measure_consistency
from taskloom.coupling.coupling import Coupling
from taskloom.coupling.estimate import from_labels, from_predictions
from taskloom.coupling.heatmap import draw_heatmap, save_heatmap
from taskloom.coupling.relatedness import Relatedness
from taskloom.coupling.schedule import WeightSchedule
from taskloom.coupling.tables import (
    SHIPPED,
    expression_action_units,
    expression_action_units_aff_wild2,
    read_table,
)
from taskloom.coupling.terms import CoAnnotation, Matching

__all__ = [
    "SHIPPED",
    "CoAnnotation",
    "Comparison",
    "Consistency",
    "Coupling",
    "Entry",
    "Matching",
    "Relatedness",
    "RelatednessWarning",
    "WeightSchedule",
    "check",
    "choose_relatedness",
    "contradictions",
    "diff",
    "draw_heatmap",
    "expression_action_units",
    "expression_action_units_aff_wild2",
    "from_labels",
    "from_predictions",
    "measure_consistency",
    "read_table",
    "save_heatmap",
]
