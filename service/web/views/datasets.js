// The datasets there are, and a place to drop a new one.

import { rows } from "../api.js";
import { h, show } from "../dom.js";
import * as format from "../format.js";
import { card, chooser, dropZone, empty, errorBox, field, table } from "../parts.js";
import { link } from "../router.js";
import { chosen, dropped } from "../upload.js";
import { offers, shown, start } from "../uploads.js";

export async function view({ signal }) {
  const known = await rows("/v1/datasets", {}, { signal });
  return [h("h1", {}, "Datasets"), uploadCard(signal), known.length ? list(known) : nothing()];
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

function uploadCard(signal) {
  const name = h(
    "input",
    { id: "dataset-name", maxlength: 64, placeholder: "flowers", autocomplete: "off", spellcheck: "false" },
  );
  const going = h("div.stack", {}, shown());
  const open = h("div.stack");
  offers(signal).then((cards) => signal.aborted || show(open, cards));
  const begin = (files) => files.length && show(going, shown(), start(files, name.value.trim()));
  const failed = (error) => show(going, shown(), errorBox(error));
  const zone = dropZone(
    "Upload pictures",
    (transfer) => dropped(transfer).then(begin, failed),
    h("p", {}, "Drop a folder with one folder per class here, or a zip of it."),
    h(
      "div.row",
      {},
      chooser("Choose a zip", { id: "zip-file", accept: ".zip,application/zip" }, (files) => begin(chosen(files))),
      chooser("Choose a folder", { id: "folder", webkitdirectory: true }, (files) => begin(chosen(files))),
    ),
  );
  return [open, card(
    "Add pictures",
    field("Name", name, "Left empty, it is the name of the file. A known name gets its next version."),
    zone,
    going,
  )];
}
