// The trials of a search, as they come: what each tried, what came of it, which is the best.

import { path, rows } from "../api.js";
import { chart } from "../chart.js";
import { h } from "../dom.js";
import * as format from "../format.js";
import { badge, card, table } from "../parts.js";
import { link } from "../router.js";

const AT_ONCE = 1000; // trials a search may have

/** {element, refresh(job)}; asks for the trials anew when the search has moved on. */
export function trialsCard(search, signal) {
  const { metric, space } = search.search;
  const loss = metric === "val/loss";
  const figure = (value) => (value === undefined ? "–" : loss ? format.decimals(value) : format.percent(value, 2));
  const curve = chart(`${words(metric)} by trial`, "trial", figure);
  let trials = [];
  let best = null;
  let seen = null;
  const list = table("Trials", columns(Object.keys(space), () => best, figure, metric), trials);

  async function refresh(job) {
    const now = JSON.stringify([job.progress, job.status]);
    if (now === seen) return;
    seen = now;
    const found = (await rows("/v1/jobs", { parent: job.id, limit: AT_ONCE }, { signal })).reverse();
    if (JSON.stringify(found) === JSON.stringify(trials)) return;
    trials = found;
    best = job.result?.trial ?? bestOf(trials, loss)?.id;
    list.fill(trials);
    curve.draw(curves(trials.filter(valued), loss));
  }

  return { element: card("Trials", curve, list), refresh };
}

/** Each trial's value, and the best up to it; a pruned one cannot be the best. */
function curves(rows, loss) {
  let top = null;
  const sofar = [];
  for (const { trial, result, stop_reason: reason } of rows) {
    if (reason !== "pruned" && (top === null || (loss ? result.value < top : result.value > top))) top = result.value;
    if (top !== null) sofar.push([trial, top]);
  }
  return [
    { name: "of the trial", points: rows.map((row) => [row.trial, row.result.value]) },
    { name: "best so far", points: sofar },
  ];
}

const words = (metric) => metric.replace("val/", "validation ").replaceAll("_", " ");
const valued = (row) => row.result?.value !== undefined;

/** As the service picks it: of equals the one with the lower validation loss, then the earlier one. */
function bestOf(trials, loss) {
  const whole = trials.filter((row) => valued(row) && row.stop_reason !== "pruned");
  const merit = ({ result }) => [loss ? -result.value : result.value, -result.metrics["val/loss"]];
  const better = (a, b) => merit(a)[0] - merit(b)[0] || merit(a)[1] - merit(b)[1];
  return whole.reduce((found, row) => (found === null || better(row, found) > 0 ? row : found), null);
}

function columns(pointers, best, figure, metric) {
  const loss = metric === "val/loss";
  const worst = loss ? Infinity : -Infinity;
  const numeric = (pointer) => (row) => row.parameters?.[pointer] ?? null;
  return [
    {
      title: "Trial",
      value: (row) => row.trial,
      cell: (row) => h("a", { href: link("watch", [row.id]) }, `Trial ${row.trial}`),
    },
    { title: "Status", value: ended, cell: (row) => [badge(ended(row)), row.id === best() && badge("best")] },
    {
      title: words(metric),
      value: (row) => row.result?.value ?? worst,
      cell: (row) => figure(row.result?.value),
      numeric: true,
      up: loss,
    },
    ...pointers.map((pointer) => ({
      title: pointer.slice(1).replaceAll("/", " "),
      value: numeric(pointer),
      cell: (row) => shown(row.parameters?.[pointer]),
    })),
    { title: "Epochs", value: (row) => row.progress?.epoch ?? 0, numeric: true },
    {
      title: "Took",
      value: (row) => row.result?.seconds ?? 0,
      cell: (row) => format.since(row.started_at, row.finished_at),
      numeric: true,
    },
  ];
}

/** A pruned trial has succeeded, as far as it was let. */
const ended = (row) => (row.stop_reason === "pruned" ? "pruned" : row.status);

function shown(value) {
  if (typeof value === "number") return String(Number(value.toPrecision(4)));
  return typeof value === "string" ? value : JSON.stringify(value) ?? "–";
}
