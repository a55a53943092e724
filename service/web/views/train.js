// A new training job or search: one button, or every knob. What would be trained is shown before it is.

import { get, post, rows } from "../api.js";
import { h, show } from "../dom.js";
import { fault, faults } from "../faults.js";
import { schemaForm } from "../form.js";
import { networkPart } from "../network.js";
import { card, choice, doing, empty, errorBox, field } from "../parts.js";
import { resolvedPlan } from "../plan.js";
import { go } from "../router.js";
import { varied } from "../vary.js";

const SEED_HELP = "The same seed gives the same weights.";
const DRY_RUN_AFTER = 300; // ms after the last key

export async function view({ query, signal }) {
  const [datasets, networks, models, { schema }] = await Promise.all([
    rows("/v1/datasets", {}, { signal }),
    get("/v1/networks", {}, { signal }),
    rows("/v1/models", {}, { signal }),
    get("/v1/networks/layers", {}, { signal }),
  ]);
  const usable = datasets.filter((row) => row.versions);
  const title = h("h1", {}, "Train");
  if (!usable.length) return [
    title,
    empty(
      "Nothing to learn from yet",
      "Upload pictures first; then one button trains a network on them.",
      h("a.button.primary", { href: "#/datasets" }, "To the datasets"),
    ),
  ];
  const known = { datasets: usable, networks: networks.data, models, schema };
  return [title, page({ ...known, wanted: query.get("dataset"), signal })];
}

function page({ datasets, networks, models, schema, wanted, signal }) {
  const known = faults();
  const network = networkPart(networks, schema, known);
  let spec;
  const own = {
    "/spec/network": (...about) => (spec = network(...about)),
    "/spec/initial_weights": (described, pointer) => weightsPart(described, pointer, models, known),
  };
  const form = schemaForm(schema, { pointer: "/spec", own, faults: known });
  const job = knobs(datasets, wanted, known);
  const space = varied(form.leaves, known);
  const request = () => body(job, form, space);
  const plan = h("div", { "aria-live": "polite" });
  const said = h("div");
  const start = doing(said, async () => {
    try {
      go("watch", [(await post("/v1/jobs", request())).id]);
    } catch (error) {
      known.tell(spec.line(error), true);
      throw error;
    }
  });
  const element = h(
    "form.stack",
    { onsubmit: start, novalidate: true },
    card("What and on what", h("div.fields", {}, job.dataset.element, job.model.element, job.type.element)),
    searchCard(job, space),
    h(
      "div.row",
      {},
      job.button,
      h("span.muted", {}, "Everything left at auto is chosen from your data."),
    ),
    said,
    h(
      "details.card",
      {},
      h("summary", {}, "Every knob"),
      [h("h2", {}, "The job"), job.element],
      [h("h2", {}, "The training"), form.element],
    ),
    card("What this will be", plan),
  );
  const refresh = () => space.refresh();
  element.addEventListener("change", refresh);
  refresh();
  preview(element, request, { plan, known, signal, line: spec.line });
  return element;
}

// --- the job around the spec -----------------------------------------------------------------------------------------

