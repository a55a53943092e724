// One job, live: its progress asked for every second and a half, curves and events from the event stream.

import { get, path, post, text } from "../api.js";
import { chart } from "../chart.js";
import { h, show } from "../dom.js";
import * as format from "../format.js";
import { badge, card, doing, errorBox, facts, progress } from "../parts.js";
import { go, link } from "../router.js";
import { stream } from "../stream.js";
import { what } from "./watch.js";

const CURVES = [
  ["Loss", ["train/loss", "val/loss"], (value) => Number(value).toPrecision(3)],
  ["Accuracy", ["train/accuracy", "val/accuracy", "val/mean_average_precision"], (value) => format.percent(value)],
  ["Learning rate", ["lr"], (value) => Number(value).toPrecision(2)],
];
const SHOWN_EVENTS = 200;
const POLL_MS = 1500;
const ACTIONS = {
  running: ["pause", "stop", "cancel"],
  queued: ["pause", "cancel"],
  interrupted: ["pause", "cancel"],
  pausing: ["cancel"],
  paused: ["resume", "cancel"],
};
const MEANING = { pause: "Pause", resume: "Resume", stop: "Stop and keep the best", cancel: "Cancel and throw away" };

export async function view({ args: [id], signal }) {
  const job = await get(path("jobs", id), {}, { signal });
  const state = h("div.stack");
  const said = h("div");
  const learned = job.type === "train" ? curves(id, signal) : null;
  const search = job.type === "search" ? (await import("./search.js")).trialsCard(job, signal) : null;
  const happened = eventList();
  follow(job, { state, said, search }, signal);
  stream(id, (event) => {
    if (event.type === "metrics") learned?.add(event.data);
    happened.add(event);
  }, signal);
  const events = h("details.card", { open: !job.is_terminal }, h("summary", {}, "Events"), happened.element);
  const rest = [learned?.element, search?.element, events, logCard(id), specCard(job)];
  return [h("h1", {}, what(job)), job.parent && parentLine(job), state, said, rest];
}

const parentLine = ({ parent }) =>
  h("p", {}, "One trial of ", h("a", { href: link("watch", [parent]) }, "a search"), ", which steers it.");

async function follow(job, { state, said, search }, signal) {
  let failures = 0;
  const trials = () => search?.refresh(job).catch((error) => !signal.aborted && show(said, errorBox(error)));
  draw(job, state, said);
  trials();
  while (!job.is_terminal) {
    await new Promise((resolve) => setTimeout(resolve, Math.min(POLL_MS * 2 ** failures, 15000)));
    if (signal.aborted) return;
    try {
      job = await get(path("jobs", job.id), {}, { signal });
      if (failures) show(said);
      failures = 0;
      draw(job, state, said);
      trials();
    } catch (error) {
      if (signal.aborted) return;
      failures += 1;
      show(said, errorBox(error));
    }
  }
}

/** What changes often is drawn often; buttons only when the status changes, so that they keep the focus. */
function draw(job, state, said) {
  const now = job.progress || {};
  if (state.dataset.status !== job.status) {
    state.dataset.status = job.status;
    show(
      state,
      buttons(job, said),
      h("div.stack"),
      job.error && errorBox(job.error),
      job.status === "queued" && h("p.muted", {}, "Waiting for a worker. Does `fovea up` or `fovea work` run?"),
      job.result?.model && (job.type === "evaluate" ? evaluated : outcome)(job, said),
    );
  }
  show(
    state.children[1],
    !job.is_terminal && progress("Job", now.fraction ?? (now.steps ? now.step / now.steps : null)),
    facts([
      now.trials && ["Trial", `${format.count(now.trial)} of ${format.count(now.trials)}`],
      now.best_value !== undefined && now.best_value !== null && ["Best so far", valueOf(job, now.best_value)],
      now.epochs && ["Epoch", `${format.count(now.epoch)} of ${format.count(now.epochs)}`],
      now.steps && ["Step", `${format.count(now.step)} of ${format.count(now.steps)}`],
      now.images_per_second && ["Speed", `${format.count(Math.round(now.images_per_second))} pictures/s`],
      job.eta_seconds && !job.is_terminal && ["Left", `about ${format.seconds(job.eta_seconds.p50)}`],
      ["Took", format.since(job.started_at, job.finished_at)],
      job.device && ["Device", job.device],
      job.attempt > 1 && ["Attempt", format.count(job.attempt)],
      job.dataset && ["Dataset", h("a", { href: link("dataset", job.dataset.split("@")) }, job.dataset)],
    ]),
  );
}

const valueOf = ({ search }, value) =>
  search?.metric === "val/loss" ? format.decimals(value) : format.percent(value, 2);

function buttons(job, said) {
  const act = (action) => doing(said, () => post(`${path("jobs", job.id)}:${action}`));
  const steered = ["train", "search"].includes(job.type);
  const possible = job.parent ? [] : (ACTIONS[job.status] || []).filter((action) => steered || action === "cancel");
  return h(
    "div.row",
    {},
    badge(job.status),
    job.stop_reason && h("span.muted", {}, job.stop_reason.replaceAll("_", " ")),
    h("span.grow"),
    possible.map((action) => h(
      action === "cancel" ? "button.danger" : "button",
      { type: "button", onclick: act(action) },
      MEANING[action],
    )),
  );
}

