// What is in a picture: drop, paste or choose some.

import { path, post } from "../api.js";
import { camera } from "../camera.js";
import { h, show } from "../dom.js";
import * as format from "../format.js";
import { bar, card, chooser, dropZone, errorBox, snippet } from "../parts.js";
import { chosen } from "../models.js";

const AT_ONCE = 8; // pictures of one request
const SHOWN = 5; // labels of one picture
const COVERAGE = 0.95; // the set of answers holds the right one this often

export async function view({ args: [ref], signal }) {
  const { head, version, ref: exact } = await chosen("ask", "Ask", ref, signal);
  if (!version) return head;
  const answers = h("div.answers", { "aria-live": "polite" });
  const begin = (files) => ask(exact, files, answers, signal);
  document.addEventListener(
    "paste",
    (event) => event.clipboardData?.files.length && begin([...event.clipboardData.files]),
    { signal },
  );
  signal.addEventListener(
    "abort",
    () => answers.querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src)),
  );
  return [
    head,
    card(
      "A picture",
      dropZone(
        "Ask about pictures",
        (transfer) => begin([...transfer.files]),
        h("p", {}, "Drop pictures here, paste one, or"),
        h(
          "div.row",
          {},
          chooser("Choose pictures", { id: "pictures", accept: "image/*", multiple: true }, begin),
          camera(begin),
        ),
        h("p.muted", {}, "Nothing is kept: the pictures are answered and forgotten."),
      ),
    ),
    answers,
    card("The same from a program", snippets(exact)),
  ];
}

async function ask(ref, files, answers, signal) {
  for (let start = 0; start < files.length; start += AT_ONCE) {
    const some = files.slice(start, start + AT_ONCE);
    const places = some.map((file) => waiting(file));
    answers.prepend(...places.map((one) => one.element));
    const form = new FormData();
    for (const file of some) form.append("file", file, file.name);
    try {
      const answer = await classify(ref, form, signal);
      answer.results.forEach((result, index) => {
        show(places[index].said, said(result, answer.timing_ms, some.length));
        if (result.explanation) overlay(places[index].picture, result.explanation);
      });
    } catch (error) {
      if (signal.aborted) return;
      for (const { said: place } of places) show(place, errorBox(error));
    }
  }
}

/** With everything the model can say; an older or plainer one is asked again without what it cannot. */
async function classify(ref, form, signal) {
  const wanted = new Map([["explain", "cam"], ["coverage", COVERAGE]]);
  for (;;) {
    const query = new URLSearchParams([["top_k", SHOWN], ...wanted]);
    try {
      return await post(`${path("models", ref)}/classify?${query}`, form, { signal });
    } catch (error) {
      if (!/^(explain|coverage)_unsupported$/.test(error.code) || !wanted.delete(error.param)) throw error;
    }
  }
}

/** Dims what the network did not look at. The map lies over the picture as it was seen, stretched to a square. */
function overlay(picture, { label, png }) {
  const map = h("img.map", { alt: "", src: `data:image/png;base64,${png}`, hidden: true });
  const flip = (event) => (map.hidden = !event.target.checked);
  const words = label === null ? "where it looked" : `where it saw ${label}`;
  picture.append(map, h("label.check", {}, h("input", { type: "checkbox", onchange: flip }), words));
}

function waiting(file) {
  const saidPlace = h(
    "div.grow",
    {},
    h("p.muted", {}, "Asking… the first answer of a model takes longer: it is loaded then."),
  );
  const image = h(
    "img.asked",
    {
      alt: file.name,
      src: URL.createObjectURL(file),
      onload: () => image.naturalWidth < 64 && image.classList.add("pixels"),
      onerror: () => image.classList.add("gone"),
    },
  );
  const picture = h("div.asked-place", {}, image);
  return { said: saidPlace, picture, element: h("section.card.answer", {}, picture, saidPlace) };
}

function said(result, timing, pictures) {
  if (result.error) return errorBox(result.error);
  const ms = (value) => `${format.decimals(value, 1)} ms`;
  return [
    h("h2", {}, heading(result), result.label !== null && h("span.muted", {}, ` ${surest(result)}`)),
    result.decision === "abstain" && strange(result.ood),
    result.predictions.map((one) => bar(one.label, one.probability, format.percent(one.probability), one.threshold)),
    result.predictions.some((one) => "threshold" in one) &&
      h("p.muted", {}, "The mark on each bar: from there on the label is given."),
    result.prediction_set && h("p", {}, certain(result.prediction_set)),
    h(
      "p.muted",
      {},
      [
        `${result.filename || "picture"}: decoded in ${ms(timing.decode)}, answered in ${ms(timing.model)},`,
        `${ms(timing.total)} in all${pictures > 1 ? ` for ${pictures} pictures` : ""}.`,
      ].join(" "),
    ),
  ];
}

/** A model of several labels may give one, many or none. */
const heading = ({ labels }) => (labels.length ? labels.join(", ") : "None of its labels");
const surest = ({ labels, probability }) =>
  labels.length > 1 ? `the first with ${format.percent(probability)}` : format.percent(probability);

function strange({ p_value: chance }) {
  const words = `Of pictures like those it learned from, ${format.percent(chance)} look as strange to it.`;
  return h(
    "div.notice.warn",
    {},
    h("strong", {}, "Unlike what it has learned: do not rely on this answer."),
    h("p", {}, words),
  );
}

/** A promise about such sets over many pictures, not about this one. */
function certain(names) {
  const share = format.percent(COVERAGE, 0);
  return `Sets like this hold the right answer for ${share} of pictures: ${names.join(", ") || "none is likely enough"}.`;
}

function snippets(ref) {
  const url = `${location.origin}${path("models", ref)}/classify`;
  const curl = `curl -H "Authorization: Bearer $FOVEA_API_KEY" \\
  --data-binary @photo.jpg \\
  "${url}"`;
  const python = `import os, httpx

answer = httpx.post(
    ${JSON.stringify(url)},
    headers={"Authorization": f"Bearer {os.environ['FOVEA_API_KEY']}"},
    content=open("photo.jpg", "rb").read(),
)
print(answer.json()["results"][0]["label"])`;
  const serve = h("a", { href: "#/serve" }, "Serve");
  return [
    snippet("curl", curl),
    snippet("Python", python),
    h("p.muted", {}, "A key that may only ask is made under ", serve, "."),
  ];
}
