// What runs and who may use it: model versions, keys, health.

import { get, path, post, remove, rows } from "../api.js";
import { download } from "../bundle.js";
import { h, show } from "../dom.js";
import * as format from "../format.js";
import { ask, badge, card, doing, empty, errorBox, facts, field, snippet, table } from "../parts.js";
import { link } from "../router.js";
import { aliasCard } from "./aliases.js";

const SCOPES = [
  ["predict", "ask models"],
  ["data", "upload and remove pictures"],
  ["train", "start and steer jobs"],
  ["admin", "everything, keys too"],
];

export async function view({ signal }) {
  const quietly = (promise) => promise.catch((error) => ({ error }));
  const [models, keys, info, ready] = await Promise.all([
    quietly(allVersions(signal)),
    quietly(rows("/v1/keys", {}, { signal })),
    quietly(get("/v1/info", {}, { signal })),
    quietly(readiness()),
  ]);
  return [h("h1", {}, "Serve"), modelCard(models), aliasCard(models), keyCard(keys), healthCard(info, ready)];
}

async function allVersions(signal) {
  const models = await rows("/v1/models", {}, { signal });
  const versions = (row) => rows(path("models", row.name, "versions"), {}, { signal, most: 50 });
  return (await Promise.all(models.map(versions))).flat();
}

async function readiness() {
  return (await fetch("/readyz")).json(); // 503 carries the same JSON
}

function modelCard(versions) {
  if (versions.error) return card("Models", errorBox(versions.error));
  if (!versions.length) return empty(
    "No model to serve yet",
    "Train one; it answers over HTTP as soon as it is certified.",
    h("a.button.primary", { href: "#/train" }, "Train a model"),
  );
  const said = h("div", { "aria-live": "polite" });
  return card(
    "Models",
    said,
    table(
      "Model versions",
      [
        {
          title: "Model",
          value: (row) => row.model,
          cell: (row) => h(
            "a",
            { href: link("judge", [`${row.model}:${row.version}`]) },
            `${row.model}:${row.version}`,
          ),
        },
        {
          title: "Accuracy",
          value: (row) => row.metrics.accuracy,
          cell: (row) => format.percent(row.metrics.accuracy),
          numeric: true,
        },
        {
          title: "Parameters",
          value: (row) => row.parameters,
          cell: (row) => format.short(row.parameters),
          numeric: true,
        },
        {
          title: "Certificate",
          value: (row) => String(row.certificate.passed),
          cell: (row) => badge(row.certificate.passed ? "passed" : "failed"),
        },
        { title: "Engine", value: (row) => row.certificate.engine },
        {
          title: "Weights",
          value: (row) => row.weights_sha256,
          cell: (row) => h("code", { title: row.weights_sha256 }, row.weights_sha256.slice(0, 12)),
        },
        { title: "Made", value: (row) => row.created_at, cell: (row) => format.when(row.created_at) },
        { title: "Take away", cell: (row) => takeAway(row, said) },
        {
          title: "Use",
          cell: (row) => h(
            "a",
            { href: link("ask", [`${row.model}:${row.version}`]), "aria-label": `Ask ${row.model}:${row.version}` },
            "Ask",
          ),
        },
      ],
      versions,
    ),
  );
}

/** A version in eight bits has no bundle: it is for the engines here. */
function takeAway(version, said) {
  if (version.lineage.quantised_from) return `of ${version.lineage.quantised_from.model}, in eight bits`;
  return bundleButton(`${version.model}:${version.version}`, said);
}

function bundleButton(ref, said) {
  const action = doing(said, async () => {
    show(said, h("p.muted", {}, `Preparing ${ref}: ONNX, card and golden pictures…`));
    await download(ref);
    show(said);
  });
  return h("button.quiet", { type: "button", "aria-label": `Bundle of ${ref}`, onclick: action }, "Bundle");
}

function keyCard(keys) {
  const title = "API keys";
  if (keys.error) return card(title, errorBox(keys.error));
  const said = h("div", { "aria-live": "polite" });
  const place = h("div");
  const refresh = async () => show(place, keyTable(await rows("/v1/keys"), said, refresh));
  show(place, keyTable(keys, said, refresh));
  return card(title, place, said, newKey(said, refresh));
}

function keyTable(keys, said, refresh) {
  const revoke = (row) => doing(said, async () => {
    if (!(await ask(`Revoke the key “${row.name}”? Programs that use it stop working at once.`, "Revoke"))) return;
    await remove(path("keys", row.id));
    await refresh();
  });
  const button = (row) =>
    row.revoked_at
      ? h("span.muted", {}, "revoked")
      : h("button.quiet", { type: "button", "aria-label": `Revoke ${row.name}`, onclick: revoke(row) }, "Revoke");
  return table(
    "API keys",
    [
      { title: "Name", value: (row) => row.name },
      { title: "Begins with", cell: (row) => h("code", {}, `${row.prefix}…`) },
      { title: "May", value: (row) => row.scopes.join(", ") },
      { title: "Made", value: (row) => row.created_at, cell: (row) => format.when(row.created_at) },
      {
        title: "Revoke",
        cell: button,
      },
    ],
    keys,
  );
}

function newKey(said, refresh) {
  const name = h(
    "input",
    { id: "key-name", required: true, maxlength: 100, autocomplete: "off", placeholder: "my app" },
  );
  const boxes = SCOPES.map(([scope, words]) => h(
    "label.check",
    {},
    h("input", { type: "checkbox", value: scope, checked: scope === "predict" }),
    h("b", {}, scope),
    ` ${words}`,
  ));
  const make = doing(said, async () => {
    const scopes = boxes.map((box) => box.querySelector("input")).filter((box) => box.checked).map((box) => box.value);
    const made = await post("/v1/keys", { name: name.value, scopes });
    name.value = "";
    await refresh();
    show(
      said,
      h("div.notice.good", {}, h("strong", {}, "Keep it now: it is shown once."), snippet("New key", made.key)),
    );
  });
  return h(
    "form.inline",
    { onsubmit: make },
    h("h3", {}, "Make a key"),
    field("Name", name),
    h("fieldset", {}, h("legend", {}, "It may"), boxes),
    h("button", { type: "submit" }, "Make the key"),
  );
}

function healthCard(info, ready) {
  if (info.error || ready.error) return card("Health", errorBox(info.error || ready.error));
  return card(
    "Health",
    facts([
      ["Service", badge(ready.ready ? "ready" : "failed")],
      ...Object.entries(ready.checks),
      ["Version", info.version],
      ["Tables in", info.database],
      ["Device", info.device],
    ]),
    info.storage && h("h3", {}, "On the disk"),
    info.storage && facts(Object.entries(info.storage).map(([what, value]) => [what, format.bytes(value)])),
    h(
      "details",
      {},
      h("summary", {}, "Limits"),
      facts(Object.entries(info.limits).map(([name, value]) => [
        name.replaceAll("_", " "),
        name.endsWith("bytes") ? format.bytes(value) : format.count(value),
      ])),
    ),
    h(
      "p",
      {},
      h("a", { href: "/docs" }, "API documentation"),
      " · ",
      h("a", { href: "/metrics" }, "Metrics for Prometheus"),
    ),
  );
}
