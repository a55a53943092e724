// How good a model is, on pictures that no decision of its training has seen.

import { get, path } from "../api.js";
import { h, show } from "../dom.js";
import * as format from "../format.js";
import { thumbnail } from "../gallery.js";
import { card, choice, errorBox, facts, field, table } from "../parts.js";
import { reliability, thresholds } from "../figures.js";
import { chosen, itemsOf } from "../models.js";
import { picture } from "../picture.js";
import { promises } from "../promises.js";
import { link } from "../router.js";

const MOST_CLASSES = 40; // beyond it a matrix is no longer read; the list of confusions is
const SHOWN = 60;

export async function view({ args: [ref], signal }) {
  const { head, version, versions, ref: exact } = await chosen("judge", "Judge", ref, signal);
  if (!version) return head;
  const found = await get(path("models", exact, "evaluation"), {}, { signal });
  const where = itemsOf(version);
  return [
    head,
    verdict(found, version, exact),
    matrixCard(found, where),
    comparison(exact, versions, where, several(found)),
    classes(found),
    found.thresholds && thresholds(found.thresholds, several(found)),
    calibration(found),
    promises(found),
    worst(found, where),
  ];
}

function verdict(found, version, ref) {
  const { accuracy, n, split, mistakes } = found;
  const what = several(found) ? "right in every label" : "right";
  return card(
    null,
    h(
      "p.figure",
      {},
      format.percent(accuracy.value),
      h("span", {}, ` ${what} on ${format.count(n)} ${split} pictures`),
    ),
    h(
      "div.interval",
      { "aria-hidden": "true", vars: { low: accuracy.low, high: accuracy.high, value: accuracy.value } },
      h("span.range"),
      h("span.at"),
    ),
    h(
      "p",
      {},
      `With 95 % certainty it is right on between ${format.percent(accuracy.low)} and ` +
        `${format.percent(accuracy.high)} of such pictures. ${advice(accuracy, n)}`,
    ),
    facts([
      several(found) && ["Mean average precision", format.percent(found.mean_average_precision)],
      several(found) && ["F1 of all labels together", format.percent(found.micro_f1)],
      ["Mistakes", format.count(mistakes.length)],
      ["Parameters", format.count(version.parameters)],
      ["Picture", `${version.image_size} px`],
      ["Trained on", version.dataset],
      version.lineage.quantised_from && ["In eight bits of", version.lineage.quantised_from.model],
      ["Certificate", version.certificate.passed ? "passed" : "failed"],
      ["Served by", version.certificate.engine],
    ]),
    engines(version.certificate),
    h(
      "div.row",
      {},
      h("a.button.primary", { href: link("ask", [ref]) }, "Ask it about a picture"),
      h("a.button", { href: link("watch", [version.lineage.job ?? version.job]) }, "How it was trained"),
    ),
  );
}

/** The engines that were tried when the version was certified; older versions tell of none. */
function engines({ candidates = [], reason, engine }) {
  if (candidates.length < 2) return null;
  const ms = (row, size) => row.ms[size]?.toPrecision(3);
  const columns = [
    { title: "Engine", value: (row) => row.engine },
    { title: "1 picture, ms", value: (row) => ms(row, "1"), numeric: true },
    { title: "8 pictures, ms", value: (row) => ms(row, "8"), numeric: true },
    { title: "64 pictures, ms", value: (row) => ms(row, "64"), numeric: true },
    { title: "Answers equal", value: (row) => row.top1_equal, numeric: true },
    { title: "Verdict", value: (row) => (row.engine === engine ? "serves" : (row.why ?? "certified")) },
  ];
  return h(
    "details",
    {},
    h("summary", {}, "Engines that were tried"),
    h("p.muted", {}, `${engine}: ${reason}.`),
    table("Engines", columns, candidates, false),
  );
}

function advice({ low, high }, n) {
  const few = `The range is wide because only ${format.count(n)} pictures were left to judge it; more narrow it.`;
  if (high - low > 0.1) return few;
  if (low < 0.9) return "The mistakes below show what confuses it: wrong labels, or classes that need more pictures.";
  return "Look at the mistakes below: often it is the label that is wrong.";
}

/** May a picture have several labels, or none? Then no matrix tells what was taken for what. */
const several = (found) => found.confusion_matrix === null;

function matrixCard(found, where) {
  if (several(found)) return null;
  const cellCard = h("div", { "aria-live": "polite" });
  const open = (label, predicted) => show(
    cellCard,
    h("h3", {}, `${label}, taken for ${predicted}`),
    pictures(found.mistakes.filter((one) => one.label === label && one.predicted === predicted), where),
  );
  const { labels } = found.confusion_matrix;
  const body = labels.length <= MOST_CLASSES ? matrix(found.confusion_matrix, open) : null;
  return card("What it takes for what", body, confusions(found.confusion_matrix, open), cellCard);
}

function matrix({ labels, counts }, open) {
  const cell = (row, column) => {
    const value = counts[row][column];
    const share = value / Math.max(1, counts[row].reduce((sum, one) => sum + one, 0));
    const words = `${labels[row]} taken for ${labels[column]}: ${value}`;
    const kind = row === column ? "td.right" : "td.wrong";
    if (row === column || !value) return h(
      kind,
      { vars: { share }, title: words },
      value ? format.count(value) : h("span.muted", {}, "·"),
    );
    return h(
      kind,
      { vars: { share } },
      h(
        "button.cell",
        { type: "button", "aria-label": words, title: words, onclick: () => open(labels[row], labels[column]) },
        format.count(value),
      ),
    );
  };
  const words = "Rows are the labels, columns the answers. Choose a framed cell to see its pictures.";
  return [
    h("p.muted", {}, words),
    h(
      "div.scroll",
      { tabindex: 0, role: "region", "aria-label": "Confusion matrix" },
      h(
        "table.matrix",
        {},
        h("caption.hidden", {}, "Confusion matrix"),
        h("thead", {}, h("tr", {}, h("td"), labels.map((name) => h("th", { scope: "col", title: name }, name)))),
        h(
          "tbody",
          {},
          labels.map((name, row) => h(
            "tr",
            {},
            h("th", { scope: "row", title: name }, name),
            labels.map((_, column) => cell(row, column)),
          )),
        ),
      ),
    ),
  ];
}

