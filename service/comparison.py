"""Is one model version better than another? A paired test on the pictures that both were evaluated on.

Only pictures on which exactly one of the two is right tell them apart (McNemar 1947); under the hypothesis that both
are equally good, each such picture is a toss of a fair coin, which gives an exact test. It knows answers, not models.
"""

from dataclasses import dataclass
from typing import Any

from service.errors import Conflict

Json = dict[str, Any]
MAX_CHANGED = 1000


def kept_answers(images: list[str], labels: list[str], predicted: list[str]) -> Json:
    """What a model version keeps of its evaluation: SHA-256, label and answer of each picture, by number in `classes`.

    With several labels each set of them is one of these classes.
    """
    classes = sorted({*labels, *predicted})
    number = {name: k for k, name in enumerate(classes)}
    numbers = ([number[name] for name in names] for names in (labels, predicted))
    return {"images": images, "classes": classes, **dict(zip(("labels", "predicted"), numbers, strict=True))}


@dataclass(frozen=True)
class _Row:
    image: str
    label: str
    answer: str

    @property
    def right(self) -> bool:
        return self.label == self.answer


def compare(a: Json | None, b: Json | None) -> Json:
    """The paired comparison of two `kept_answers`. Raises Conflict when they are not about the same pictures.

    `p_value` is two-sided; `p_worse` is the chance of so many pictures lost by b, were it as good as a. The interval of
    the difference in accuracy (b - a, 95 %) is that of Bonett and Price (2012) for paired proportions.
    """
    rows = _pairs(a, b)
    lost = sum(x.right and not y.right for x, y in rows)
    won = sum(y.right and not x.right for x, y in rows)
    changed = [_change(x, y) for x, y in rows if x.answer != y.answer]
    return {
        "n": len(rows),
        "both_right": sum(x.right and y.right for x, y in rows),
        "both_wrong": sum(not x.right and not y.right for x, y in rows),
        "right_to_wrong": lost,
        "wrong_to_right": won,
        "accuracy": {"a": sum(x.right for x, _ in rows) / len(rows), "b": sum(y.right for _, y in rows) / len(rows)},
        "accuracy_difference": _difference(lost, won, len(rows)),
        **mcnemar(lost, won),
        "changed": sorted(changed, key=lambda row: (row["change"], row["image"]))[:MAX_CHANGED],
    }


def _pairs(a: Json | None, b: Json | None) -> list[tuple[_Row, _Row]]:
    if a is None or b is None:
        raise Conflict(
            "answers_not_kept",
            "one of the two was imported, or trained by a version of Fovea that kept no answers to compare",
            hint="train it here",
        )
    first, second = _rows(a), _rows(b)
    if [(row.image, row.label) for row in first] != [(row.image, row.label) for row in second]:
        shared = len({row.image for row in first} & {row.image for row in second})
        raise Conflict(
            "different_test_pictures",
            f"the two were evaluated on {len(first)} and {len(second)} pictures, of which they share {shared}, "
            "or the labels differ; a paired test needs the same",
            hint="train both on the same dataset version",
        )
    return list(zip(first, second, strict=True))


def _rows(kept: Json) -> list[_Row]:
    classes = kept["classes"]
    rows = zip(kept["images"], kept["labels"], kept["predicted"], strict=True)
    found = [_Row(image, classes[label], classes[answer]) for image, label, answer in rows]
    return sorted(found, key=lambda row: (row.image, row.label))


def _change(a: _Row, b: _Row) -> Json:
    change = f"{'right' if a.right else 'wrong'}_to_{'right' if b.right else 'wrong'}"
    return {"image": a.image, "label": a.label, "a": a.answer, "b": b.answer, "change": change}


def mcnemar(lost: int, won: int) -> dict[str, float]:
    """The exact test of `lost` pictures that only the first answers rightly against `won` that only the second does."""
    if lost + won == 0:
        return {"p_value": 1.0, "p_worse": 1.0}
    from scipy.stats import binomtest  # half a second, and only for a service that compares

    return {
        "p_value": float(binomtest(lost, lost + won).pvalue),
        "p_worse": float(binomtest(lost, lost + won, alternative="greater").pvalue),
    }


def _difference(lost: int, won: int, n: int) -> dict[str, float]:
    fewer, more = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    half = 1.959964 * ((fewer + more - (more - fewer) ** 2) / (n + 2)) ** 0.5
    middle = more - fewer
    return {"value": (won - lost) / n, "low": max(middle - half, -1.0), "high": min(middle + half, 1.0)}
