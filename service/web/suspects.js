// Likely wrong labels: found by a job, shown with their pictures and reasons, accepted or kept one by one.

import { get, path, post } from "./api.js";
import { inWords } from "./changes.js";
import { h, show } from "./dom.js";
import * as format from "./format.js";
import { thumbnail } from "./gallery.js";
import { card, doing, errorBox, progress } from "./parts.js";
import { picture } from "./picture.js";

const PAGE = 24;
const TITLES = {
  duplicates_disagree: "Alike, but labelled otherwise",
  improbable_label: "Improbable label",
  unusual_picture: "Unusual picture",
};

export function suspectsCard(name, version, changes, signal) {
  const said = h("div");
  const place = h("div", { "aria-live": "polite" });
  const dataset = `${name}@${version.number}`;
  const several = version.task === "multi_label";
  const look = h(
    "button",
    { type: "button", onclick: doing(said, async () => follow(await post("/v1/jobs", { type: "analyse", dataset }))) },
    "Look for wrong labels",
  );
  before().catch((error) => !signal.aborted && show(said, errorBox(error)));
  return card(
    "Likely wrong labels",
    h(
      "p.muted",
      {},
      "Every picture is classified by classifiers that have not seen it. Nothing is changed before you say so.",
    ),
    h("div.row", {}, look),
    said,
    place,
  );

  /** What earlier jobs have found, or are about to. */
  async function before() {
    const jobs = await get("/v1/jobs", { type: "analyse", limit: 200 }, { signal });
    const mine = jobs.data.filter((job) => job.dataset === dataset);
    const job = mine.find((one) => !one.is_terminal) || mine.find((one) => one.status === "succeeded");
    if (job) await follow(job);
  }

  async function follow(job) {
    const meter = progress("Looking for wrong labels", null);
    if (!job.is_terminal) show(place, h("p", {}, "Looking…"), meter);
    while (!job.is_terminal) {
      job = await get(path("jobs", job.id), { wait: 20 }, { signal });
      if (job.progress) meter.value = job.progress.fraction;
    }
    show(place);
    if (job.status === "succeeded") await list();
    else throw { message: job.error?.message || "It was cancelled.", hint: job.error?.hint };
  }

  async function list() {
    const where = path("datasets", name, "versions", String(version.number));
    const load = (after) => get(`${where}/suspects`, { limit: PAGE, after }, { signal });
    const first = await load();
    look.textContent = "Look again";
    const grid = h("ul.suspects", {});
    const more = h("button", { type: "button" }, "Show more");
    const add = (page) => {
      grid.append(...page.data.map((one) => suspect(one, `${where}/items`)));
      more.hidden = !page.has_more;
      more.onclick = doing(said, async () => add(await load(page.next)));
    };
    add(first);
    const { agreement, pictures } = first.analysis;
    const words = first.data.length
      ? "The likeliest come first. Where pictures are hard to tell apart, many of these labels are right."
      : "Nothing looks wrong.";
    show(
      place,
      h("p", {}, `${format.percent(agreement)} of ${format.count(pictures)} labels are what a classifier says. ${words}`),
      grid,
      more,
    );
  }

  function suspect(one, where) {
    const labels = several ? one.labels.join(", ") || "no label" : one.label;
    const state = h("span.muted");
    const fix = several
      ? { action: "relabel", labels: one.suggested_labels }
      : { action: "relabel", label: one.suggested };
    const answer = (words, what, change, props = {}) => {
      const choose = () => {
        changes.set([one.image], change);
        row.classList.toggle("kept", !change);
        if (!change) state.textContent = "kept as it is";
      };
      return h("button", { type: "button", "aria-label": `${words}: ${what}`, onclick: choose, ...props }, words);
    };
    const about = one.path;
    const row = h(
      "li",
      {},
      thumbnail(where, one, () => picture(where, one, [["Why", one.message]])),
      h(
        "div.grow",
        {},
        h("p", {}, h("strong", {}, labels), one.suggested !== null && ` → ${inWords(fix).slice(2)}`, " ", state),
        h("p.muted", {}, `${TITLES[one.reason]}: ${one.message}.`),
        h(
          "div.row",
          {},
          one.suggested !== null && answer("Accept", `${about} ${inWords(fix)}`, fix),
          answer("Remove", about, { action: "remove" }),
          answer("Keep", about, null),
        ),
      ),
    );
    changes.onChange(() => {
      const change = changes.of(one.image);
      if (change) state.textContent = JSON.stringify(change) === JSON.stringify(fix) ? "accepted" : inWords(change);
      else if (!row.classList.contains("kept")) state.textContent = "";
      row.classList.toggle("changed", Boolean(change));
    });
    return row;
  }
}