function knobs(datasets, wanted, known) {
  const refs = datasets.map((row) => [row.name, `${row.name} (newest)`]);
  if (wanted && !refs.some(([value]) => value === wanted)) refs.unshift([wanted, wanted]);
  const one = (pointer, title, control, help) => ({
    element: known.add(pointer, field(title, control, help), control),
    text: () => control.value.trim(),
    number: () => {
      if (control.validity.badInput) throw fault(pointer, `${title}: this is not a number.`);
      return control.value === "" ? undefined : Number(control.value);
    },
    control,
  });
  const number = (props) => h("input", { type: "number", ...props });
  const kinds = [["train", "train one model"], ["search", "search: train variants, keep the best"]];
  const goals = [["accuracy", "accuracy"], ["mean_average_precision", "mean average precision (several labels)"]];
  const metrics = [
    ["val/accuracy", "validation accuracy"],
    ["val/loss", "validation loss"],
    ["val/mean_average_precision", "mean average precision (several labels)"],
  ];
  const dataset = one("/dataset", "Dataset", choice(refs, wanted || refs[0][0], { id: "dataset" }));
  const nameOf = () => dataset.control.value.split("@")[0];
  const model = one(
    "/model",
    "Name of the model",
    h("input", { id: "model", maxlength: 64, autocomplete: "off", spellcheck: "false", value: nameOf() }),
    "Each finished job becomes its next version.",
  );
  dataset.control.addEventListener("change", () => (model.control.value = nameOf()));
  const found = {
    dataset,
    model,
    type: one("/type", "What to do", choice(kinds, "train", { id: "type" })),
    goal: one(
      "/goal",
      "Goal",
      number({ id: "goal", min: 0.01, max: 1, step: "any", placeholder: "none" }),
      "Stop at this share on the validation pictures, such as 0.95.",
    ),
    metric: one("/goal/metric", "Goal in", choice(goals, "accuracy", { id: "goal-metric" })),
    budget: one(
      "/budget",
      "Time budget",
      number({ id: "budget", min: 5, step: "any", placeholder: "none" }),
      "In seconds. The whole job fits into it; the schedule is made shorter.",
    ),
    seed: one("/seed", "Seed", number({ id: "seed", min: 0, step: 1, value: "0" }), SEED_HELP),
    trials: one(
      "/trials",
      "Trials",
      number({ id: "trials", min: 1, max: 1000, step: 1, value: "20" }),
      "Variants to train, one after the other.",
    ),
    best: one("/metric", "Best at", choice(metrics, "val/accuracy", { id: "best-at" }), "At its best epoch."),
    button: h("button.primary.big", { type: "submit" }, "Train"),
  };
  found.element = h("div.fields", {}, [found.goal, found.metric, found.budget, found.seed].map((part) => part.element));
  return found;
}

function searchCard(job, space) {
  const element = card(
    "What to vary",
    h("p", {}, "Each trial trains with other values of these fields; the best on the validation pictures becomes the model."),
    space.element,
    h("div.fields", {}, job.trials.element, job.best.element),
  );
  const toggle = () => {
    const searching = job.type.control.value === "search";
    element.hidden = !searching;
    job.goal.element.hidden = job.metric.element.hidden = searching;
    job.button.textContent = searching ? "Search" : "Train";
  };
  job.type.control.addEventListener("change", toggle);
  toggle();
  return element;
}

/** What POST /v1/jobs takes. Throws an Error with the `param` of the field that cannot be read. */
function body(job, form, space) {
  const searching = job.type.text() === "search";
  const goal = job.goal.number();
  const seconds = job.budget.number();
  return {
    type: job.type.text(),
    model: job.model.text(),
    dataset: job.dataset.text(),
    seed: job.seed.number() ?? 0,
    spec: form.value(),
    ...(seconds !== undefined && { budget: { seconds } }),
    ...(!searching && goal !== undefined && { goal: { metric: job.metric.text(), at_least: goal } }),
    ...(searching && { space: space.value(), trials: job.trials.number(), metric: job.best.text() }),
  };
}

/** Random, torchvision's, or those of a model there is. */
function weightsPart(described, pointer, models, known) {
  const named = models.map((row) => [row.name, `the model ${row.name}`]);
  const control = choice([["", "random"], ["pretrained", "pretrained"], ...named], "", { id: "initial-weights" });
  const help = "Pretrained needs fewer pictures; for networks with a name.";
  return {
    element: known.add(pointer, field("Begin with", control, help), control),
    value: () => control.value || undefined,
    leaves: () => [],
  };
}

/** A dry run after each change, a third of a second after the last key. */
function preview(element, request, { plan, known, signal, line }) {
  let timer;
  let latest = 0;
  const look = async () => {
    const mine = (latest += 1);
    try {
      const wanted = request();
      const resolved = await post("/v1/jobs?dry_run=true", wanted, { signal });
      if (mine !== latest) return;
      known.clear();
      show(plan, resolvedPlan(resolved, wanted));
    } catch (error) {
      if (mine !== latest || error.name === "AbortError") return;
      known.tell(line(error));
      show(plan, errorBox(error));
    }
  };
  const soon = () => {
    clearTimeout(timer);
    timer = setTimeout(look, DRY_RUN_AFTER);
  };
  element.addEventListener("input", soon);
  element.addEventListener("change", soon);
  look();
}
