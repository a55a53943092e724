// One dataset: how its import went, what was left out and why, and the pictures themselves.

import { get, path, remove, rows } from "../api.js";
import { browse } from "../browse.js";
import { changesOf } from "../changes.js";
import { h, show } from "../dom.js";
import * as format from "../format.js";
import { ask, badge, bar, card, choice, doing, errorBox, facts, field, progress, table } from "../parts.js";
import { go, link } from "../router.js";
import { suspectsCard } from "../suspects.js";

export async function view({ args: [name, wanted], signal }) {
  const versions = await rows(path("datasets", name, "versions"), {}, { signal });
  const version = wanted ? versions.find((row) => row.number === Number(wanted)) : versions[0];
  const title = h("h1", {}, name);
  if (!version) return [
    title,
    card(
      "Empty",
      h(
        "p",
        {},
        wanted ? `There is no version ${wanted}.` : "This dataset has no pictures yet. Upload a zip with its name.",
      ),
      h("a.button", { href: "#/datasets" }, "To the datasets"),
    ),
  ];
  const body = h("div.stack");
  fill(body, name, version, versions[0].number, signal);
  return [head(title, name, version, versions), body, differencesCard(name, version, versions)];
}

/** What the version has that another one has not; the module is fetched when it is asked for. */
function differencesCard(name, version, versions) {
  const others = versions.filter((row) => row.status === "ready" && row.number !== version.number);
  if (version.status !== "ready" || !others.length) return null;
  const place = h("div", { "aria-live": "polite" });
  const pick = choice([["", "Choose one"], ...others.map((row) => [String(row.number), `Version ${row.number}`])], "");
  pick.addEventListener("change", async () => {
    try {
      const { differences } = await import("../differences.js");
      show(place, pick.value ? await differences(name, Number(pick.value), version.number) : []);
    } catch (error) {
      show(place, errorBox(error));
    }
  });
  return card("What is new against another version?", field("Other version", pick), place);
}

function head(title, name, version, versions) {
  const said = h("div");
  const pick = choice(
    versions.map((row) => [String(row.number), `Version ${row.number}`]),
    String(version.number),
    { "aria-label": "Version", onchange: (event) => go("dataset", [name, event.target.value]) },
  );
  const erase = async () => {
    if (!(await ask(`Remove ${name}, all its versions and pictures? Models trained from it stay.`, "Remove"))) return;
    await remove(path("datasets", name));
    go("datasets");
  };
  return [
    h(
      "div.head-row",
      {},
      title,
      pick,
      badge(version.status),
      h("span.grow"),
      h("a.button.primary", { href: link("train", [], { dataset: `${name}@${version.number}` }) }, "Train on it"),
      h("button.quiet", { type: "button", onclick: doing(said, erase) }, "Remove"),
    ),
    said,
  ];
}

function fill(body, name, version, newest, signal) {
  if (version.status !== "ready") return void follow(body, name, version, signal);
  const changes = changesOf(name, version, newest);
  show(
    body,
    summary(version),
    report(version.report),
    suspectsCard(name, version, changes, signal),
    browse(name, version, changes, signal),
    changes.element,
  );
}

/** The import, as it goes on; when it has ended, the pictures. */
async function follow(body, name, version, signal) {
  const line = h("p", {}, "Waiting for a worker…");
  const meter = progress("Import", null);
  show(body, card("Import", line, meter));
  try {
    const jobs = await rows("/v1/jobs", { type: "import" }, { signal });
    let job = jobs.find((row) => row.dataset === `${name}@${version.number}`);
    while (job && !job.is_terminal) {
      job = await get(path("jobs", job.id), { wait: 20 }, { signal });
      if (job.progress) {
        meter.value = job.progress.fraction ?? job.progress.step / job.progress.steps;
        const { step, steps } = job.progress;
        line.textContent = `${format.count(step)} of ${format.count(steps)} pictures looked at`;
      }
    }
    const now = await get(path("datasets", name, "versions", String(version.number)), {}, { signal });
    if (now.status === "ready") go("dataset", [name, String(version.number)], { ready: 1 });
    else show(
      body,
      errorBox({
        message: job?.error?.message || "The import did not finish.",
        hint: job?.error?.hint || "Upload the pictures again.",
      }),
    );
  } catch (error) {
    if (!signal.aborted) show(body, errorBox(error));
  }
}

function summary(version) {
  const most = Math.max(...version.classes.map((row) => row.count));
  const { train, val, test } = version.splits;
  return card(
    "What is in it",
    facts([
      ["Pictures", format.count(version.image_count)],
      ["Classes", format.count(version.classes.length)],
      ["Learned from", `${format.count(train)} (train)`],
      ["Checked on", `${format.count(val)} (val)`],
      ["Judged on", `${format.count(test)} (test)`],
      ["Archive", format.bytes(version.bytes)],
    ]),
    h("h3", {}, "Classes"),
    h(
      "div.bars",
      { tabindex: 0, role: "region", "aria-label": "Pictures per class" },
      version.classes.map((row) => bar(row.name, row.count / most, format.count(row.count))),
    ),
  );
}

function report(found) {
  const parts = [
    found.warnings.map((one) => h("div.notice.warn", {}, h("strong", {}, one.message), h("p", {}, one.hint))),
    listed("Rejected", found.rejected, [["Picture", "path"], ["Reason", "message"], ["What to do", "hint"]]),
    listed("Skipped files", found.skipped, [["File", "path"], ["Reason", "code"]]),
    groups("Duplicates", found.duplicates, "The same picture more than once."),
    groups("Near duplicates", found.near_duplicates, "Pictures that look alike; they were kept in one split."),
    groups(
      "Leaks",
      found.leaks,
      "Alike pictures in different splits: the figures of a model will look better than it is.",
    ),
  ].flat().filter(Boolean);
  return card(
    found.edited ? "Report" : "Import report",
    h("p", {}, found.edited ? edited(found) : `${format.several(found.accepted, "picture")} accepted.`),
    parts.length ? parts : h("p.muted", {}, "Nothing to complain about: no broken pictures, no duplicates."),
  );
}

function edited({ accepted, edited: { from, relabelled, moved, removed } }) {
  const done = [[relabelled, "relabelled"], [moved, "moved"], [removed, "removed"]].filter(([count]) => count);
  const words = done.map(([count, what]) => `${format.count(count)} ${what}`).join(", ");
  return `Version ${from} with changes: ${words}. It has ${format.several(accepted, "picture")}.`;
}

function listed(title, data, columns) {
  if (!data?.length) return null;
  return h(
    "details",
    {},
    h("summary", {}, `${title} (${format.count(data.length)})`),
    table(title, columns.map(([head, key]) => ({ title: head, value: (row) => row[key] })), data.slice(0, 500)),
  );
}

function groups(title, data, explanation) {
  if (!data?.length) return null;
  const line = (group) => h("li", {}, group.map((one) => `${one.path} (${one.label}, ${one.split})`).join("  =  "));
  return h(
    "details",
    {},
    h("summary", {}, `${title} (${format.count(data.length)})`),
    h("p.muted", {}, explanation),
    h("ul.plain", {}, data.slice(0, 200).map(line)),
  );
}
