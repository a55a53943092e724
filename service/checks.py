"""What the options of a resolved spec need of its network, refused with the field that asks too much."""

from service.errors import InvalidValue
from service.layers import LayersNetwork, can_be_whitened, shapes, takes_any_size
from service.networks import side_while_growing
from service.presets import PRESETS
from service.spec import Progressive, Schedule, TrainSpec, Transfer

LEAST_PART = 2  # pictures: of one alone batch normalisation knows no variance


def check_parts(spec: TrainSpec, pictures: int) -> None:
    """Has each part of a batch pictures enough, of these to train on? Raises InvalidValue."""
    assert isinstance(spec.batch_size, int)
    batch, parts = min(spec.batch_size, pictures), spec.optimizer.accumulate
    if parts > 1 and batch < LEAST_PART * parts:
        raise InvalidValue(
            "parts_too_small",
            f"a batch of {batch} pictures cannot be taken in {parts} parts: each needs {LEAST_PART} pictures or more",
            hint="lower optimizer.accumulate" + (" or raise batch_size" if batch == spec.batch_size else ""),
            param="/spec/optimizer/accumulate",
        )


def check_transfer(spec: TrainSpec) -> None:
    """Is there something to learn on from? Raises InvalidValue."""
    if isinstance(spec.transfer, Transfer) and spec.initial_weights is None:
        raise InvalidValue(
            "nothing_to_transfer",
            "transfer is how initial weights are learned on from, and this training begins with random ones",
            hint="leave transfer out, or give initial_weights",
            param="/spec/transfer",
        )


def check_schedule(spec: TrainSpec) -> None:
    """Raises InvalidValue where a rise of the rate is asked for that the schedule would not do."""
    if isinstance(spec.schedule, Schedule) and spec.schedule.name == "one_cycle" and spec.schedule.warmup:
        raise InvalidValue(
            "warmup_does_not_fit",
            "one_cycle rises for a third of the steps, whatever warmup says",
            hint="leave warmup out, or take cosine: the same way down after a warmup of your own",
            param="/spec/schedule/warmup",
        )


def check_own_weights(spec: TrainSpec, side: int) -> None:
    """Do the weights of a model that was trained at this side, in pixels, fit the pictures asked for?

    Raises InvalidValue.
    """
    network = layers_of(spec)
    if network is None or spec.image_size == side or takes_any_size(network):
        return
    raise InvalidValue(
        "weights_mismatch",
        f"{spec.initial_weights} is a network for pictures of {side} px only, not {spec.image_size}",
        hint=f"leave image_size out, or set it to {side}",
        param="/spec/image_size",
    )


def check_growth(spec: TrainSpec, classes: int) -> None:
    """Growing pictures: does the network take those of every size on the way? Raises InvalidValue."""
    if not isinstance(spec.progressive, Progressive) or (network := layers_of(spec)) is None:
        return
    if not takes_any_size(network):
        raise InvalidValue(
            "fixed_size_network",
            "this network takes pictures of one size only",
            hint="put a global_avg_pool before the first dense layer, or leave progressive out",
            param="/spec/progressive",
        )
    assert isinstance(spec.image_size, int)
    shapes(network, side_while_growing(spec.progressive.model_dump(), spec.image_size, None, 0.0), classes)


def can_grow(spec: TrainSpec, classes: int) -> bool:
    try:
        check_growth(spec, classes)
    except InvalidValue:
        return False
    return True


def check_initialisation(spec: TrainSpec) -> None:
    """Are there random weights, in layers of ours, that can begin as asked? Raises InvalidValue."""
    wanted = spec.initialisation
    if wanted is None or wanted == "auto" or not (wanted.whitening or wanted.identity):
        return
    if spec.initial_weights is not None:
        raise _impossible("its initial_weights are given", "leave one of the two out")
    network = layers_of(spec)
    if network is None:
        raise _impossible(f"{spec.network} has its own", "use a list of layers, 'speedrun', 'compact' or 'classic'")
    assert isinstance(spec.image_size, int)
    if wanted.whitening and not can_be_whitened(network, spec.image_size):
        raise _impossible(
            "whitening needs a convolution as the first layer, with at most 6 x kernel x kernel filters and a window "
            "no larger than the picture",
            "begin with {'conv': {'filters': 32}} or leave whitening out",
            "/whitening",
        )


def layers_of(spec: TrainSpec) -> LayersNetwork | None:
    """The layers of the network; None where it is known by name only."""
    return PRESETS.get(spec.network) if isinstance(spec.network, str) else spec.network


def _impossible(detail: str, hint: str, where: str = "") -> InvalidValue:
    return InvalidValue(
        "impossible_initialisation",
        f"the network's weights cannot begin like this: {detail}",
        hint=hint,
        param=f"/spec/initialisation{where}",
    )
