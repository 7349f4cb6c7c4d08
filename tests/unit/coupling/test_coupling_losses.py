"""Coupling losses: the paper's own examples by hand, loops, finite differences, holes, weight 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import taskloom as tl
from taskloom.coupling import (
    CoAnnotation,
    Coupling,
    Matching,
    Relatedness,
    WeightSchedule,
    expression_action_units,
    from_labels,
)
from taskloom.coupling.layout import mixture_of
from taskloom.coupling.losses import (
    Options,
    distribution_matching,
    indicator,
    match_attributes,
    soft_co_annotation,
)
from taskloom.coupling.mixture import Mixture
from taskloom.errors import ConfigError

PRIOR = expression_action_units()
WEIGHTS = torch.from_numpy(PRIOR.values)
PRESENCE = (WEIGHTS > 0).double()
FACES = tl.TaskSet(tl.Multiclass("face", PRIOR.classes), tl.Multilabel("units", PRIOR.attributes))
ALL_VARIANTS = [
    Options(direction=direction, two_sided=two_sided)
    for direction in ("printed", "distillation")
    for two_sided in (False, True)
]


def unit(number: int) -> int:
    return PRIOR.attributes.index(f"AU{number}")


def one_row(active: np.ndarray, size: float = 8.0) -> torch.Tensor:
    return torch.from_numpy(np.where(active, size, -size))[None]


def random_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels_of(
    units: torch.Tensor, units_present: torch.Tensor, faces: torch.Tensor | None = None
) -> tl.Labels:
    rows = len(units)
    codes = torch.zeros(rows, dtype=torch.int64) if faces is None else faces
    there = torch.full((rows,), faces is not None)
    return tl.Labels({"face": codes, "units": units}, {"face": there, "units": units_present})


# -- the paper's own examples


def test_action_unit_2_is_surprise_plus_fear() -> None:
    p = torch.tensor([[0.1, 0.2, 0.25, 0.05, 0.3, 0.1]], dtype=torch.float64)
    log_q, log_not_q, _ = mixture_of(PRIOR).log_probabilities(p.log())
    q = log_q.exp()[0]
    assert float(q[unit(2)]) == pytest.approx(0.3 + 0.25)  # weight 1 although the table says 0.57 for fear
    assert float(q[unit(25)]) == pytest.approx(0.1 + 0.25 + 0.3)  # happiness, fear, surprise
    assert float(q[unit(11)]) == pytest.approx(0.2)  # sadness alone, observational
    torch.testing.assert_close(log_not_q.exp()[0], 1 - q)
    weighted = mixture_of(PRIOR, "values").log_probabilities(p.log())[0].exp()[0]
    assert float(weighted[unit(2)]) == pytest.approx(0.3 + 0.57 * 0.25)


def test_certain_happiness_wants_its_three_units_and_no_other() -> None:
    log_p = F.log_softmax(torch.tensor([[1000.0, 0, 0, 0, 0, 0]]), dim=1)
    q = mixture_of(PRIOR).log_probabilities(log_p)[0].exp()[0]
    assert [PRIOR.attributes[i] for i in range(17) if q[i] == 1] == ["AU6", "AU12", "AU25"]
    assert int((q == 0).sum()) == 14  # the paper's "i in {1, ..., 14}"


def test_the_indicator_of_happiness_by_hand() -> None:
    everywhere = torch.ones(1, 17).bool()
    for y12 in (0, 1):
        for y25 in (0, 1):
            for y6 in (0, 1):
                y = torch.zeros(1, 17, dtype=torch.float64)
                y[0, [unit(12), unit(25), unit(6)]] = torch.tensor([y12, y25, y6], dtype=torch.float64)
                scores, known = indicator(y, everywhere, WEIGHTS)
                assert float(scores[0, 0]) == pytest.approx((y12 + y25 + 0.51 * y6) / 2.51)
                assert known.all()


def test_the_soft_label_and_both_losses_by_hand() -> None:
    y = torch.zeros(1, 17, dtype=torch.float64)
    y[0, [unit(12), unit(25)]] = 1
    by_hand = [2 / 2.51, 0.0, 1 / (4 + 0.57 + 0.63 + 0.33), 0.0, 1 / 4.66, 0.0]
    q = np.exp(by_hand) / np.exp(by_hand).sum()
    p = np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    logits = torch.from_numpy(np.log(p))[None]
    there = torch.ones(1, 17).bool()
    printed = soft_co_annotation(logits, y, there, WEIGHTS)
    assert float(printed.sum) == pytest.approx(-(p * np.log(q)).sum())
    usual = soft_co_annotation(logits, y, there, WEIGHTS, options=Options(direction="distillation"))
    assert float(usual.sum) == pytest.approx(-(q * np.log(p)).sum())

    units = np.linspace(0.05, 0.95, 17)
    mixed = p @ PRESENCE.numpy()
    found = distribution_matching(logits, torch.from_numpy(np.log(units / (1 - units)))[None], PRESENCE)
    assert float(found.sum) == pytest.approx(-(units * np.log(mixed)).sum())
    assert int(found.count) == 1


@pytest.mark.parametrize("options", ALL_VARIANTS)
def test_matching_equals_a_loop(options: Options) -> None:
    classes, attributes = random_logits(5, 4), random_logits(5, 6, seed=1)
    table = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    total = 0.0
    for row in range(5):
        p = classes[row].softmax(0)
        for a in range(6):
            q = sum(float(p[c] * table[c, a]) for c in range(4))
            own = float(attributes[row, a].sigmoid())
            weigh, log = (own, q) if options.direction == "printed" else (q, own)
            total -= weigh * math.log(log)
            if options.two_sided:
                total -= (1 - weigh) * math.log(1 - log)
    found = distribution_matching(classes, attributes, table, options)
    assert float(found.sum) == pytest.approx(total)
    per_attribute = distribution_matching(
        classes, attributes, table, Options(options.direction, options.two_sided, reduction="mean")
    )
    assert float(per_attribute.sum) == pytest.approx(total / 6)


# -- what the losses are for


@pytest.mark.parametrize("options", ALL_VARIANTS)
@pytest.mark.parametrize("row", range(6), ids=PRIOR.classes)
def test_consistent_predictions_cost_less_for_every_row_of_the_table(row: int, options: Options) -> None:
    face = one_row(np.eye(6)[row] > 0)
    right = one_row(PRIOR.values[row] > 0)
    # One-sided, the printed form has nothing against a unit too few, the other direction against one too
    # many; fear's units hold all of surprise's, so that each sees no mistake in one of the two.
    too_many = [bool(((PRESENCE[other] == 1) & (PRESENCE[row] == 0)).any()) for other in range(6)]
    too_few = [bool(((PRESENCE[other] == 0) & (PRESENCE[row] == 1)).any()) for other in range(6)]
    seen = {"printed": too_many, "distillation": too_few}[options.direction]
    if options.two_sided:
        seen = [other != row for other in range(6)]
    assert sum(seen) >= 4
    matched = float(distribution_matching(face, right, PRESENCE, options).mean)
    for other in range(6):
        if seen[other]:
            wrong = distribution_matching(face, one_row(PRIOR.values[other] > 0), PRESENCE, options)
            assert matched < float(wrong.mean) - 1
    labels, there = torch.from_numpy(PRIOR.values[row] == 1).double()[None], torch.ones(1, 17).bool()
    costs = [
        float(soft_co_annotation(one_row(np.eye(6)[c] > 0), labels, there, WEIGHTS, options=options).mean)
        for c in range(6)
    ]
    assert int(np.argmin(costs)) == row
    assert sorted(costs)[0] < sorted(costs)[1]


def test_all_units_of_fear_are_as_much_surprise() -> None:
    labels, there = (WEIGHTS[2:3] > 0).double(), torch.ones(1, 17).bool()
    scores, _ = indicator(labels, there, WEIGHTS)
    assert scores[0, [PRIOR.classes.index("fear"), PRIOR.classes.index("surprise")]].tolist() == [1.0, 1.0]


def test_the_printed_form_has_its_minimum_at_no_attribute_and_the_two_sided_one_has_not() -> None:
    happy = one_row(np.eye(6)[0] > 0)
    nothing, right = one_row(np.zeros(17, bool)), one_row(PRIOR.values[0] > 0)
    printed = [float(distribution_matching(happy, units, PRESENCE).mean) for units in (nothing, right)]
    assert printed[0] < printed[1] + 0.02  # what the module says is wrong with equation 3
    two_sided = Options(two_sided=True)
    assert (
        distribution_matching(happy, nothing, PRESENCE, two_sided).mean
        > distribution_matching(happy, right, PRESENCE, two_sided).mean + 1
    )


# -- gradients


def finite_differences_agree(function, *inputs: torch.Tensor) -> None:
    assert torch.autograd.gradcheck(
        function, [i.clone().requires_grad_() for i in inputs], eps=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("size", [1.0, 60.0, 300.0])
@pytest.mark.parametrize("options", ALL_VARIANTS)
def test_gradients_equal_finite_differences_up_to_predictions_of_0_and_1(
    options: Options, size: float
) -> None:
    classes, attributes = size * random_logits(3, 4).sign(), size * random_logits(3, 5, seed=1).sign()
    classes = classes + random_logits(3, 4, seed=4) / 10
    table = torch.tensor(
        [[1.0, 0, 0.3, 0, 1], [0, 1, 0.6, 0, 1], [1, 0, 0, 0, 1], [0, 0.2, 1, 0, 1]], dtype=torch.float64
    )
    options = Options(options.direction, options.two_sided, temperature=1.5)
    finite_differences_agree(
        lambda c, a: distribution_matching(c, a, table, options).sum, classes, attributes
    )
    values = (random_logits(3, 5, seed=2) > 0).double()
    present = random_logits(3, 5, seed=3) > -0.5
    finite_differences_agree(
        lambda c: soft_co_annotation(c, values, present, table, options=options).sum, classes
    )


@pytest.mark.parametrize("options", ALL_VARIANTS)
@pytest.mark.parametrize("size", [100.0, 1e4, 1e30])
def test_certain_predictions_in_float32_stay_finite(options: Options, size: float) -> None:
    classes = (size * torch.eye(6)).requires_grad_()
    units = (size * (1 - 2 * PRESENCE.float())).requires_grad_()  # all wrong
    loss = distribution_matching(classes, units, PRESENCE, options).mean
    loss = loss + soft_co_annotation(classes, PRESENCE, PRESENCE > -1, WEIGHTS.float(), options=options).mean
    loss.backward()
    assert loss.isfinite()
    assert classes.grad is not None
    assert units.grad is not None
    assert classes.grad.isfinite().all()
    assert units.grad.isfinite().all()


def test_printed_gradients_pull_down_what_the_class_does_not_have() -> None:
    happy = one_row(np.eye(6)[0] > 0)
    units = torch.zeros(1, 17, dtype=torch.float64, requires_grad=True)
    distribution_matching(happy, units, PRESENCE).sum.backward()
    assert units.grad is not None
    assert (units.grad[0][PRESENCE[0] == 0] > 1).all()
    assert (units.grad[0][PRESENCE[0] == 1].abs() < 1e-3).all()


@pytest.mark.parametrize("side", ["none", "classes", "attributes"])
def test_stop_gradient_holds_one_side(side: str) -> None:
    coupling = Coupling(
        PRIOR,
        classes="face",
        attributes="units",
        matching=[Matching(stop_gradient=side), Matching(to="classes", stop_gradient=side)],
        co_annotation=None,
    )
    for name in coupling.names:
        outputs = {"face": random_logits(4, 6), "units": random_logits(4, 17, seed=1)}
        for output in outputs.values():
            output.requires_grad_()
        coupling.terms(outputs, tl.Labels.empty(FACES, 4), FACES)[name].sum.backward()
        moved = {
            name: output.grad is not None and bool(output.grad.abs().sum() > 0)
            for name, output in outputs.items()
        }
        assert moved == {"face": side != "classes", "units": side != "attributes"}


# -- holes


def test_indicators_are_normalised_over_what_is_present() -> None:
    y, there = torch.zeros(3, 17), torch.zeros(3, 17).bool()
    y[:, unit(12)] = 1
    y[2, unit(4)] = math.nan  # absent: must not be looked at
    there[0] = True
    there[1:, [unit(12), unit(6)]] = True
    scores, known = indicator(y, there, WEIGHTS.float())
    assert scores[:, 0].tolist() == pytest.approx([1 / 2.51, 1 / 1.51, 1 / 1.51])
    assert known[1].tolist() == [True, True, False, False, False, False]  # happiness, and sadness by AU6
    assert scores.isfinite().all()
    _, covered = indicator(y, there, WEIGHTS.float(), min_coverage=0.6)
    assert covered[1].tolist() == [True, False, False, False, False, False]  # 1.51 / 2.51, 0.5 / 4.03
    _, covered = indicator(y, there, WEIGHTS.float(), min_coverage=1.0)
    assert covered[0].all()


def test_partly_present_rows_are_matched_over_the_classes_they_speak_of() -> None:
    y, there = torch.zeros(3, 17), torch.zeros(3, 17).bool()
    y[0, unit(12)] = 1
    there[0, [unit(12), unit(6)]] = True  # happiness and sadness
    there[1, unit(12)] = True  # happiness alone: says nothing about which class
    logits = random_logits(3, 6)
    found = soft_co_annotation(logits, y, there, WEIGHTS)
    assert int(found.count) == 1
    p = logits[0, :2].softmax(0)
    q = torch.tensor([1 / 1.51, 0.0], dtype=torch.float64).softmax(0)
    assert float(found.sum) == pytest.approx(float(-(p * q.log()).sum()))


@pytest.mark.parametrize("options", ALL_VARIANTS)
def test_a_batch_without_labels_adds_nothing(options: Options) -> None:
    logits = random_logits(4, 6).requires_grad_()
    nothing = torch.zeros(4, 17)
    found = soft_co_annotation(logits, nothing * math.nan, nothing.bool(), WEIGHTS, options=options)
    found.mean.backward()
    assert (float(found.mean.detach()), int(found.count)) == (0.0, 0)
    assert logits.grad is not None
    assert not logits.grad.any()


def test_neutral_is_there_when_no_unit_is_active() -> None:
    table = expression_action_units(neutral=True)
    weights, empty = torch.from_numpy(table.values), torch.tensor([False] * 6 + [True])
    y, there = torch.zeros(3, 17), torch.ones(3, 17).bool()
    y[1, unit(9)] = 1
    there[2] = False
    scores, known = indicator(y.double(), there, weights, empty)
    assert scores[:, 6].tolist() == [1, 0, 0]
    assert known[:, 6].tolist() == [True, True, False]


def test_unknown_entries_leave_the_mixture() -> None:
    table = torch.tensor([[0.2, math.nan], [0.8, 0.5], [0.4, 0.9]], dtype=torch.float64)
    p = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64)
    log_q, log_not_q, covered = Mixture.of(table).log_probabilities(p.log())
    q = (0.2 * 0.5 + 0.3 * 0.9) / 0.5
    assert covered is not None
    assert log_q.exp()[0].tolist() == pytest.approx([0.5 * 0.2 + 0.2 * 0.8 + 0.3 * 0.4, q])
    assert log_not_q.exp()[0, 1] == pytest.approx(1 - q)
    assert covered[0].tolist() == pytest.approx([1.0, 0.5])
    units = torch.zeros(1, 2, dtype=torch.float64)
    found = match_attributes(p.log(), units, Mixture.of(table), Options())
    assert float(found.sum) == pytest.approx(-0.5 * math.log(0.38) - 0.5 * 0.5 * math.log(q))


def test_attributes_of_no_class_say_nothing() -> None:
    table = Relatedness(("c", "d"), ("x", "y"), np.array([[1.0, 0.0], [0.5, 0.0]]))
    classes, units = random_logits(3, 2), random_logits(3, 2, seed=1).requires_grad_()
    for options in ALL_VARIANTS:
        match_attributes(F.log_softmax(classes, 1), units, mixture_of(table), options).sum.backward()
    assert units.grad is not None
    assert not units.grad[:, 1].any()


# -- the object


def test_terms_are_the_functions_on_the_batch() -> None:
    shuffled = PRIOR.select(PRIOR.classes[::-1], PRIOR.attributes[::-1])
    coupling = Coupling(shuffled, classes="face", attributes="units")
    outputs = {"face": random_logits(8, 6), "units": random_logits(8, 17, seed=1)}
    y = (random_logits(8, 17, seed=2) > 0).long()
    there = random_logits(8, 17, seed=3) > 0
    there[:3] = False
    terms = coupling.terms(outputs, labels_of(y, there), FACES, epoch=0)
    assert tuple(terms) == coupling.names
    matching = distribution_matching(outputs["face"], outputs["units"], PRESENCE)
    annotation = soft_co_annotation(outputs["face"], y, there, WEIGHTS)
    torch.testing.assert_close(terms[coupling.names[0]].sum, matching.sum)
    torch.testing.assert_close(terms[coupling.names[1]].sum, annotation.sum, rtol=1e-6, atol=1e-6)
    assert [int(term.count) for term in terms.values()] == [8, 5]
    half = {name: output.half() for name, output in outputs.items()}
    assert coupling.terms(half, labels_of(y, there), FACES)[coupling.names[0]].sum.dtype == torch.float32


def test_weight_0_is_training_without_coupling() -> None:
    off = WeightSchedule(1.0, start_epoch=5)
    coupling = Coupling(
        PRIOR, classes="face", attributes="units", matching=Matching(off), co_annotation=CoAnnotation(0.0)
    )
    outputs = {"face": random_logits(4, 6), "units": random_logits(4, 17, seed=1)}
    labels = labels_of(torch.ones(4, 17).long(), torch.ones(4, 17).bool(), torch.arange(4))
    plain = tl.losses.per_task(outputs, labels, FACES)
    assert plain | coupling.terms(outputs, labels, FACES, epoch=4) == plain
    later = coupling.terms(outputs, labels, FACES, epoch=5)
    assert list(later) == ["coupling.matching_to_attributes"]
    assert coupling.state_dict() == {}


def test_weights_scale_the_sums_and_not_the_counts() -> None:
    outputs = {"face": random_logits(4, 6), "units": random_logits(4, 17, seed=1)}
    labels = labels_of(torch.ones(4, 17).long(), torch.ones(4, 17).bool())

    def terms(weight: float) -> dict[str, tl.losses.SumCount]:
        matching, annotation = Matching(weight), CoAnnotation(weight)
        coupling = Coupling(
            PRIOR, classes="face", attributes="units", matching=matching, co_annotation=annotation
        )
        return coupling.terms(outputs, labels, FACES)

    for name, term in terms(0.3).items():
        torch.testing.assert_close(term.mean, 0.3 * terms(1.0)[name].mean)


def test_reverse_terms_by_hand() -> None:
    table = Relatedness(("c", "d"), ("x", "y"), np.array([[0.9, 0.2], [0.1, 0.6]]), "frequencies")
    tasks = tl.TaskSet(tl.Multiclass("t", ("c", "d")), tl.Binary("y"), tl.Binary("x"))
    coupling = Coupling(
        table,
        classes="t",
        attributes=["y", "x"],
        matching=Matching(to="classes"),
        co_annotation=CoAnnotation(to="attributes", only_missing=True),
    )
    outputs = {"t": random_logits(2, 2), "x": random_logits(2, 1, seed=1), "y": random_logits(2, 1, seed=2)}
    there = torch.tensor([True, False])
    labels = tl.Labels(
        {"t": torch.tensor([1, 0]), "x": torch.tensor([1, 1]), "y": torch.tensor([1, 1])},
        {"t": there, "x": there, "y": ~there},
    )
    matching, annotation = coupling.terms(outputs, labels, tasks).values()
    x, y, p = outputs["x"].sigmoid(), outputs["y"].sigmoid(), outputs["t"].softmax(1)
    scores = torch.cat([(0.9 * x + 0.2 * y) / 1.1, (0.1 * x + 0.6 * y) / 0.7], dim=1)
    torch.testing.assert_close(matching.sum, -(p * scores.log_softmax(1)).sum(), rtol=1e-6, atol=1e-6)
    # Row 0 is d with x labelled: only y is taught, 0.6. Row 1 has no class label.
    by_hand = -(0.6 * y[0].log() + 0.4 * (1 - y[0]).log())
    torch.testing.assert_close(annotation.sum, by_hand[0])
    assert int(annotation.count) == 1


def test_class_class_terms_by_hand() -> None:
    table = Relatedness(
        ("r", "b"),
        ("u", "v", "w"),
        np.array([[0.5, 0.3, 0.2], [0.0, 0.1, 0.9]]),
        "frequencies",
        "class_class",
    )
    tasks = tl.TaskSet(tl.Binary("colour", ("r", "b")), tl.Multiclass("shape", ("u", "v", "w")))
    outputs = {"colour": random_logits(3, 1), "shape": random_logits(3, 3, seed=1)}
    labels = tl.Labels(
        {"colour": torch.tensor([0, 1, 1]), "shape": torch.tensor([2, 0, 0])},
        {"colour": torch.tensor([True, True, False]), "shape": torch.tensor([True, False, False])},
    )
    p_blue, values = outputs["colour"].sigmoid(), torch.from_numpy(table.values)
    p_shape = outputs["shape"].softmax(1)
    q = torch.cat([1 - p_blue, p_blue], 1) @ values
    terms = Coupling(
        table,
        classes="colour",
        attributes="shape",
        co_annotation=[CoAnnotation(), CoAnnotation(to="attributes")],
    ).terms(outputs, labels, tasks)
    torch.testing.assert_close(terms["coupling.matching_to_attributes"].sum, -(p_shape * q.log()).sum())
    soft = torch.tensor([0.2, 0.9], dtype=torch.float64).log_softmax(0)  # row 0 has shape w
    by_hand = -((1 - p_blue[0]) * soft[0] + p_blue[0] * soft[1])
    torch.testing.assert_close(
        terms["coupling.co_annotation_to_classes"].sum, by_hand[0], rtol=1e-6, atol=1e-6
    )
    log_p = outputs["shape"].log_softmax(1)
    reverse = -(values[0] * log_p[0]).sum() - (values[1] * log_p[1]).sum()
    torch.testing.assert_close(terms["coupling.co_annotation_to_attributes"].sum, reverse)
    with pytest.raises(ConfigError, match="two_sided goes with attributes"):
        Coupling(table, classes="colour", attributes="shape", matching=Matching(two_sided=True))


def test_attribute_attribute_terms_by_hand() -> None:
    table = Relatedness(
        ("a", "b", "c", "not a", "not b", "not c"),
        ("a", "b", "c"),
        np.array(
            [
                [math.nan, 0.8, 0.3],
                [0.7, math.nan, math.nan],
                [0.4, 0.2, math.nan],
                [math.nan, 0.1, 0.2],
                [0.2, math.nan, 0.5],
                [0.3, 0.3, math.nan],
            ]
        ),
        "frequencies",
        "attribute_attribute",
    )
    tasks = tl.TaskSet(*(tl.Binary(name) for name in "abc"))
    outputs = {name: random_logits(1, 1, seed=seed) for seed, name in enumerate("abc")}
    a, b, c = (float(outputs[name].sigmoid()) for name in "abc")
    q = [
        ((0.7 * b + 0.2 * (1 - b)) + (0.4 * c + 0.3 * (1 - c))) / 2,
        ((0.8 * a + 0.1 * (1 - a)) + (0.2 * c + 0.3 * (1 - c))) / 2,
        0.3 * a + 0.2 * (1 - a),  # b says nothing: one of its entries is unknown
    ]
    everything = list("abc")
    coupling = Coupling(table, classes=everything, attributes=everything)
    labels = tl.Labels(
        {"a": torch.tensor([1]), "b": torch.tensor([0])},
        {"a": torch.tensor([True]), "b": torch.tensor([True])},
    )
    matching, annotation = coupling.terms(outputs, labels, tasks).values()
    assert float(matching.sum) == pytest.approx(
        -sum(p * math.log(x) for p, x in zip((a, b, c), q, strict=True))
    )
    wanted = {"a": 0.2, "b": 0.8, "c": 0.3}  # c is missing; a from b = 0, b from a = 1, c from a = 1
    by_hand = -sum(
        w * math.log(p) + (1 - w) * math.log(1 - p) for p, w in zip((a, b, c), wanted.values(), strict=True)
    )
    assert float(annotation.sum) == pytest.approx(by_hand)
    with pytest.raises(ConfigError, match="set to: attributes"):
        Coupling(table, classes=everything, attributes=everything, co_annotation=CoAnnotation(to="classes"))


def test_labels_per_sample_are_rows() -> None:
    table = Relatedness(("c", "d"), ("moving",), np.array([[0.9], [0.2]]), "frequencies")
    tasks = tl.TaskSet(tl.Multiclass("t", ("c", "d")), tl.Binary("moving"))
    outputs = {"t": random_logits(3, 2, 4), "moving": random_logits(3, 1, 4, seed=1)}
    coupling = Coupling(table, classes="t", attributes="moving", co_annotation=None)
    found = coupling.terms(outputs, tl.Labels.empty(tasks, 3), tasks)["coupling.matching_to_attributes"]
    flat = {name: output.movedim(1, 2).reshape(12, -1) for name, output in outputs.items()}
    again = coupling.terms(flat, tl.Labels.empty(tasks, 12), tasks)["coupling.matching_to_attributes"]
    torch.testing.assert_close(found.sum, again.sum)
    assert int(found.count) == 12
    with pytest.raises(ValueError, match="task t predicts 3 rows, task moving 12"):
        coupling.terms(
            {"t": outputs["t"][..., 0], "moving": outputs["moving"]}, tl.Labels.empty(tasks, 3), tasks
        )
    with pytest.raises(ValueError, match="needs predictions of task moving, found t"):
        coupling.terms({"t": outputs["t"]}, tl.Labels.empty(tasks, 3), tasks)
    with pytest.raises(ValueError, match=r"task t of shape \[N, 2\]"):
        coupling.terms(
            {"t": outputs["moving"], "moving": outputs["moving"]}, tl.Labels.empty(tasks, 3), tasks
        )


def test_disjoint_labels_teach_the_other_task_and_a_wrong_table_hurts() -> None:
    """Two linear heads with no label in common: coupling brings what attributes show to the classes."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(600, 4, generator=generator)
    codes = inputs[:, :3].argmax(dim=1)
    right = Relatedness(("0", "1", "2"), ("0", "1", "2"), np.eye(3))
    wrong = right.renamed({"0": "1", "1": "2", "2": "0"})
    tasks = tl.TaskSet(tl.Multiclass("t", 3), tl.Multilabel("a", 3))
    few = torch.arange(600) < 6
    labels = tl.Labels(
        {"t": codes, "a": F.one_hot(codes, 3)}, {"t": few, "a": (~few)[:, None].expand(600, 3)}
    )
    accuracies = []
    for weight, table in ((0.0, right), (1.0, right), (1.0, wrong)):
        heads = [torch.zeros(4, 3, requires_grad=True) for _ in range(2)]
        optimizer = torch.optim.Adam(heads, lr=0.05)
        coupling = Coupling(
            table,
            classes="t",
            attributes="a",
            matching=Matching(weight),
            co_annotation=CoAnnotation(weight, direction="distillation", label_temperature=0.2),
        )
        for epoch in range(150):
            outputs = {"t": inputs @ heads[0], "a": inputs @ heads[1]}
            losses = tl.losses.per_task(outputs, labels, tasks) | coupling.terms(
                outputs, labels, tasks, epoch
            )
            optimizer.zero_grad()
            sum(loss.mean for loss in losses.values()).backward()
            optimizer.step()
        accuracies.append(float(((inputs @ heads[0]).argmax(1) == codes).float().mean()))
    plain, coupled, misled = accuracies
    assert coupled > 0.9 > plain + 0.1
    assert misled < plain - 0.1


