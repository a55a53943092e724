// Names that applications call, such as production, and the version each stands for: moved, taken back, remembered.

import { get, path, post, request, rows } from "../api.js";
import { h, show } from "../dom.js";
import * as format from "../format.js";
import { card, choice, doing, errorBox, field, table } from "../parts.js";

/** `versions`: all versions of all models, newest first within a model. */
export function aliasCard(versions) {
  if (versions.error || !versions.length) return null;
  const names = [...new Set(versions.map((row) => row.model))];
  const place = h("div");
  const model = choice(names.map((name) => [name, name]), names[0], { id: "alias-model" });
  const draw = () => aliasesOf(model.value, versions.filter((row) => row.model === model.value), place);
  model.addEventListener("change", draw);
  draw();
  const words = "An application asks model@production; which version answers is decided here, without a restart.";
  return card("Aliases", h("p.muted", {}, words), field("Model", model), place);
}

async function aliasesOf(model, versions, place) {
  const said = h("div", { "aria-live": "polite" });
  const again = () => aliasesOf(model, versions, place);
  try {
    const { data } = await get(path("models", model, "aliases"));
    show(
      place,
      data.length ? aliasTable(data, said, again) : h("p", {}, "No alias yet: the newest version answers."),
      said,
      mover(model, versions, data, said, again),
    );
  } catch (error) {
    show(place, errorBox(error));
  }
}

function aliasTable(data, said, again) {
  const where = (row, ...more) => path("models", row.model, "aliases", row.alias, ...more);
  const back = (row) => doing(said, async () => {
    await post(`${where(row)}:rollback`, undefined, { headers: { "If-Match": row.etag } });
    await again();
  });
  const history = (row) => doing(
    said,
    async () => show(said, h("h3", {}, `${row.alias}: every move`), moves(await rows(where(row, "history")))),
  );
  return table(
    "Aliases",
    [
      { title: "Alias", value: (row) => row.alias },
      { title: "Version", value: (row) => row.version, numeric: true },
      { title: "Since", value: (row) => row.moved_at, cell: (row) => format.when(row.moved_at) },
      {
        title: "Do",
        cell: (row) => h(
          "div.row",
          {},
          h(
            "button.quiet",
            { type: "button", "aria-label": `Take ${row.alias} back`, onclick: back(row) },
            "Take back",
          ),
          h(
            "button.quiet",
            { type: "button", "aria-label": `History of ${row.alias}`, onclick: history(row) },
            "History",
          ),
        ),
      },
    ],
    data,
  );
}

function moves(history) {
  return table("History", [
    { title: "When", value: (row) => row.time, cell: (row) => format.when(row.time) },
    { title: "What", value: (row) => row.action },
    { title: "To version", value: (row) => row.version, numeric: true },
    { title: "From", value: (row) => row.previous ?? "–", numeric: true },
  ], history);
}

/** Creates or moves an alias. The state that was seen travels along, so that nobody's move is undone unseen. */
function mover(model, versions, data, said, again) {
  const name = h(
    "input",
    { id: "alias-name", required: true, maxlength: 64, value: "production", autocomplete: "off" },
  );
  const version = choice(
    versions.map((row) => [
      String(row.version),
      `Version ${row.version}, ${format.percent(row.metrics.accuracy)} right`,
    ]),
    String(versions[0].version),
    { id: "alias-version" },
  );
  const gate = h("input", { type: "checkbox", id: "alias-gate", checked: true });
  const move = doing(said, async () => {
    const present = data.find((row) => row.alias === name.value);
    const body = {
      version: Number(version.value),
      ...(present && gate.checked && { gate: { not_worse_than: name.value } }),
    };
    const headers = {
      "Content-Type": "application/json",
      ...(present ? { "If-Match": present.etag } : { "If-None-Match": "*" }),
    };
    await request("PUT", path("models", model, "aliases", name.value), { headers, body: JSON.stringify(body) });
    await again();
  });
  return h("form.inline", { onsubmit: move },
    h("div.fields", {}, field("Alias", name), field("Points at", version)),
    h("label.check", {}, gate, "only if it is not significantly worse than what answers now"),
    h("p", {}, h("button", { type: "submit" }, "Point it there")));
}
