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
  const metrics = await Promise.all(ids.map((id) => get(path("jobs", id, "metrics"), { max_points: 1000 }, { signal })));
  const names = jobs.map((job, index) => (job.result?.version ? `${job.model}:${job.result.version}` : `${job.model} (${index + 1})`));
  return [
    h("h1", {}, "Compare"),
    card("Curves", h("div.charts", {}, drawn("Validation accuracy", "val/accuracy", format.percent, names, metrics), drawn("Validation loss", "val/loss", (value) => value.toPrecision(3), names, metrics))),
    card("Differences", differences(jobs, names)),
  ];
}

function drawn(title, name, formatY, names, metrics) {
  const element = chart(title, "epoch", (value) => formatY(value));
  element.draw(metrics.map(({ series }, index) => ({ name: names[index], points: (series.find((one) => one.name === name)?.points || []).map(([, epoch, value]) => [epoch, value]) })));
  return element;
}

function differences(jobs, names) {
  const flat = jobs.map((job) => Object.fromEntries([["dataset", job.dataset], ["seed", job.seed], ["accuracy", job.result?.metrics && format.percent(job.result.metrics.accuracy, 2)], ["seconds", seconds(job)], ...leaves(job.spec)]));
  const keys = [...new Set(flat.flatMap(Object.keys))].filter((key) => new Set(flat.map((one) => JSON.stringify(one[key]))).size > 1);
  if (!keys.length) return h("p", {}, "They were told exactly the same.");
  return table("Differences", [
    { title: "Field", value: (key) => key, cell: (key) => h("code", {}, key) },
    ...jobs.map((job, index) => ({ title: h("a", { href: link("watch", [job.id]) }, names[index]), cell: (key) => String(flat[index][key] ?? "–") })),
  ], keys);
}

const seconds = (job) => (job.finished_at ? Math.round((new Date(job.finished_at) - new Date(job.started_at)) / 1000) : undefined);

function leaves(value, prefix = "") {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return [[prefix, typeof value === "object" ? JSON.stringify(value) : value]];
  return Object.entries(value).flatMap(([key, inner]) => leaves(inner, prefix ? `${prefix}.${key}` : key));
}