# -- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"matching": {"wieght": 1}}, "coupling.matching.wieght is not a setting. Did you mean `weight`"),
        ({"matching": {"weight": {"ramp": 1}}}, "coupling.matching.weight.ramp is not a setting"),
        ({"matching": {"direction": "print"}}, "`print` is none of printed, distillation.* Did you mean"),
        ({"matching": {"temperature": 0}}, "temperature: a number above 0 expected, found 0"),
        ({"matching": {"to": "classes", "two_sided": True}}, "two_sided goes with attributes"),
        ({"matching": 3}, "settings, true or false expected, found 3"),
        ({"matching": [{}, {}]}, "matching_to_attributes stands twice"),
        ({"co_annotation": {"min_coverage": 2}}, "min_coverage: 0 to 1 expected"),
        ({"matching": False, "co_annotation": False}, "matching or co_annotation expected"),
        ({"relatedness": "x"}, "coupling.relatedness is not a setting"),
    ],
)
def test_refuses_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Coupling.from_settings(PRIOR, {"classes": "face", "attributes": "units"} | settings)


def test_settings_become_terms() -> None:
    coupling = Coupling.from_settings(
        PRIOR,
        {
            "classes": "face",
            "attributes": "units",
            "name": "au",
            "matching": [{"weight": {"weight": 0.5, "ramp_epochs": 1}}, {"to": "classes"}],
            "co_annotation": True,
        },
    )
    assert coupling.names == (
        "au.matching_to_attributes",
        "au.matching_to_classes",
        "au.co_annotation_to_classes",
    )
    with pytest.raises(ConfigError, match=r"coupling.attributes is missing"):
        Coupling.from_settings(PRIOR, {"classes": "face"})
    with pytest.raises(ConfigError, match="keeps no state"):
        coupling.load_state_dict({"x": 1})
    named = tl.TaskSet(*FACES.values(), tl.Binary("au.matching_to_classes"))
    with pytest.raises(ConfigError, match="rename the coupling"):
        coupling.check_tasks(named)


def test_frequencies_from_labels_feed_the_losses() -> None:
    codes = torch.arange(60) % 6
    y = PRESENCE[codes].long()
    labels = labels_of(y, torch.ones(60, 17).bool(), codes)
    table = from_labels(labels, FACES, classes="face", attributes="units")
    torch.testing.assert_close(mixture_of(table).positive, PRESENCE)
