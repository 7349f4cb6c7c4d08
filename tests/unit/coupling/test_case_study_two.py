"""Case study II of paper 003, by a loop in NumPy: frequencies from labels with holes, and both losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import taskloom as tl
from taskloom.coupling import Coupling
from taskloom.coupling.estimate import from_labels

Floats = NDArray[np.float64]
TASKS = tl.TaskSet(tl.Multiclass("bird", 3), tl.Multilabel("traits", 4))
LIKELY = np.array([[0.9, 0.1, 0.5, 0.2], [0.1, 0.9, 0.5, 0.0], [0.5, 0.4, 0.1, 0.9]])


def softmax(scores: Floats) -> Floats:
    raised = np.exp(scores - scores.max())
    return np.asarray(raised / raised.sum())


@pytest.mark.parametrize("num_rows", [200, 60])
def test_frequencies_and_both_losses_are_the_papers_on_labels_with_holes(num_rows: int) -> None:
    draw = np.random.default_rng(num_rows)
    birds = draw.integers(0, 3, num_rows)
    traits = (draw.random((num_rows, 4)) < LIKELY[birds]).astype(int)
    has_bird, has_trait = draw.random(num_rows) < 0.7, draw.random((num_rows, 4)) < 0.5
    labels = tl.Labels(
        {  # what stands where nothing is present means nothing
            "bird": torch.tensor(np.where(has_bird, birds, -100)),
            "traits": torch.tensor(np.where(has_trait, traits, 77)),
        },
        {"bird": torch.tensor(has_bird), "traits": torch.tensor(has_trait)},
    )
    table = from_labels(labels, TASKS, classes="bird", attributes="traits", minimum_support=1)
    # "Images with both / images with the class", of those that have both labels.
    frequency = np.array(
        [
            [traits[(birds == bird) & has_bird & has_trait[:, trait], trait].mean() for trait in range(4)]
            for bird in range(3)
        ]
    )
    np.testing.assert_allclose(table.values, frequency)
    assert frequency[1, 3] == 0.0

    logits = {"bird": draw.normal(size=(num_rows, 3)), "traits": draw.normal(size=(num_rows, 4))}
    found = Coupling(table, classes="bird", attributes="traits").terms(
        {name: torch.tensor(logit) for name, logit in logits.items()}, labels, TASKS
    )
    matched, annotated = 0.0, []
    for row in range(num_rows):
        p = softmax(logits["bird"][row])
        active = 1 / (1 + np.exp(-logits["traits"][row]))
        matched += float(-(active * np.log(p @ frequency)).sum())  # every row, whatever labels it has
        there = has_trait[row]
        weight = frequency[:, there].sum(axis=1)
        known = weight > 0  # of a class without a weight among the present traits nothing is known
        if known.sum() < 2:
            continue
        scores = (frequency[known][:, there] * traits[row, there]).sum(axis=1) / weight[known]
        annotated.append(float(-(p[known] / p[known].sum() * np.log(softmax(scores))).sum()))
    matching = found["coupling.matching_to_attributes"]
    annotation = found["coupling.co_annotation_to_classes"]
    assert (int(matching.count), int(annotation.count)) == (num_rows, len(annotated))
    assert matching.mean.item() == pytest.approx(matched / num_rows)
    assert annotation.mean.item() == pytest.approx(np.mean(annotated), rel=1e-6)
    assert len(annotated) < num_rows
