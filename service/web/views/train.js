// A new training job: one button, or every knob. What would be trained is shown before it is.

import { get, post, rows } from "../api.js";
import { h, show } from "../dom.js";
import * as format from "../format.js";
import { HELP, TEXTBOOK, parse } from "../layers.js";
import { card, choice, doing, empty, errorBox, facts, field, table } from "../parts.js";
import { go } from "../router.js";

export async function view({ query, signal }) {
  const [datasets, networks, models] = await Promise.all([
    rows("/v1/datasets", {}, { signal }),
    get("/v1/networks", {}, { signal }),
    rows("/v1/models", {}, { signal }),
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
  return [title, form(usable, networks.data, models, query.get("dataset"), signal)];
}

function form(datasets, networks, models, wanted, signal) {
  const controls = knobs(datasets, networks, models, wanted);
  const plan = h("div", { "aria-live": "polite" });
  const said = h("div");
  const start = doing(said, async () => {
    const job = await post("/v1/jobs", request(controls));
    go("watch", [job.id]);
  });
  const element = h(
    "form.stack",
    { onsubmit: start },
    card(
      "What and on what",
      h(
        "div.fields",
        {},
        field("Dataset", controls.dataset),
        field("Name of the model", controls.model, "Each finished job becomes its next version."),
      ),
    ),
    h(
      "div.row",
      {},
      h("button.primary.big", { type: "submit" }, "Train"),
      h("span.muted", {}, "Everything left at auto is chosen from your data."),
    ),
    said,
    details(controls),
    card("What this will be", plan),
  );
  preview(element, controls, plan, signal);
  return element;
}

function knobs(datasets, networks, models, wanted) {
  const refs = datasets.map((row) => [row.name, `${row.name} (newest)`]);
  if (wanted && !refs.some(([value]) => value === wanted)) refs.unshift([wanted, wanted]);
  const named = networks.map((row) => [
    row.name,
    row.parameters ? `${row.name} (${format.short(row.parameters)} parameters)` : row.name,
  ]);
  const dataset = choice(refs, wanted || refs[0][0], { id: "dataset" });
  const model = h(
    "input",
    {
      id: "model",
      required: true,
      maxlength: 64,
      autocomplete: "off",
      spellcheck: "false",
      value: dataset.value.split("@")[0],
    },
  );
  dataset.addEventListener("change", () => (model.value = dataset.value.split("@")[0]));
  const number = (props) => h("input", { type: "number", placeholder: "auto", ...props });
  return {
    dataset,
    model,
    network: choice([["auto", "auto"], ["layers", "my own layers"], ...named], "auto", { id: "network" }),
    layers: h("textarea", { id: "layers", rows: 9, spellcheck: "false", value: TEXTBOOK }),
    initial_weights: choice(
      [["", "random"], ["pretrained", "pretrained"], ...models.map((row) => [row.name, `the model ${row.name}`])],
      "",
      { id: "initial-weights" },
    ),
    image_size: number({ id: "image-size", min: 8, max: 512 }),
    epochs: number({ id: "epochs", min: 1, max: 10000 }),
    batch_size: number({ id: "batch-size", min: 2, max: 8192 }),
    optimizer: choice([["", "auto"], ["adam", "adam"], ["adamw", "adamw"], ["sgd", "sgd"], ["muon", "muon"]], ""),
    lr: number({ id: "rate", min: 0, max: 10, step: "any" }),
    schedule: choice(
      [["", "auto"], ["constant", "constant"], ["cosine", "cosine"], ["one_cycle", "one cycle"], ["linear", "linear"]],
      "",
    ),
    patience: number({ min: 1, max: 1000, placeholder: "no early stop" }),
    seed: h("input", { type: "number", min: 0, value: "0" }),
    goal: number({ min: 0.01, max: 1, step: "any", placeholder: "none" }),
    budget: number({ min: 5, step: "any", placeholder: "none" }),
    json: h("textarea", { rows: 6, spellcheck: "false", placeholder: '{"loss": {"label_smoothing": 0.1}}' }),
  };
}

function details(controls) {
  const own = field("Layers", controls.layers, HELP);
  const toggle = () => (own.hidden = controls.network.value !== "layers");
  controls.network.addEventListener("change", toggle);
  toggle();
  return h(
    "details.card",
    {},
    h("summary", {}, "Every knob"),
    h(
      "div.fields",
      {},
      field("Network", controls.network),
      field("Begin with", controls.initial_weights, "Pretrained needs fewer pictures; for networks with a name."),
      field("Image size", controls.image_size, "Side of the square, in pixels."),
      field("Epochs", controls.epochs),
      field("Batch size", controls.batch_size),
      field("Optimiser", controls.optimizer),
      field("Learning rate", controls.lr),
      field("Schedule", controls.schedule),
      field("Stop early after", controls.patience, "Epochs without a better validation loss."),
      field("Goal", controls.goal, "Stop at this validation accuracy, e.g. 0.95."),
      field("Time budget", controls.budget, "In seconds."),
      field("Seed", controls.seed, "The same seed gives the same weights."),
    ),
    own,
    field("More, as JSON", controls.json, "Fields of the spec; they win over the form. /docs lists them all."),
  );
}

/** The body of POST /v1/jobs. Throws an Error about a line of the layers or the JSON. */
function request(controls) {
  const number = (control) => (control.value === "" ? undefined : Number(control.value));
  const named = Object.fromEntries(["image_size", "epochs", "batch_size"].map((name) => [
    name,
    number(controls[name]),
  ]));
  const spec = {
    network: controls.network.value === "layers" ? { layers: parse(controls.layers.value) } : controls.network.value,
    ...named,
  };
  const optimizer = { name: controls.optimizer.value || undefined, lr: number(controls.lr) };
  if (controls.initial_weights.value) spec.initial_weights = controls.initial_weights.value;
  if (optimizer.name || optimizer.lr) spec.optimizer = optimizer;
  if (controls.schedule.value) spec.schedule = { name: controls.schedule.value };
  if (controls.patience.value) spec.early_stopping = { patience: number(controls.patience) };
  return {
    type: "train",
    model: controls.model.value.trim(),
    dataset: controls.dataset.value,
    seed: number(controls.seed) ?? 0,
    spec: { ...spec, ...extra(controls.json.value) },
    ...(controls.goal.value && { goal: { at_least: number(controls.goal) } }),
    ...(controls.budget.value && { budget: { seconds: number(controls.budget) } }),
  };
}

function extra(text) {
  try {
    return text.trim() ? JSON.parse(text) : {};
  } catch (error) {
    throw Object.assign(
      new Error(`The JSON cannot be read: ${error.message}.`),
      { hint: 'Write an object, for example {"epochs": 5}.' },
    );
  }
}

/** A dry run after each change, a third of a second after the last key. */
function preview(element, controls, plan, signal) {
  let timer;
  let latest = 0;
  const look = async () => {
    const mine = (latest += 1);
    try {
      const resolved = await post("/v1/jobs?dry_run=true", request(controls), { signal });
      if (mine === latest) show(plan, resolvedPlan(resolved));
    } catch (error) {
      if (mine === latest && error.name !== "AbortError") show(plan, errorBox(error));
    }
  };
  const soon = () => {
    clearTimeout(timer);
    timer = setTimeout(look, 300);
  };
  element.addEventListener("input", soon);
  element.addEventListener("change", soon);
  look();
}

function resolvedPlan({ spec, reasons, parameters, multiply_adds, estimate, layers }) {
  const { p10, p50, p90 } = estimate.seconds;
  const network = typeof spec.network === "string" ? spec.network : `${spec.network.layers.length} layers of your own`;
  return [
    facts([
      ["Network", network],
      ["Parameters", format.count(parameters)],
      ["Time", `about ${format.seconds(p50)}`],
      ["Memory", format.bytes(estimate.memory_bytes)],
      ["Multiply-adds", format.short(multiply_adds)],
      ["Picture", `${spec.image_size} x ${spec.image_size} px`],
      ["Epochs", format.count(spec.epochs)],
      ["Batch", format.count(spec.batch_size)],
      ["Rate", `${spec.optimizer.name}, ${spec.optimizer.lr}`],
    ]),
    h("p.muted", {}, `Between ${format.seconds(p10)} and ${format.seconds(p90)}: ${estimate.based_on}.`),
    because(reasons),
    layers && table(
      "Layers",
      [
        { title: "Layer", value: (row) => row.kind },
        { title: "Gives", value: (row) => row.out.join(" x ") },
        {
          title: "Parameters",
          value: (row) => row.parameters,
          cell: (row) => format.count(row.parameters),
          numeric: true,
        },
        {
          title: "Multiply-adds",
          value: (row) => row.multiply_adds,
          cell: (row) => format.short(row.multiply_adds),
          numeric: true,
        },
      ],
      layers,
      false,
    ),
    h(
      "details",
      {},
      h("summary", {}, "The whole resolved spec"),
      h("pre", { tabindex: 0 }, JSON.stringify(spec, null, 2)),
    ),
  ];
}

/** Why "auto" chose what it chose. */
function because(reasons) {
  const lines = Object.entries(reasons || {});
  if (!lines.length) return null;
  const line = ([name, why]) => h("li", {}, h("code", {}, name), ` ${why}`);
  return h("details", {}, h("summary", {}, "Why these values"), h("ul.plain", {}, lines.map(line)));
}