function confusions({ labels, counts }, open) {
  const pair = (label) => (value, predicted) => ({ value, label: labels[label], predicted: labels[predicted] });
  const all = counts.flatMap((row, label) => row.map(pair(label)));
  const wrong = all.filter((one) => one.value && one.label !== one.predicted);
  const worstFirst = wrong.sort((a, b) => b.value - a.value).slice(0, 12);
  if (!worstFirst.length) return h("p", {}, "No mistakes at all on these pictures.");
  return h(
    "div.row",
    {},
    worstFirst.map((one) => h(
      "button.chip",
      { type: "button", onclick: () => open(one.label, one.predicted) },
      `${one.label} → ${one.predicted}: ${format.count(one.value)}`,
    )),
  );
}

function pictures(mistakes, where) {
  const more = (one) => [
    ["It said", named(one.predicted, one.predicted_labels)],
    ["With probability", format.percent(one.probability)],
  ];
  return [
    h(
      "div.thumbs",
      {},
      mistakes.slice(0, SHOWN).map((one) => thumbnail(
        where,
        one,
        () => picture(where, one, more(one)),
        `${named(one.label, one.labels)} → ${named(one.predicted, one.predicted_labels)} ${format.percent(one.probability, 0)}`,
      )),
    ),
    mistakes.length > SHOWN && h("p.muted", {}, `${format.count(mistakes.length - SHOWN)} more.`),
  ];
}

/** A label as it is, or, where a picture may have several, their names. */
const named = (label, labels) => (labels ? labels.join(", ") || "no label" : label);

/** Against another version of the model, on the same pictures: is the difference more than chance? */
function comparison(ref, versions, where, many) {
  const others = versions.map((row) => `${row.model}:${row.version}`).filter((name) => name !== ref);
  if (!others.length) return null;
  const place = h("div", { "aria-live": "polite" });
  const pick = choice([["", "Choose one"], ...others.map((name) => [name, name])], "", { id: "other-version" });
  const look = async () => {
    const found = await get("/v1/models/compare", { a: pick.value, b: ref });
    return compared(found, pick.value, ref, where, many);
  };
  pick.addEventListener("change", async () => {
    try {
      show(place, pick.value && (await look()));
    } catch (error) {
      show(place, errorBox(error));
    }
  });
  return card("Better than another version?", field("Other version", pick), place);
}

function compared(found, before, now, where, many) {
  const { value, low, high } = found.accuracy_difference;
  const sure = found.p_value < 0.05 ? "more than chance explains" : "no more than chance may explain";
  const points = (share) => `${share > 0 ? "+" : ""}${(100 * share).toFixed(1)}`;
  const changed = found.changed.slice(0, SHOWN).map((one) => {
    const [label, a, b] = [one.label, one.a, one.b].map((name) => named(name, many && name.split(";").filter(Boolean)));
    return thumbnail(where, one, () => picture(where, one, [[before, a], [now, b]]), `${label}: ${a} → ${b}`);
  });
  return [
    h("p", {}, `${points(value)} points against ${before} (between ${points(low)} and ${points(high)}): ${sure}.`),
    facts([
      ["Better now", format.count(found.wrong_to_right)],
      ["Worse now", format.count(found.right_to_wrong)],
      ["p-value", format.decimals(found.p_value)],
    ]),
    changed.length ? h("div.thumbs", {}, changed) : h("p.muted", {}, "No picture changed its answer."),
  ];
}

function classes(found) {
  const shown = (value) => (value === null ? "–" : format.percent(value));
  const share = (key) => ({ value: (row) => row[key], cell: (row) => shown(row[key]), numeric: true });
  const own = [
    { title: "Average precision", ...share("average_precision") },
    { title: "Given from", ...share("threshold") },
  ];
  return card(
    "Class by class",
    table(
      "Per class",
      [
        { title: "Class", value: (row) => row.label },
        { title: "Precision", ...share("precision") },
        { title: "Recall", ...share("recall") },
        { title: "F1", ...share("f1") },
        ...(several(found) ? own : []),
        { title: "Pictures", value: (row) => row.support, cell: (row) => format.count(row.support), numeric: true },
      ],
      found.per_class,
    ),
    h("p.muted", {}, "Precision: of what it called so, how much was. Recall: of what was so, how much it found."),
  );
}

function calibration({ calibration: { ece_before: before, ece_after: after, temperature, bins, ...intervals } }) {
  const gap = (value, between) =>
    between ? `${format.percent(value)} (${format.percent(between.low)} to ${format.percent(between.high)})` : format.percent(value);
  return card(
    "Can its probabilities be believed?",
    facts([
      ["Mean gap", gap(after, intervals.ece_after_interval)],
      ["Before calibration", gap(before, intervals.ece_before_interval)],
      ["Temperature", format.decimals(temperature, 2)],
    ]),
    h(
      "p.muted",
      {},
      `When it says 90 %, it is right in about 90 % of cases, give or take ${format.percent(after)} on average.`,
    ),
    bins && reliability(bins),
  );
}

function worst({ mistakes }, where) {
  if (!mistakes.length) return null;
  return card("Worst mistakes", h("p.muted", {}, "Those it was surest of come first."), pictures(mistakes, where));
}
