// The datasets there are, and a place to drop a new one.

import { path, post, rows } from "../api.js";
import { h, show } from "../dom.js";
import * as format from "../format.js";
import { card, chooser, doing, dropZone, empty, errorBox, field, progress, table } from "../parts.js";
import { go, link } from "../router.js";
import { chosen, discard, dropped, send } from "../upload.js";

export async function view({ signal }) {
  const known = await rows("/v1/datasets", {}, { signal });
  return [h("h1", {}, "Datasets"), uploadCard(known, signal), known.length ? list(known) : nothing()];
}

function nothing() {
  return empty(
    "No pictures yet",
    "Sort your pictures into one folder per class, for example rose/ and tulip/, and drop the folder that holds them " +
      "above. Ten pictures a class are a start; a hundred are better.",
  );
}

function list(known) {
  return card(
    "Yours",
    table(
      "Datasets",
      [
        {
          title: "Name",
          value: (row) => row.name,
          cell: (row) => h("a", { href: link("dataset", [row.name]) }, row.name),
        },
        { title: "Versions", value: (row) => row.versions, numeric: true },
        { title: "Made", value: (row) => row.created_at, cell: (row) => format.when(row.created_at) },
        {
          title: "Next",
          cell: (row) => h(
            "a",
            { href: link("train", [], { dataset: row.name }), "aria-label": `Train on ${row.name}` },
            "Train",
          ),
        },
      ],
      known,
    ),
  );
}

function uploadCard(known, signal) {
  const name = h(
    "input",
    { id: "dataset-name", maxlength: 64, placeholder: "flowers", autocomplete: "off", spellcheck: "false" },
  );
  const said = h("div", { "aria-live": "polite" });
  const failed = (error) => error.name !== "AbortError" && show(said, errorBox(error));
  const begin = (files) => upload(files, name, known, said, signal).catch(failed);
  const zone = dropZone(
    "Upload pictures",
    async (transfer) => begin(await dropped(transfer)),
    h("p", {}, "Drop a folder with one folder per class here, or a zip of it."),
    h(
      "div.row",
      {},
      chooser("Choose a zip", { id: "zip-file", accept: ".zip,application/zip" }, (files) => begin(chosen(files))),
      chooser("Choose a folder", { id: "folder", webkitdirectory: true }, (files) => begin(chosen(files))),
    ),
  );
  return card(
    "Add pictures",
    field("Name", name, "Left empty, it is the name of the file. A known name gets its next version."),
    zone,
    said,
  );
}

async function upload(files, nameField, known, said, signal) {
  if (!files.length) return;
  const stop = new AbortController();
  signal.addEventListener("abort", () => stop.abort());
  const line = h("p");
  const meter = progress("Upload", 0);
  const cancel = h(
    "button.quiet",
    { type: "button", onclick: () => stop.abort(new DOMException("", "AbortError")) },
    "Stop",
  );
  show(said, line, meter, cancel);
  const name = (nameField.value.trim() || suggested(files)).normalize("NFC");
  try {
    const blob = await archive(files, line, meter, stop.signal);
    const sent = await send(blob, (now) => tell(now, line, meter), stop.signal);
    line.textContent = "Looking into the archive…";
    cancel.remove();
    const pushed = await make(name, sent, known).catch((error) => {
      discard(sent);
      throw error;
    });
    go("dataset", [pushed.name, String(pushed.version)]);
  } catch (error) {
    show(said);
    throw error;
  }
}

/** A finished upload becomes a dataset, or the next version of a known one. */
function make(name, sent, known) {
  if (known.some((row) => row.name === name)) return post(path("datasets", name, "versions"), { upload: sent });
  return post("/v1/datasets", { name, upload: sent });
}

async function archive(files, line, meter, signal) {
  if (files.length === 1 && /\.zip$/i.test(files[0].path)) return files[0].file;
  const { zip } = await import("../zip.js");
  const read = (done, total) => {
    line.textContent = `Packing ${format.count(done)} of ${format.count(total)} files`;
    meter.value = done / total;
  };
  return zip(files, read, signal);
}

function tell({ sent, total, perSecond, left }, line, meter) {
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
