// What a person wants changed in a version of a dataset, collected until it becomes the next version.

import { path, post } from "./api.js";
import { h, show } from "./dom.js";
import * as format from "./format.js";
import { card, doing, say } from "./parts.js";
import { go } from "./router.js";

const WORDS = { relabel: "to relabel", move: "to move", remove: "to remove" };

/** `newest` is the number of the dataset's newest version. */
export function changesOf(name, version, newest) {
  const wanted = new Map(); // SHA-256 of a picture -> its change
  const listeners = [];
  const said = h("div");
  const line = h("p", { "aria-live": "polite" });
  const older = version.number !== newest && h(
    "p.notice.warn",
    {},
    `This is version ${version.number}; what is new in version ${newest} will not be in the one that you make here.`,
  );
  const make = async () => {
    const changes = [...wanted].map(([image, change]) => ({ image, ...change }));
    const made = await post(`${path("datasets", name, "versions", String(version.number))}:edit`, { changes });
    say(`Version ${made.number} is made`);
    go("dataset", [name, String(made.number)]);
  };
  const clear = () => {
    wanted.clear();
    tell();
  };
  const element = card(
    "Your changes",
    line,
    older,
    said,
    h(
      "div.row",
      {},
      h("button.primary", { type: "button", onclick: doing(said, make) }, "Make the next version"),
      h("button.quiet", { type: "button", onclick: clear }, "Forget them"),
    ),
  );
  element.classList.add("changes");
  element.hidden = true;
  return {
    element,
    of: (image) => wanted.get(image),
    onChange: (listener) => listeners.push(listener),
    /** The same change for each of the pictures; null takes back what was wanted. */
    set: (images, change) => {
      for (const image of images) {
        if (change) wanted.set(image, change);
        else wanted.delete(image);
      }
      tell();
    },
  };

  function tell() {
    const kinds = Object.entries(WORDS).map(([action, words]) => {
      const count = [...wanted.values()].filter((change) => change.action === action).length;
      return count && `${format.several(count, "picture")} ${words}`;
    });
    element.hidden = !wanted.size;
    line.textContent = wanted.size ? `${kinds.filter(Boolean).join(", ")}.` : "";
    show(said);
    for (const listener of listeners) listener();
  }
}

/** What will become of a picture, in a few words. */
export function inWords(change) {
  if (change.action === "relabel") return `→ ${change.label ?? (change.labels.join(", ") || "no label")}`;
  return change.action === "move" ? `→ ${change.split}` : "removed";
}
