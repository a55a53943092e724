// Which model version a view is about: two choosers that change the address.

import { path, rows } from "./api.js";
import { h } from "./dom.js";
import { choice, empty } from "./parts.js";
import { go } from "./router.js";

/** {model, versions, version, head}, or {head} alone when there is no model yet. */
export async function chosen(view, title, ref, signal) {
  const models = await rows("/v1/models", {}, { signal });
  const heading = h("h1", {}, title);
  if (!models.length) return {
    head: [
      heading,
      empty(
        "No model yet",
        "A model appears here when its training has ended.",
        h("a.button.primary", { href: "#/train" }, "Train one"),
      ),
    ],
  };
  const [name, number] = (ref || models[0].name).split(":");
  const versions = await rows(path("models", name, "versions"), {}, { signal });
  const version = versions.find((row) => row.version === Number(number)) || versions[0];
  const pickModel = choice(
    models.map((row) => [row.name, row.name]),
    name,
    { "aria-label": "Model", onchange: (event) => go(view, [event.target.value]) },
  );
  const pickVersion = choice(
    versions.map((row) => [String(row.version), `Version ${row.version}`]),
    String(version.version),
    { "aria-label": "Version", onchange: (event) => go(view, [`${name}:${event.target.value}`]) },
  );
  return {
    model: name,
    versions,
    version,
    ref: `${name}:${version.version}`,
    head: h("div.head-row", {}, heading, pickModel, pickVersion),
  };
}

/** Address of the items of the dataset version that a model was trained on. */
export function itemsOf(version) {
  const [name, number] = version.dataset.split("@");
  return path("datasets", name, "versions", number, "items");
}
