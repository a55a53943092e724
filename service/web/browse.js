// The pictures of a version: filtered, looked at, selected.

import { inWords } from "./changes.js";
import { path } from "./api.js";
import { h, show } from "./dom.js";
import { gallery } from "./gallery.js";
import { card, choice, field } from "./parts.js";
import { picture } from "./picture.js";
import { selecting } from "./selecting.js";

export function browse(name, version, changes, signal) {
  const where = path("datasets", name, "versions", String(version.number), "items");
  const place = h("div");
  let shown = null;
  const label = choice([["", "All classes"], ...version.classes.map((row) => [row.name, row.name])], "");
  const split = choice([["", "All splits"], ["train", "train"], ["val", "val"], ["test", "test"]], "");
  const selection = selecting(version, changes, () => shown?.refresh());
  changes.onChange(() => shown?.refresh());
  const total = () => {
    if (label.value && split.value) return null; // only known once all are loaded
    if (label.value) return version.classes.find((row) => row.name === label.value).count;
    return split.value ? version.splits[split.value] : version.image_count;
  };
  const open = (item) => (selection.isOn() ? selection.flip(item.image) : picture(where, item));
  const mark = (item) => {
    const change = changes.of(item.image);
    return {
      note: change && inWords(change),
      picked: selection.isOn() ? selection.has(item.image) : undefined,
    };
  };
  const refresh = () => {
    const filter = { label: label.value, split: split.value };
    const anywhere = !filter.label && !filter.split;
    shown = gallery({ where, filter, total: total(), anywhere, onOpen: open, mark, signal });
    show(place, shown.element);
  };
  for (const control of [label, split]) control.addEventListener("change", refresh);
  refresh();
  return card(
    "Pictures",
    h("div.row", {}, field("Class", label), field("Split", split), selection.toggle),
    selection.tools,
    place,
  );
}
