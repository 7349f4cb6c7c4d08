"""Plans: what is refused, and what they look like in words."""

from __future__ import annotations

import pytest
from torch import nn

import taskloom as tl
from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing import CrossStitchSpec, Plan, PlanNetwork, StagePlan, TieSpec
from taskloom.sharing.plan import stage_index

TASKS = tl.TaskSet(tl.Binary("age"), tl.Binary("mood"), tl.Binary("smile"))
ALONE = StagePlan((("age",), ("mood",), ("smile",)))
ALL = StagePlan((("age", "mood", "smile"),))


def mlp() -> Encoder:
    return tl.encoders.build("mlp", (4,), hidden=[6, 5])


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        ((("age", "mood"),), "stage 2: each task stands in exactly one group; `smile` stands in none"),
        ((("age", "mood"), ("smile", "age")), "stage 2: .* `age` stands 2 times"),
        ((("age", "mod"), ("smile",)), "stage 2: `mod` is not a task. Did you mean `mood`?"),
        ((("age", "mood", "smile"), ()), "stage 2: a group without tasks"),
    ],
)
def test_a_partition_holds_every_task_once(partition: tuple[tuple[str, ...], ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Plan(TASKS.names, (ALL, StagePlan(partition)))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((ALL,), r"1 stages and the encoder 2 \(dense_0, dense_1\)"),
        (
            (StagePlan((("age", "smile"), ("mood",)), mixing=CrossStitchSpec()), ALONE),
            "stage `dense_0` is mixed, .* age, smile share one",
        ),
        (
            (ALL, StagePlan(ALONE.partition, tie=TieSpec(weight=-1.0))),
            "stage `dense_1`: the weight of the tie trace_norm must be .* at least 0, found -1.0",
        ),
        (
            (StagePlan(ALONE.partition, tie=TieSpec(weight=float("nan"))), ALONE),
            "must be a number of at least 0, found nan",
        ),
        (
            (StagePlan(ALONE.partition, tie=TieSpec("trace_nrom")), ALONE),
            "stage `dense_0`: `trace_nrom` is not a known tie. Did you mean `trace_norm`?",
        ),
        ((StagePlan(ALL.partition, tie=TieSpec()), ALONE), "stage `dense_0` has one copy"),
    ],
)
def test_refused_when_the_network_is_built(stages: tuple[StagePlan, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PlanNetwork(mlp(), TASKS, Plan(TASKS.names, stages))


def test_a_plan_for_other_tasks_is_refused() -> None:
    with pytest.raises(ConfigError, match="for the tasks age, mood, smile, found age, mood"):
        PlanNetwork(mlp(), TASKS.subset(["age", "mood"]), Plan(TASKS.names, (ALL, ALONE)))


def test_a_stage_without_weights_cannot_be_tied() -> None:
    encoder = tl.encoders.from_modules([tl.encoders.mlp((4,), hidden=[3]).stages[0], nn.ReLU()], (4,))
    tied = StagePlan(ALONE.partition, tie=TieSpec())
    with pytest.raises(ConfigError, match="stage `stage_1` has no weights to tie"):
        PlanNetwork(encoder, TASKS, Plan(TASKS.names, (ALONE, tied)))


@pytest.mark.parametrize(
    "mixing",
    [{"per": "pixel"}, {"start": "random"}, {"lr_multiplier": 0.0}, {"lr_multiplier": True}],
)
def test_refused_mixing(mixing: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(mixing))):
        CrossStitchSpec(**mixing)


def test_shared_stages_are_counted_from_the_input_up_to_the_first_split() -> None:
    def plan(*stages: StagePlan) -> Plan:
        return Plan(TASKS.names, stages)

    assert plan(ALL, ALL, ALONE, ALL).num_shared_stages == 2
    assert plan(ALONE, ALL).num_shared_stages == 0
    assert plan(ALL, ALL).num_shared_stages == 2
    assert Plan(("age",), (StagePlan((("age",),)),) * 3).num_shared_stages == 3


def test_description() -> None:
    plan = Plan(
        TASKS.names,
        (
            ALL,
            StagePlan((("age", "smile"), ("mood",)), tie=TieSpec("l2", 0.5)),
            StagePlan(ALONE.partition, mixing=CrossStitchSpec(per="channel")),
        ),
    )
    assert plan.describe(["conv", "pool", "dense"]).splitlines() == [
        "stage  age  mood  smile  mixing                    tie",
        "conv   A    A     A      -                         -",
        "pool   A    B     A      -                         l2 0.5",
        "dense  A    B     C      cross-stitch per channel  -",
        "head   A    B     C      -                         -",
    ]


def test_stages_by_number_and_by_name() -> None:
    names = ("conv_0", "conv_1", "dense")
    assert [stage_index(stage, names) for stage in (1, 3, "conv_1")] == [0, 2, 1]
    for wrong in (0, 4, -1, "conv", True, 1.0):
        with pytest.raises(ConfigError, match=r"does not exist.*Stages: 1 to 3 \(conv_0, conv_1, dense\)"):
            stage_index(wrong, names)  # type: ignore[arg-type]
