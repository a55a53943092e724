// Curves as SVG, drawn anew when the size or the data change. Colours come from the style sheet (.line-0, .line-1, …).

import { h, show, svg } from "./dom.js";

const HEIGHT = 220;
const LEFT = 56;
const BOTTOM = 24;
const TOP = 8;

/** series: [{name, points: [[x, y], …]}], x rising. The element has `draw(series)`. */
export function chart(title, xName, formatY) {
  let series = [];
  let waiting = false;
  const legend = h("div.legend", { "aria-hidden": "true" });
  const place = h("div.plot");
  const element = h("figure.chart", {}, h("figcaption", {}, title), legend, place);
  new ResizeObserver(() => later()).observe(place);
  element.draw = (given) => {
    series = given.filter((one) => one.points.length);
    later();
  };
  return element;

  function later() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (place.clientWidth) paint();
    });
  }

  function paint() {
    if (!series.length) {
      show(legend);
      show(place, h("p.muted", {}, "Nothing measured yet."));
      return;
    }
    const scale = scales(series, place.clientWidth);
    const marker = svg("g.marker");
    const picture = svg(
      "svg",
      {
        viewBox: `0 0 ${place.clientWidth} ${HEIGHT}`,
        width: place.clientWidth,
        height: HEIGHT,
        role: "img",
        "aria-label": `${title}. ${spoken(series, formatY)}`,
      },
      grid(scale, formatY),
      axis(scale, xName),
      series.map((one, index) => curve(one, index, scale)),
      marker,
    );
    picture.addEventListener(
      "pointermove",
      (event) => point(marker, scale, scale.x0 + ((event.offsetX - LEFT) / scale.width) * (scale.x1 - scale.x0)),
    );
    picture.addEventListener("pointerleave", () => (show(marker), name(null)));
    show(place, picture);
    name(null);
  }

  function name(at) {
    show(legend, series.map((one, index) => {
      const [x, y] = at === null ? one.points.at(-1) : nearest(one.points, at);
      return h(
        "span",
        {},
        h(`span.key.line-${index % 6}`),
        `${one.name} `,
        h("b", {}, formatY(y)),
        at === null ? "" : ` at ${xName} ${x}`,
      );
    }));
  }

  function point(marker, scale, x) {
    const dots = series.map((one, index) => {
      const [px, py] = nearest(one.points, x);
      return svg(`circle.line-${index % 6}`, { cx: scale.x(px), cy: scale.y(py), r: 4 });
    });
    show(marker, dots);
    name(x);
  }
}

function scales(series, clientWidth) {
  let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const { points } of series) {
    for (const [x, y] of points) {
      if (x < x0) x0 = x;
      if (x > x1) x1 = x;
      if (y < y0) y0 = y;
      if (y > y1) y1 = y;
    }
  }
  if (x0 === x1) [x0, x1] = [x0 - 0.5, x1 + 0.5];
  const pad = (y1 - y0) * 0.06 || Math.abs(y1) * 0.1 || 1;
  [y0, y1] = [y0 >= 0 ? Math.max(0, y0 - pad) : y0 - pad, y1 + pad];
  const [width, height] = [clientWidth - LEFT - 8, HEIGHT - TOP - BOTTOM];
  return {
    x0,
    x1,
    y0,
    y1,
    width,
    height,
    x: (value) => LEFT + ((value - x0) / (x1 - x0)) * width,
    y: (value) => TOP + (1 - (value - y0) / (y1 - y0)) * height,
  };
}

function curve({ points }, index, scale) {
  if (points.length === 1) return svg(
    `circle.line-${index % 6}`,
    { cx: scale.x(points[0][0]), cy: scale.y(points[0][1]), r: 3 },
  );
  const d = points.map(([x, y]) => `${scale.x(x).toFixed(1)},${scale.y(y).toFixed(1)}`).join("L");
  return svg(`path.line-${index % 6}`, { d: `M${d}`, fill: "none" });
}

function grid(scale, formatY) {
  const marks = ticks(scale.y0, scale.y1, 6);
  const labels = marks.map(formatY);
  const apart = new Set(labels).size === labels.length || labels[0].endsWith("%");
  return marks.map((value, index) => [
    svg("line.grid", { x1: LEFT, x2: LEFT + scale.width, y1: scale.y(value), y2: scale.y(value) }),
    svg(
      "text.tick",
      { x: LEFT - 6, y: scale.y(value) + 4, "text-anchor": "end" },
      apart ? labels[index] : String(Number(value.toPrecision(5))),
    ),
  ]);
}

function axis(scale, xName) {
  const marks = ticks(scale.x0, scale.x1, Math.min(10, scale.width / 40)).filter(Number.isInteger);
  return [
    ...marks.map((value) => svg(
      "text.tick",
      { x: scale.x(value), y: HEIGHT - 6, "text-anchor": "middle" },
      String(value),
    )),
    svg("text.tick", { x: 0, y: HEIGHT - 6 }, xName),
  ];
}

/** Round values between two ends: steps of 1, 2 or 5 times a power of ten. */
function ticks(low, high, wanted) {
  const rough = (high - low) / Math.max(wanted, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const first = Math.ceil(low / step);
  return Array.from(
    { length: Math.floor(high / step) - first + 1 },
    (_, index) => Number(((first + index) * step).toPrecision(12)),
  );
}

function nearest(points, x) {
  let [low, high] = [0, points.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle;
    else high = middle;
  }
  return Math.abs(points[low][0] - x) <= Math.abs(points[high][0] - x) ? points[low] : points[high];
}

const spoken = (series, formatY) =>
  series.map((one) => `${one.name}: ${formatY(one.points.at(-1)[1])} at the end`).join(", ");
