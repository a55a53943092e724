"""A list of changes as a CSV file, which a person can look through and correct: image,action,value,path."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from service.client import Fovea

SEPARATOR = ";"  # of several labels
FIELDS = {"move": "split", "remove": None}


def read_changes(source: Path, fovea: Fovea, name: str, number: int) -> list[dict[str, Any]]:
    """Lines whose action is empty are passed over. A picture may be named by its path in the version."""
    with source.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if (row.get("action") or "").strip()]
    missing = {"image", "action"} - set(rows[0] if rows else {"image", "action"})
    if missing:
        raise typer.BadParameter(f"{source} has no column {', '.join(sorted(missing))}")
    where = f"/v1/datasets/{name}/versions/{number}"
    several = fovea.get(where)["task"] == "multi_label"
    named = {row["image"] for row in rows if len(row["image"]) != 64}
    images = {one["path"]: one["image"] for one in fovea.rows(f"{where}/items", limit=1000)} if named else {}
    return [_change(row, images, several=several) for row in rows]


def _change(row: dict[str, str], images: dict[str, str], *, several: bool) -> dict[str, Any]:
    action, value = row["action"].strip(), row.get("value") or ""
    change: dict[str, Any] = {"image": images.get(row["image"], row["image"]), "action": action}
    if action == "relabel" and several:
        return {**change, "labels": [one for one in value.split(SEPARATOR) if one]}
    if field := FIELDS.get(action, "label"):
        change[field] = value
    return change


def write_changes(target: Path, suspects: Sequence[dict[str, Any]]) -> None:
    """What is suggested as relabel; where nothing is, the action stays empty for a person to fill in."""
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "action", "value", "path", "label", "message"))
        for row in suspects:
            action = "relabel" if row["suggested"] is not None else ""
            writer.writerow((row["image"], action, row["suggested"] or "", row["path"], row["label"], row["message"]))
