// Uploads as the page shows them: they go on while other views are looked at, and after a reload where they were.

import { path, post, randomKey, rows } from "./api.js";
import { h, show } from "./dom.js";
import * as format from "./format.js";
import { card, chooser, doing, errorBox, progress, say } from "./parts.js";
import * as pending from "./pending.js";
import { go } from "./router.js";
import { begin, chosen, discard, kept, send } from "./upload.js";

const GONE = [404, 410];
const REMEMBERED_EVERY = 2000; // ms

const running = new Map(); // what goes on in this tab: {element, stop, id}

/** Elements of the uploads that go on, for a view that shows them. */
export const shown = () => [...running.values()].map((task) => task.element);

/** Sends what was chosen, [{path, file}], and makes a dataset version of it. The element tells how it goes. */
export function start(files, wanted) {
  const name = (wanted || suggested(files)).normalize("NFC");
  return run(async (task) => {
    const blob = await archive(files, task);
    const print = await pending.fingerprint(blob);
    const same = (entry) => entry.name === name && entry.size === blob.size && entry.print === print;
    const found = (await pending.interrupted()).find((entry) => same(entry) && !isRunning(entry.id));
    const entry = found || (await create(blob, { name, print, files }, task));
    if (!found) pending.keepBytes(entry.id, blob);
    await finish(entry, blob, task);
  });
}

async function create(blob, { name, print, files }, task) {
  const { id } = await begin(blob.size, task.stop.signal);
  task.id = id;
  const entry = {
    id,
    name,
    print,
    size: blob.size,
    called: files[0].path.split("/")[0],
    folder: !isZip(files),
    sent: 0,
    key: randomKey(), // of the request that makes the version: repeated after a reload, it makes no second one
    target: null,
  };
  await pending.remember(entry);
  return entry;
}

/** An element that begins with a line and a bar, and ends with an error or with nothing. */
function run(work) {
  const stop = new AbortController();
  const line = h("p", {}, "Reading…");
  const meter = progress("Upload", 0);
  const end = h("button.quiet", { type: "button", onclick: () => stop.abort(stopped()) }, "Stop");
  const task = { stop, line, meter, end, element: h("div", { "aria-live": "polite" }, line, meter, end), id: null };
  running.set(task, task);
  work(task)
    .then(() => task.element.remove())
    .catch((error) => failed(task, error))
    .finally(() => running.delete(task));
  return task.element;
}

const stopped = () => new DOMException("The upload was stopped.", "AbortError");
const isRunning = (id) => [...running.values()].some((task) => task.id === id);

async function failed(task, error) {
  if (task.id && !passing(error)) {
    discard(task.id);
    pending.forget(task.id);
  }
  if (error.name === "AbortError") return void task.element.remove();
  show(task.element, errorBox(error));
  if (!task.element.isConnected) say(`The upload failed: ${error.message}`);
}

/** Errors after which going on later makes sense. */
const passing = ({ status, name }) => name !== "AbortError" && (status === 0 || status === 401 || status >= 500);

async function finish(entry, blob, task) {
  task.id = entry.id; // of before, when it goes on
  let noted = 0;
  const tellAll = (now) => {
    tell(now, task);
    if (performance.now() - noted < REMEMBERED_EVERY) return;
    noted = performance.now();
    pending.remember({ ...entry, sent: now.sent });
  };
  if (!entry.target) await send(entry.id, blob, tellAll, task.stop.signal);
  task.line.textContent = "Looking into the archive…";
  task.end.remove();
  await arrive(entry);
}