function outcome(job, said) {
  const { model, version, metrics } = job.result;
  const right = metrics ? format.percent(metrics.accuracy) : "it is";
  const several = metrics?.mean_average_precision;
  const again = doing(said, async () => go("watch", [(await post(`${path("jobs", job.id)}:reproduce`)).id]));
  return h(
    "div.notice.good",
    {},
    h(
      "strong",
      {},
      `${model}, version ${version}: ${right} right on pictures it never saw.`,
      several && ` Mean average precision: ${format.percent(several)}.`,
    ),
    h(
      "div.row",
      {},
      h("a.button.primary", { href: link("judge", [`${model}:${version}`]) }, "Judge it"),
      h("a.button", { href: link("ask", [`${model}:${version}`]) }, "Ask it"),
      job.type === "train" && h("button.quiet", { type: "button", onclick: again }, "Train it again, to the bit"),
      job.result.trial && h("a.button", { href: link("watch", [job.result.trial]) }, "The best trial"),
    ),
  );
}

function evaluated({ result }) {
  const { model, version, dataset, n, evaluation, why, ood, warnings } = result;
  const within = ({ value, low, high }) =>
    `${format.percent(value, 2)} (95 %: ${format.percent(low, 2)} to ${format.percent(high, 2)})`;
  return h(
    `div.notice.${warnings.length ? "warn" : "good"}`,
    {},
    h("strong", {}, `${model}, version ${version}, on ${format.count(n)} pictures of ${dataset}`),
    h("p", {}, evaluation ? `${within(evaluation.accuracy)} right.` : `Not judged: ${why}.`),
    ood && h("p", {}, `Too strange for an answer: ${within(ood.abstained)}.`),
    ood?.auroc && h("p", {}, `Told from its own test pictures with an AUROC of ${format.decimals(ood.auroc.value)}.`),
    warnings.map((one) => h("p", {}, `${one.message}; ${one.hint}`)),
  );
}

/** The history thinned by the service, then what the stream adds. */
function curves(id, signal) {
  const charts = CURVES.map(([title, , formatY]) => chart(title, "epoch", formatY));
  const series = new Map();
  const curve = (name) => ({ name: name.replace(/[/_]/g, " "), points: series.get(name) });
  const known = (some) => some.filter((name) => series.has(name)).map(curve);
  const draw = () => CURVES.forEach(([, some], k) => charts[k].draw(known(some)));
  const add = (name, epoch, value) => {
    if (!series.has(name)) series.set(name, []);
    const points = series.get(name);
    if (!points.length || points.at(-1)[0] < epoch) points.push([epoch, value]);
  };
  const names = CURVES.flatMap(([, some]) => some);
  get(path("jobs", id, "metrics"), { names: names.join(","), max_points: 2000 }, { signal })
    .then((found) => {
      for (const one of found.series) {
        const streamed = series.get(one.name) || [];
        series.set(one.name, one.points.map(([, epoch, value]) => [epoch, value]));
        for (const [epoch, value] of streamed) add(one.name, epoch, value);
      }
      draw();
    })
    .catch((error) => !signal.aborted && show(place, errorBox(error)));
  const place = h("div.charts", {}, charts);
  const addAll = (data) => {
    for (const name of names) if (name in data) add(name, data.epoch, data[name]);
    draw();
  };
  return { element: card("Curves", place), add: addAll };
}

function eventList() {
  const list = h("ol.events", { tabindex: 0, "aria-label": "Events" });
  const add = (event) => {
    list.prepend(line(event));
    if (list.childElementCount > SHOWN_EVENTS) list.lastElementChild.remove();
  };
  return { element: list, add };
}

function line({ type, time, data }) {
  const words = {
    status: () => data.status + (data.stop_reason ? `, ${data.stop_reason}` : ""),
    metrics: () => (data.job ? tried(data) : `epoch ${data.epoch}: ${measured(data)}`),
    checkpoint: () => `epoch ${data.epoch}, ${format.bytes(data.bytes)}${data.best ? ", the best so far" : ""}`,
  };
  return h(
    `li.${type}`,
    {},
    h("time", { datetime: time }, new Date(time).toLocaleTimeString()),
    h("b", {}, type),
    h("span", {}, (words[type] || (() => data.message || JSON.stringify(data)))()),
  );
}

/** What a search tells of a trial. */
function tried({ trial, trials, status, stop_reason: reason, value, best_value: best, error }) {
  const ended = reason === "pruned" ? "pruned" : status;
  const figures = () => `${format.decimals(value)}, the best so far ${best === null ? "–" : format.decimals(best)}`;
  return `trial ${trial} of ${trials} ${ended}: ${value === null ? error?.message : figures()}`;
}

function measured(data) {
  const names = ["train/loss", "val/loss", "val/accuracy", "val/mean_average_precision"].filter((name) => name in data);
  return names.map((name) => `${name} ${format.decimals(data[name])}`).join(", ");
}

function logCard(id) {
  const pre = h("pre.log", { tabindex: 0, "aria-label": "Log" });
  const load = async (event) => {
    if (!event.target.open) return;
    pre.textContent = await text(`${path("jobs", id)}/log`).catch((error) => error.message);
    pre.scrollTop = pre.scrollHeight;
  };
  return h("details.card", { ontoggle: load }, h("summary", {}, "Log"), pre);
}

function specCard(job) {
  return h(
    "details.card",
    {},
    h("summary", {}, "What exactly was asked"),
    h("pre", { tabindex: 0 }, JSON.stringify({ id: job.id, seed: job.seed, plan: job.plan, spec: job.spec }, null, 2)),
  );
}
