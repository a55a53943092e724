// The pictures that two versions of a dataset do not share, or sort differently.

import { get, path } from "./api.js";
import { h } from "./dom.js";
import * as format from "./format.js";
import { thumbnail } from "./gallery.js";
import { facts } from "./parts.js";
import { picture } from "./picture.js";

const SHOWN = 60;
const KINDS = [
  ["added", "Added", (one) => one.label],
  ["removed", "Removed", (one) => one.label],
  ["relabelled", "Relabelled", (one) => `${one.from || "no label"} → ${one.to || "no label"}`],
  ["moved", "Moved to another split", (one) => `${one.from} → ${one.to}`],
];

export async function differences(name, from, to) {
  const found = await get(path("datasets", name, "compare"), { from, to, limit: SHOWN });
  const { both } = found.pictures;
  return [
    facts([
      ["In both", format.count(both)],
      ...KINDS.map(([kind, title]) => [title, format.count(found.counts[kind])]),
    ]),
    KINDS.map(([kind, title, note]) => {
      const where = path("datasets", name, "versions", String(kind === "removed" ? from : to), "items");
      return pictures(title, found.counts[kind], found[kind], note, where);
    }),
  ];
}

function pictures(title, total, some, note, where) {
  if (!total) return null;
  const small = (one) => thumbnail(where, one, () => picture(where, one), note(one));
  return [
    h("h3", {}, title),
    h("div.thumbs", {}, some.map(small)),
    total > some.length && h("p.muted", {}, `${format.count(total - some.length)} more.`),
  ];
}
