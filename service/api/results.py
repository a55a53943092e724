"""From a program's outputs to what `classify` says of each picture: labels, prediction set, how strange, and where."""

import base64
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from service.errors import InvalidValue
from service.inference import conformal
from service.inference.explain import heat_map
from service.inference.score import all_ranked, chances, several

Json = dict[str, Any]


class Wanted(BaseModel):
    """What the caller asks of each result: the query of the request."""

    model_config = ConfigDict(frozen=True)

    top_k: int = Field(5, ge=1, le=1000)
    coverage: float | None = Field(
        None, gt=0.5, le=0.999, description="name the classes among which the right one is this often"
    )
    false_alarm: float = Field(
        0.05, gt=0, le=0.5, description="share of ordinary pictures that may be answered with abstain"
    )
    explain: Literal["cam"] | None = Field(None, description="where the first label was seen: a class activation map")

    def kept(self) -> Json:
        """What makes the same answer again; an explanation is not kept."""
        return {"top_k": self.top_k, "coverage": self.coverage, "false_alarm": self.false_alarm}


BLANK: Json = {
    "label": None,
    "labels": [],
    "probability": None,
    "predictions": [],
    "prediction_set": None,
    "ood": None,
    "decision": None,
    "explanation": None,
}


def check(card: Json, wanted: Wanted) -> None:
    """Raises InvalidValue (422) for what this model version cannot answer."""
    if wanted.coverage is not None and "prediction_sets" not in card:
        why = "gives any number of labels" if several(card) else "was trained before prediction sets were kept"
        raise InvalidValue(
            "coverage_unsupported",
            f"this model version {why}",
            hint="leave ?coverage out" if several(card) else "train it again, or leave ?coverage out",
            param="coverage",
        )
    if wanted.explain is not None and not card.get("maps"):
        raise InvalidValue(
            "explain_unsupported",
            "a class activation map needs a network that ends in the mean over several places and one linear layer",
            hint="train such a network (resnet18, or layers that end in global_avg_pool), or leave ?explain out",
            param="explain",
        )


def p_values_of(outputs: Any, card: Json) -> NDArray[np.float64] | None:
    """(N,) how often a picture like the training's looks as strange; None where the program or card cannot tell."""
    if outputs.strangeness is None or "strangeness" not in card:
        return None
    return conformal.p_values(card["strangeness"], outputs.strangeness.astype(np.float64))


def shape(outputs: Any, card: Json, wanted: Wanted) -> list[Json]:
    """One result per row of a program's `Outputs`, without filename and error."""
    found = chances(outputs.logits, card)
    rows = [_all_named(row, card, wanted.top_k) for row in found] if several(card) else _named(found, card, wanted)
    if wanted.coverage is not None:
        _add_sets(rows, found, card, wanted.coverage)
    p_values = p_values_of(outputs, card)
    if p_values is not None:
        for row, p_value in zip(rows, p_values.tolist(), strict=True):
            row["ood"] = {"p_value": round(p_value, 6)}
            row["decision"] = "abstain" if p_value <= wanted.false_alarm else "accept"
    if wanted.explain is not None and outputs.maps is not None:
        for row, seen in zip(rows, outputs.maps, strict=True):
            png = base64.b64encode(heat_map(seen, card["image_size"])).decode()
            row["explanation"] = {"kind": wanted.explain, "label": row["label"], "png": png}
    return rows


def _named(found: NDArray[np.float64], card: Json, wanted: Wanted) -> list[Json]:
    rows = []
    for best in all_ranked(found, card["classes"], wanted.top_k):
        first = best[0]
        rows.append(
            {
                **BLANK,
                "label": first["label"],
                "probability": first["probability"],
                "labels": [first["label"]],
                "predictions": best,
            }
        )
    return rows


def _all_named(row: NDArray[np.float64], card: Json, top_k: int) -> Json:
    """All classes from their thresholds on, the surest first; `label` is the first of them, null when there is none."""
    classes, limits = card["classes"], card["thresholds"]
    order = np.argsort(-row, kind="stable").tolist()
    ranks = [{"label": classes[k], "probability": round(float(row[k]), 6), "threshold": limits[k]} for k in order]
    given = [rank for k, rank in zip(order, ranks, strict=True) if row[k] >= limits[k]]
    first = {key: given[0][key] for key in ("label", "probability")} if given else {}
    return {**BLANK, **first, "labels": [rank["label"] for rank in given], "predictions": ranks[:top_k]}


def _add_sets(rows: list[Json], chances: NDArray[np.float64], card: Json, coverage: float) -> None:
    limit = conformal.threshold(card["prediction_sets"], coverage)
    order = np.argsort(-chances, axis=1, kind="stable")
    for row, ranks, named in zip(rows, order, conformal.sets(chances, limit), strict=True):
        row["prediction_set"] = [card["classes"][k] for k in ranks if named[k]]