/** The finished upload becomes a dataset, or the next version of a known one; asked twice, it is one all the same. */
async function arrive(entry) {
  const target = entry.target || (await targetOf(entry));
  await pending.remember({ ...entry, sent: entry.size, target });
  const pushed = await answered(target, entry.key);
  await pending.forget(entry.id);
  if (/^#\/datasets|^#?$/.test(location.hash)) go("dataset", [pushed.name, String(pushed.version)]);
  else say(`The pictures of ${pushed.name} have arrived.`);
}

/** The request of before a reload may still be at work. */
async function answered({ where, body }, key) {
  for (;;) {
    try {
      return await post(where, body, { headers: { "Idempotency-Key": key } });
    } catch (error) {
      if (error.status !== 423) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

async function targetOf({ id, name }) {
  const known = await rows("/v1/datasets", {}, { most: Infinity });
  if (!known.some((row) => row.name === name)) return { where: "/v1/datasets", body: { name, upload: id } };
  return { where: path("datasets", name, "versions"), body: { upload: id } };
}

// --- after a reload --------------------------------------------------------------------------------------------------

/** A card for each upload that was interrupted and can go on. */
export async function offers(signal) {
  const entries = (await pending.interrupted()).filter((entry) => !isRunning(entry.id));
  return (await Promise.all(entries.map((entry) => offer(entry, signal)))).filter(Boolean);
}

async function offer(entry, signal) {
  let sent = entry.sent;
  try {
    sent = entry.target ? entry.size : await kept(entry.id, sent, signal);
  } catch (error) {
    if (GONE.includes(error.status)) pending.forget(entry.id); // the service knows nothing of it any more
    return null;
  }
  const bytes = entry.target ? new Blob([]) : await pending.bytesOf(entry.id);
  const said = h("div");
  const again = (blob) => element.replaceWith(resume(entry, blob));
  const away = doing(said, async () => {
    await discard(entry.id);
    await pending.forget(entry.id);
    element.remove();
  });
  const element = card(
    "An upload was interrupted",
    h("p", {}, `${entry.name}: ${format.bytes(sent)} of ${format.bytes(entry.size)} have arrived.`),
    !bytes && h("p.muted", {}, `Your browser has not kept the pictures: choose ${entry.called} again, and it goes on.`),
    h(
      "div.row",
      {},
      bytes
        ? h("button.primary", { type: "button", onclick: () => again(bytes) }, "Go on")
        : choose(entry, said, again, signal),
      h("button.quiet", { type: "button", onclick: away }, "Throw it away"),
    ),
    said,
  );
  return element;
}

function choose(entry, said, again, signal) {
  const props = entry.folder ? { webkitdirectory: true } : { accept: ".zip,application/zip" };
  return chooser(`Choose ${entry.called} again`, props, async (files) => {
    try {
      show(said, h("p", {}, "Reading…"));
      const blob = await archive(chosen(files), null, signal);
      if (blob.size !== entry.size || (await pending.fingerprint(blob)) !== entry.print) throw Object.assign(
        new Error(`This is not what was being sent (${entry.called}, ${format.bytes(entry.size)}).`),
        { hint: "Choose the same one, unchanged; or throw this upload away and begin anew." },
      );
      again(blob);
    } catch (error) {
      show(said, errorBox(error));
    }
  });
}

function resume(entry, blob) {
  return run(async (task) => {
    await pending.remember(entry);
    await finish(entry, blob, task);
  });
}

/** Ends everything and remembers nothing, here and at the service. */
export async function endAll() {
  const known = await pending.all();
  for (const task of running.values()) task.stop.abort(stopped());
  await Promise.all(known.map((entry) => discard(entry.id)));
  await pending.forgetAll();
}

// --- what is sent ----------------------------------------------------------------------------------------------------

const isZip = (files) => files.length === 1 && /\.zip$/i.test(files[0].path);

/** One zip, as it was chosen or packed here: always the same bytes for the same files. */
async function archive(files, task, signal) {
  if (isZip(files)) return files[0].file;
  const { zip } = await import("./zip.js");
  const read = (done, total) => {
    if (!task) return;
    task.line.textContent = `Packing ${format.count(done)} of ${format.count(total)} files`;
    task.meter.value = done / total;
  };
  const order = (a, b) => (a.path < b.path ? -1 : 1);
  return zip([...files].sort(order), read, task?.stop.signal ?? signal);
}

function tell({ sent, total, perSecond, left }, { line, meter }) {
  meter.value = total ? sent / total : 0;
  const share = `${format.bytes(sent)} of ${format.bytes(total)}`;
  line.textContent = perSecond === null
    ? `${share}. The connection is broken; it goes on as soon as the service answers.`
    : `${share}, ${format.bytes(Math.round(perSecond))}/s, ${format.seconds(left)} left`;
}

/** The file's or the top folder's name, without what no name may contain. */
function suggested(files) {
  const first = files[0].path.split("/")[0].replace(/\.zip$/i, "");
  return first.replace(/[/@:\\?#%]/g, "-").trim().slice(0, 64) || "pictures";
}
