// Selecting pictures of the gallery, and what can be done with those selected: another label, another split, or away.

import { h } from "./dom.js";
import * as format from "./format.js";
import { choice, field } from "./parts.js";

/** `onChange` is called when what is selected has changed. */
export function selecting(version, changes, onChange) {
  const picked = new Set(); // SHA-256 of pictures
  const several = version.task === "multi_label";
  const count = h("p.grow", { "aria-live": "polite" });
  const names = h("datalist", { id: "class-names" }, version.classes.map((row) => h("option", { value: row.name })));
  const label = h("input", { list: "class-names", autocomplete: "off", maxlength: 255, oninput: () => tell() });
  const split = choice(["train", "val", "test"].map((one) => [one, one]), "train");
  const act = (change) => () => {
    changes.set([...picked], change());
    picked.clear();
    tell();
  };
  const relabel = button("Relabel", act(() => ({ action: "relabel", ...labelled(label.value, several) })));
  const others = [
    button("Move", act(() => ({ action: "move", split: split.value }))),
    button("Remove", act(() => ({ action: "remove" }))),
    button("As it was", act(() => null)),
  ];
  const tools = h(
    "div.tools",
    { role: "group", "aria-label": "With the selected pictures", hidden: true },
    count,
    names,
    field(several ? "Labels, with ; between them" : "Label, also a new one", label),
    relabel,
    field("Split", split),
    others,
  );
  const toggle = button("Select pictures", () => {
    const on = toggle.getAttribute("aria-pressed") !== "true";
    toggle.setAttribute("aria-pressed", String(on));
    tools.hidden = !on;
    if (!on) picked.clear();
    tell();
  });
  toggle.setAttribute("aria-pressed", "false");
  tell();
  return {
    toggle,
    tools,
    isOn: () => toggle.getAttribute("aria-pressed") === "true",
    has: (image) => picked.has(image),
    flip: (image) => {
      if (!picked.delete(image)) picked.add(image);
      tell();
    },
  };

  function tell() {
    count.textContent = `${format.several(picked.size, "picture")} selected`;
    for (const one of others) one.disabled = !picked.size;
    relabel.disabled = !picked.size || (!several && !label.value.trim());
    onChange();
  }
}

function button(words, onclick) {
  return h("button", { type: "button", onclick }, words);
}

function labelled(text, several) {
  if (!several) return { label: text.trim() };
  return { labels: text.split(";").map((one) => one.trim()).filter(Boolean) };
}
