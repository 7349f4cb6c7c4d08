"""AdaShare (Sun et al. 2020) by its name: settings, checks, and which network they give."""

from __future__ import annotations

from typing import Any, get_args

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.heads import HeadChoice
from taskloom.sharing.modules.base import check_count, check_number, stage_positions
from taskloom.sharing.modules.registration import register_module
from taskloom.sharing.modules.retraining import FixedPolicy, RetrainedNetwork, RetrainWeights
from taskloom.sharing.modules.skipping import SkippingNetwork
from taskloom.sharing.plan import Copies
from taskloom.sharing.settings import Stages
from taskloom.tasks import TaskSet


@register_module("adashare")
def adashare(
    encoder: Encoder,
    tasks: TaskSet,
    *,
    stages: Stages = "all",
    sparsity: float = 0.05,
    sharing: float = 0.05,
    temperature: float = 5.0,
    temperature_decay: float = 0.965,
    curriculum_epochs: int = 1,
    warmup_epochs: int = 0,
    lr_multiplier: float = 10.0,
    joined: bool = False,
    alternate: bool = False,
    retrain_from: int | None = None,
    retrain_policy: FixedPolicy = "sampled",
    retrain_weights: RetrainWeights = "start",
    copies: Copies = "fresh",
    head: HeadChoice = None,
) -> SkippingNetwork:
    """AdaShare (Sun et al. 2020): one trunk in which every task learns which stages to execute.

    Args:
        encoder: The backbone, of two stages or more.
        tasks: The tasks.
        stages: Which stages have a policy: numbers from 1 and names, or "all": every stage but the first,
            which makes features of the raw input and is always executed, like the stem of the paper's
            networks.
        sparsity, sharing: Factors of the two penalties, at least 0 (the paper: 0.05 and 0.05 with two tasks).
        temperature, temperature_decay: Of the Gumbel-softmax, and its factor per epoch.
        curriculum_epochs, warmup_epochs: When policies open; see `SkippingNetwork`.
        lr_multiplier: Factor on the learning rate of the policies (the authors' code: 0.01 / 0.001).
        joined: See `SkippingNetwork`.
        alternate: Whether policies and weights learn by turns from a half of the training rows each, as in
            the paper; else all rows train both at once. One process only.
        retrain_from: The epoch, counted from 1, before which policies are fixed and weights start anew (the
            paper's second phase); None: never.
        retrain_policy, retrain_weights: How; see `RetrainedNetwork`.
        copies, head: See `PlanNetwork`.

    Raises:
        ConfigError: A setting out of range, or an encoder with a single stage.

    Example:
        >>> encoder = tl.encoders.mlp((5,), hidden=[8, 8])
        >>> network = adashare(encoder, tl.TaskSet(tl.Binary("a"), tl.Binary("b"))).eval()
        >>> _ = network.policies["b"].logits.data.fill_(-1.0)
        >>> print(network.describe())
        stage    a  b     how
        dense_0  A  A     -
        dense_1  A  skip  policy per task
        head     A  B     -
    """
    check_number("adashare.sparsity", sparsity)
    check_number("adashare.sharing", sharing)
    check_number("adashare.temperature", temperature, above=True)
    check_number("adashare.temperature_decay", temperature_decay, most=1.0, above=True)
    check_number("adashare.lr_multiplier", lr_multiplier, above=True)
    for setting, flag in (("joined", joined), ("alternate", alternate)):
        if not isinstance(flag, bool):
            raise ConfigError(f"adashare.{setting}: true or false expected, found {flag!r}.")
    skippable = stage_positions(stages, encoder, "adashare.stages")
    if stages == "all":
        skippable = skippable[1:]
    if not skippable:
        raise ConfigError(
            "adashare: the first stage is always executed, so an encoder of two stages or more is expected, "
            "found one; divide it into more stages, or name the stages that may be skipped in `stages`."
        )
    for setting, value, known in (
        ("retrain_policy", retrain_policy, FixedPolicy),
        ("retrain_weights", retrain_weights, RetrainWeights),
    ):
        if value not in get_args(known):
            raise ConfigError(
                f"adashare.{setting}: {' or '.join(get_args(known))} expected, found {value!r}."
            )
    settings: dict[str, Any] = {
        "skippable": skippable,
        "sparsity": sparsity,
        "sharing": sharing,
        "temperature": temperature,
        "temperature_decay": temperature_decay,
        "curriculum_epochs": check_count("adashare.curriculum_epochs", curriculum_epochs, least=0),
        "warmup_epochs": check_count("adashare.warmup_epochs", warmup_epochs, least=0),
        "lr_multiplier": lr_multiplier,
        "joined": joined,
        "head": head,
        "copies": copies,
    }
    if not alternate and retrain_from is None:
        return SkippingNetwork(encoder, tasks, **settings)
    return RetrainedNetwork(
        encoder,
        tasks,
        alternate=alternate,
        retrain_from=None if retrain_from is None else check_count("adashare.retrain_from", retrain_from),
        retrain_policy=retrain_policy,
        retrain_weights=retrain_weights,
        **settings,
    )
