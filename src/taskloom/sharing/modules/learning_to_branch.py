"""`learning_to_branch` by its settings; the network is `branch_search.BranchSearchNetwork`."""

from __future__ import annotations

from typing import get_args

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.heads import HeadChoice
from taskloom.sharing.modules.base import check_count, check_number, stage_run
from taskloom.sharing.modules.branch_search import BranchSearchNetwork, SearchWeights
from taskloom.sharing.modules.registration import register_module
from taskloom.sharing.plan import Copies
from taskloom.sharing.settings import Stages
from taskloom.tasks import TaskSet


@register_module("learning_to_branch")
def learning_to_branch(
    encoder: Encoder,
    tasks: TaskSet,
    *,
    candidates: int | None = None,
    stages: Stages = "all",
    temperature: float = 5.0,
    warmup_epochs: int = 0,
    lr_multiplier: float = 10.0,
    retrain_from: int | None = None,
    retrain_weights: SearchWeights = "start",
    copies: Copies = "fresh",
    head: HeadChoice = None,
) -> BranchSearchNetwork:
    """Learning to branch (Guo et al. 2020): a tree over copies of every stage, searched for by gradients.

    Args:
        encoder: The backbone.
        tasks: The tasks.
        candidates: Copies of every stage between which is chosen; one per task where None.
        stages: Which stages the tree consists of, as in `mmoe`.
        temperature: Of the Gumbel-softmax; it falls with the square root of the epochs.
        warmup_epochs: Epochs in which every copy hears all copies below alike, before the search.
        lr_multiplier: Factor on the learning rate of the choices.
        retrain_from: The epoch, counted from 1, before which the likeliest tree is fixed and its weights
            start anew; None: never, and evaluation goes by the likeliest tree.
        retrain_weights: "start" or "keep"; see `BranchSearchNetwork`.
        copies, head: See `PlanNetwork`.

    Raises:
        ConfigError: A setting out of range.

    Example:
        >>> tasks = tl.TaskSet(tl.Binary("a"), tl.Binary("b"), tl.Binary("c"))
        >>> network = learning_to_branch(tl.encoders.mlp((5,), hidden=[8, 4]), tasks)
        >>> network.task_choices["c"].logits.data[0, 2] = 1.0
        >>> print(network.describe())
        stage    a  b  c  how
        dense_0  A  A  A  likeliest tree of 3 copies
        dense_1  A  A  B  likeliest tree of 3 copies
        head     A  B  C  -
    """
    check_number("learning_to_branch.temperature", temperature, above=True)
    check_number("learning_to_branch.lr_multiplier", lr_multiplier, above=True)
    if retrain_weights not in get_args(SearchWeights):
        raise ConfigError(
            f"learning_to_branch.retrain_weights: start or keep expected, found {retrain_weights!r}."
        )
    if retrain_from is not None:
        check_count("learning_to_branch.retrain_from", retrain_from)
    return BranchSearchNetwork(
        encoder,
        tasks,
        stages=stage_run(stages, encoder, "learning_to_branch.stages"),
        candidates=(
            len(tasks) if candidates is None else check_count("learning_to_branch.candidates", candidates)
        ),
        temperature=temperature,
        warmup_epochs=check_count("learning_to_branch.warmup_epochs", warmup_epochs, least=0),
        lr_multiplier=lr_multiplier,
        retrain_from=retrain_from,
        retrain_weights=retrain_weights,
        head=head,
        copies=copies,
    )
