// Signing in with a key; the printed link does it without one.

import { post } from "../api.js";
import { h } from "../dom.js";
import { doing, field } from "../parts.js";

export function signInForm(welcome) {
  const key = h(
    "input",
    { type: "password", autocomplete: "current-password", required: true, placeholder: "fov_…", spellcheck: "false" },
  );
  const said = h("div");
  const submit = doing(said, async () => welcome(await post("/v1/session", { key: key.value.trim() })));
  return h(
    "section.card.narrow",
    {},
    h("h1", {}, "Sign in"),
    h(
      "p",
      {},
      "Open the sign-in link that ",
      h("code", {}, "fovea up"),
      " printed, or make a new one with ",
      h("code", {}, "fovea link"),
      ". Or enter an API key:",
    ),
    h(
      "form",
      { onsubmit: submit },
      field("API key", key, "The first start keeps an admin key in fovea-data/admin.key."),
      h("button.primary", { type: "submit" }, "Sign in"),
    ),
    said,
  );
}
