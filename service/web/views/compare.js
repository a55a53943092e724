// Several training jobs in the same charts, and what they were told differently.

import { get, path } from "../api.js";
import { chart } from "../chart.js";
import { h } from "../dom.js";
import * as format from "../format.js";
import { card, table } from "../parts.js";
import { link } from "../router.js";

export async function view({ query, signal }) {
  const ids = (query.get("jobs") || "").split(",").filter(Boolean).slice(0, 6);
  const jobs = await Promise.all(ids.map((id) => get(path("jobs", id), {}, { signal })));
  const metrics = await Promise.all(ids.map((id) => get(
    path("jobs", id, "metrics"),
    { max_points: 1000 },
    { signal },
  )));
  const names = jobs.map(nameOf);
  return [
    h("h1", {}, "Compare"),
    card(
      "Curves",
      h(
        "div.charts",
        {},
        drawn("Validation accuracy", "val/accuracy", format.percent, names, metrics),
        drawn("Validation loss", "val/loss", (value) => value.toPrecision(3), names, metrics),
      ),
    ),
    card("Differences", differences(jobs, names)),
  ];
}

const nameOf = ({ model, result }, index) => `${model}${result?.version ? `:${result.version}` : ` (${index + 1})`}`;

function drawn(title, name, formatY, names, metrics) {
  const element = chart(title, "epoch", (value) => formatY(value));
  const points = ({ series }) => series.find((one) => one.name === name)?.points || [];
  const curve = (one, index) => ({ name: names[index], points: points(one).map(([, epoch, value]) => [epoch, value]) });
  element.draw(metrics.map(curve));
  return element;
}

function differences(jobs, names) {
  const flat = jobs.map(told);
  const differs = (key) => new Set(flat.map((one) => JSON.stringify(one[key]))).size > 1;
  const keys = [...new Set(flat.flatMap(Object.keys))].filter(differs);
  if (!keys.length) return h("p", {}, "They were told exactly the same.");
  const column = (job, index) => ({
    title: h("a", { href: link("watch", [job.id]) }, names[index]),
    cell: (key) => String(flat[index][key] ?? "–"),
  });
  const first = { title: "Field", value: (key) => key, cell: (key) => h("code", {}, key) };
  return table("Differences", [first, ...jobs.map(column)], keys);
}

/** What a job was told and what came of it, as one flat object. */
function told(job) {
  const took = job.finished_at && Math.round((new Date(job.finished_at) - new Date(job.started_at)) / 1000);
  const accuracy = job.result?.metrics && format.percent(job.result.metrics.accuracy, 2);
  return { dataset: job.dataset, seed: job.seed, accuracy, seconds: took, ...Object.fromEntries(leaves(job.spec)) };
}

function leaves(value, prefix = "") {
  if (value === null || typeof value !== "object") return [[prefix, value]];
  if (Array.isArray(value)) return [[prefix, JSON.stringify(value)]];
  return Object.entries(value).flatMap(([key, inner]) => leaves(inner, prefix ? `${prefix}.${key}` : key));
}
