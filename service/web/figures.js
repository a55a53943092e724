// What the judged probabilities are worth: how often they come true, and what asking for more certainty costs.

import { chart } from "./chart.js";
import { h, show, svg } from "./dom.js";
import * as format from "./format.js";
import { card, facts, field } from "./parts.js";

const SIDE = 240;
const LEFT = 44;
const BOTTOM = 36;

/** A bar for each bin of probabilities, as high as its answers were right; on the diagonal they come true. */
export function reliability(bins) {
  const x = (share) => LEFT + share * SIDE;
  const y = (share) => 8 + (1 - share) * SIDE;
  const words = (row) =>
    `${format.percent(row.from, 0)} to ${format.percent(row.to, 0)}: said ${format.percent(row.confidence)}, ` +
    `right ${format.percent(row.accuracy)}, ${format.several(row.n, "answer")}`;
  const column = (row) => svg(
    "rect.said",
    { x: x(row.from), y: y(row.accuracy), width: x(row.to) - x(row.from), height: y(0) - y(row.accuracy) },
    svg("title", {}, words(row)),
  );
  const tick = (share) => [
    svg("line.grid", { x1: x(0), x2: x(1), y1: y(share), y2: y(share) }),
    svg("text.tick", { x: LEFT - 6, y: y(share) + 4, "text-anchor": "end" }, format.percent(share, 0)),
    svg("text.tick", { x: x(share), y: y(0) + 16, "text-anchor": "middle" }, format.percent(share, 0)),
  ];
  const label = `Reliability diagram. ${bins.map(words).join("; ")}`;
  return h(
    "figure.chart",
    {},
    h("figcaption", {}, "Said, and right"),
    svg(
      "svg.reliability",
      { viewBox: `0 0 ${LEFT + SIDE + 24} ${SIDE + 8 + BOTTOM}`, role: "img", "aria-label": label },
      [0, 0.25, 0.5, 0.75, 1].map(tick),
      bins.map(column),
      svg("line.ideal", { x1: x(0), y1: y(0), x2: x(1), y2: y(1) }),
      svg("text.tick", { x: x(0.5), y: y(0) + 32, "text-anchor": "middle" }, "probability it said"),
    ),
    h("p.muted", {}, "Bars below the dashed line: it is less often right than it says; above: more often."),
  );
}

/** rows: [{threshold, precision, recall, answered}], the threshold rising. */
export function thresholds(rows, several) {
  const said = h("div", { "aria-live": "polite" });
  const start = rows.findIndex((row) => row.threshold >= 0.5);
  const slider = h(
    "input.slider",
    { id: "threshold", type: "range", min: 0, max: rows.length - 1, step: 1, value: String(start) },
  );
  const tell = () => {
    const row = rows[Number(slider.value)];
    slider.setAttribute("aria-valuetext", format.percent(row.threshold, 0));
    show(said, facts([
      ["From", format.percent(row.threshold, 0)],
      ["Precision", row.precision === null ? "–" : format.percent(row.precision)],
      ["Recall", format.percent(row.recall)],
      ["Pictures answered", format.percent(row.answered)],
    ]));
  };
  slider.addEventListener("input", tell);
  tell();
  const curves = chart("Precision and recall", "%", (value) => format.percent(value));
  const points = (key) => rows.filter((row) => row[key] !== null).map((row) => [100 * row.threshold, row[key]]);
  curves.draw(["precision", "recall"].map((name) => ({ name, points: points(name) })));
  return card(
    "How sure should it be?",
    h("p", {}, several ? SEVERAL : SINGLE),
    field("Least probability", slider),
    said,
    curves,
  );
}

const SINGLE =
  "Believe only answers of at least this probability, and look at the other pictures yourself. Precision: of the answers " +
  "it then gives, how many are right. Recall: of all pictures, how many it answers rightly.";
const SEVERAL =
  "Give every label of at least this probability, instead of its own thresholds. Precision: of the labels it then gives, " +
  "how many are right. Recall: of the labels there are, how many it gives.";
