// One picture large, with what is known about it.

import { h } from "./dom.js";
import { facts } from "./parts.js";

/** `where` is the address of the version's items; `more` are further facts. */
export function picture(where, item, more = []) {
  const words = item.path || `a picture of ${item.label}`;
  const image = h(
    "img.large",
    {
      alt: words,
      src: `${where}/${item.image}`,
      onload: () => image.naturalWidth < 64 && image.classList.add("pixels"),
    },
  );
  const dialog = h(
    "dialog.picture",
    {
      "aria-label": words,
      onclose: () => dialog.remove(),
      onclick: (event) => event.target === dialog && dialog.close(),
    },
    image,
    facts([
      item.path && ["File", item.path],
      ["Label", item.labels ? item.labels.join(", ") || "none" : item.label],
      item.split && ["Split", item.split],
      item.width && ["Size", `${item.width} x ${item.height} px`],
      ...more,
    ]),
    h("button", { type: "button", onclick: () => dialog.close() }, "Close"),
  );
  document.body.append(dialog);
  dialog.showModal();
}
