// All jobs, or one of them as it goes on.

import { rows } from "../api.js";
import { h } from "../dom.js";
import * as format from "../format.js";
import { badge, card, empty, table } from "../parts.js";
import { go, link } from "../router.js";

export async function view(context) {
  if (context.args[0] === "compare") return (await import("./compare.js")).view(context);
  if (context.args[0]) return (await import("./job.js")).view(context);
  const jobs = await rows("/v1/jobs", {}, { signal: context.signal, most: 400 });
  const title = h("h1", {}, "Watch");
  if (!jobs.length) return [
    title,
    empty(
      "No jobs yet",
      "Upload pictures and press Train; what runs appears here, with its curves.",
      h("a.button.primary", { href: "#/train" }, "Train a model"),
    ),
  ];
  return [title, card("Jobs", list(jobs))];
}

function list(jobs) {
  const chosen = new Set();
  const compare = h(
    "button",
    { type: "button", disabled: true, onclick: () => go("watch", ["compare"], { jobs: [...chosen].join(",") }) },
    "Compare the curves of those marked",
  );
  const mark = (job) => (event) => {
    if (event.target.checked) chosen.add(job.id);
    else chosen.delete(job.id);
    compare.disabled = chosen.size < 2;
  };
  const box = (job) => {
    const label = `Compare ${what(job)} of ${format.when(job.created_at)}`;
    return job.type === "train" ? h("input", { type: "checkbox", "aria-label": label, onchange: mark(job) }) : "";
  };
  return [
    table(
      "Jobs",
      [
        { title: "Compare", cell: box },
        { title: "Job", value: what, cell: (job) => h("a", { href: link("watch", [job.id]) }, what(job)) },
        { title: "Status", value: (job) => job.status, cell: (job) => badge(job.status) },
        { title: "Done", value: (job) => fraction(job) ?? 0, cell: done, numeric: true },
        {
          title: "Took",
          value: (job) => (job.started_at ? new Date(job.finished_at || Date.now()) - new Date(job.started_at) : 0),
          cell: (job) => format.since(job.started_at, job.finished_at),
          numeric: true,
        },
        {
          title: "Result",
          value: (job) => job.result?.metrics?.accuracy ?? -1,
          cell: (job) => (job.result?.metrics ? format.percent(job.result.metrics.accuracy) : job.error?.code || "–"),
          numeric: true,
        },
        { title: "Began", value: (job) => job.created_at, cell: (job) => format.when(job.created_at) },
      ],
      jobs,
    ),
    compare,
  ];
}

const fraction = (job) => (job.status === "succeeded" ? 1 : job.progress?.fraction);
const done = (job) => (fraction(job) === undefined ? "–" : format.percent(fraction(job), 0));

const VERBS = {
  train: "Train",
  import: "Import",
  import_model: "Import",
  search: "Search for",
  export: "Bundle of",
  analyse: "Look for wrong labels in",
  evaluate: "Evaluate",
};

export function what(job) {
  const name = (["import", "analyse"].includes(job.type) ? job.dataset : job.model) || job.dataset || "";
  const verb = job.spec?.int8 ? "Quantise" : VERBS[job.type] || job.type;
  return job.parent ? `Trial ${job.trial} of ${name}` : `${verb} ${name}`;
}
