// What a dry run says: what would be trained, how long it would take, and why these values.

import { h } from "./dom.js";
import * as format from "./format.js";
import { facts, snippet, table } from "./parts.js";

export function resolvedPlan({ spec, reasons, parameters, multiply_adds, estimate, layers, search }, body) {
  const { p10, p50, p90 } = estimate.seconds;
  const { start, training, end } = estimate.parts;
  const network = typeof spec.network === "string" ? spec.network : `${spec.network.layers.length} layers of your own`;
  return [
    facts([
      ["Time", `about ${format.seconds(p50)}`],
      ["Memory", format.bytes(estimate.memory_bytes)],
      ["Disk", format.bytes(estimate.disk_bytes)],
      search && ["Trials", `${format.count(search.trials)} at most`],
      ["Network", network],
      ["Parameters", format.count(parameters)],
      ["Multiply-adds", format.short(multiply_adds)],
      ["Picture", `${spec.image_size} x ${spec.image_size} px`],
      ["Epochs", format.count(spec.epochs)],
      ["Batch", format.count(spec.batch_size)],
      ["Rate", `${spec.optimizer.name}, ${spec.optimizer.lr}`],
    ]),
    h(
      "p.muted",
      {},
      `In four of five cases between ${format.seconds(p10)} and ${format.seconds(p90)}: ${estimate.based_on}.`,
      !search && ` Of it ${format.seconds(training)} are steps, ${format.seconds(start + end)} what comes before and after.`,
      search && " The figures of the spec as it stands; trials that look poor are ended early.",
    ),
    because(reasons),
    layers && layerTable(layers),
    h(
      "details",
      {},
      h("summary", {}, "The whole resolved spec"),
      h("pre", { tabindex: 0 }, JSON.stringify(spec, null, 2)),
    ),
    h(
      "details",
      {},
      h("summary", {}, "The same from a program"),
      snippet("POST /v1/jobs", JSON.stringify(body, null, 2)),
    ),
  ];
}

function layerTable(layers) {
  const number = (title, key, shown) => ({
    title,
    value: (row) => row[key],
    cell: (row) => shown(row[key]),
    numeric: true,
  });
  return table(
    "Layers",
    [
      { title: "Layer", value: (row) => row.kind },
      { title: "Gives", value: (row) => row.out.join(" x ") },
      number("Parameters", "parameters", format.count),
      number("Multiply-adds", "multiply_adds", format.short),
    ],
    layers,
    false,
  );
}

/** Why "auto" chose what it chose. */
function because(reasons) {
  const lines = Object.entries(reasons || {});
  if (!lines.length) return null;
  const line = ([name, why]) => h("li", {}, h("code", {}, name), ` ${why}`);
  return h("details", {}, h("summary", {}, "Why these values"), h("ul.plain", {}, lines.map(line)));
}
