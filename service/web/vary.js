// Which fields a search varies, and within what: the `space` of a search, made by choosing.

import { h } from "./dom.js";
import { fault } from "./faults.js";
import { choice, field } from "./parts.js";
import { word } from "./schema.js";

const WIDELY = ["log_uniform", "evenly over the orders of magnitude"];
const EVENLY = ["uniform", "evenly"];
const WHOLE = ["int", "whole numbers"];
const LISTED = ["choice", "one of these values"];
const USUAL = { "/optimizer/lr": [0.0001, 0.01] };
const MOST_BOXES = 12; // words that are shown as boxes to tick

/** `leaves()` are the fields of the form as it stands; {element, refresh(), value()}. */
export function varied(leaves, faults) {
  const chosen = new Map(); // pointer -> {element, value()}
  const pick = h("select", { id: "vary" });
  const list = h("div.stack");
  const nothing = h("p.muted", {}, "Nothing yet: choose a field and add it.");

  function refresh() {
    const kept = pick.value;
    const open = possible().filter((one) => !chosen.has(one.pointer));
    pick.replaceChildren(...open.map((one) => h("option", { value: one.pointer }, one.title)));
    if (open.some((one) => one.pointer === kept)) pick.value = kept;
    nothing.hidden = chosen.size > 0;
  }

  function possible() {
    try {
      return leaves().filter((one) => one.open || one.choices.length > 1);
    } catch {
      return []; // the layers cannot be read; the plan says so
    }
  }

  function add() {
    const one = possible().find(({ pointer }) => pointer === pick.value);
    if (!one) return;
    const row = dimension(one, faults, () => leave(one.pointer));
    chosen.set(one.pointer, row);
    list.append(row.element);
    refresh();
    row.element.dispatchEvent(new Event("change", { bubbles: true }));
    row.element.querySelector("input, select").focus();
  }

  function leave(pointer) {
    const { element } = chosen.get(pointer);
    const form = element.closest("form");
    element.remove();
    chosen.delete(pointer);
    faults.drop(place(pointer));
    refresh();
    form.dispatchEvent(new Event("change"));
    pick.focus();
  }

  const button = h("button", { type: "button", onclick: add }, "Vary it");
  const chooser = faults.add("/space", h("div.row", {}, field("Field", pick), button), pick);
  refresh();
  return {
    element: h("div", {}, nothing, list, chooser),
    refresh,
    value: () => {
      if (!chosen.size) throw fault("/space", "A search varies something.", "Choose a field and add it.");
      return Object.fromEntries([...chosen].map(([pointer, row]) => [pointer, row.value()]));
    },
  };
}

/** Where a problem points to when it is about this pointer of the space. */
const place = (pointer) => `/space/${pointer.replaceAll("~", "~0").replaceAll("/", "~1")}`;

function dimension(one, faults, leave) {
  const number = one.open && ["number", "integer"].includes(one.open.kind);
  const made = (number ? range : words)(one);
  const label = `Leave ${one.title} alone`;
  const remove = h("button.quiet", { type: "button", onclick: leave, "aria-label": label }, "Remove");
  const element = h(
    "fieldset.part",
    {},
    h("legend", {}, one.title),
    h("div.row", {}, h("p.muted.grow", {}, one.help, " ", h("code", {}, one.pointer)), remove),
    made.element,
  );
  return { element: faults.add(place(one.pointer), element, made.control), value: made.value };
}

// --- numbers ---------------------------------------------------------------------------------------------------------

function range(one) {
  const { open, pointer, title } = one;
  const ways = [...waysOf(open), LISTED];
  const [from, to] = USUAL[pointer] || (open.inclusive && open.high <= 1 ? [open.low, open.high] : []);
  const number = (value) => h("input", { type: "number", step: open.kind === "integer" ? 1 : "any", value });
  const low = number(String(from ?? ""));
  const high = number(String(to ?? ""));
  const text = h("input", { autocomplete: "off", spellcheck: "false", placeholder: "0.001, 0.01, auto" });
  const how = choice(ways, ways[0][0]);
  const bounds = h("div.fields", {}, field("From", low), field("To", high));
  const listed = field("Values", text, "With commas between them.");
  const toggle = () => ((bounds.hidden = how.value === "choice"), (listed.hidden = how.value !== "choice"));
  how.addEventListener("change", toggle);
  toggle();
  const value = () => {
    if (how.value === "choice") return { choice: read(text.value, one) };
    if (low.value === "" || high.value === "") throw fault(place(pointer), `${title}: say from where to where.`);
    return { [how.value]: [Number(low.value), Number(high.value)] };
  };
  return { element: [field("How", how), bounds, listed], control: how, value };
}

/** What may be anything above nothing is best tried over its orders of magnitude. */
function waysOf({ kind, low, inclusive }) {
  if (kind === "integer") return [WHOLE];
  return low === 0 && !inclusive ? [WIDELY, EVENLY] : [EVENLY, WIDELY];
}

/** "0.1, auto, none" as values; what is no number, no word of the field and no JSON is a string. */
function read(text, { pointer, title, choices }) {
  const values = text.split(",").map((part) => part.trim()).filter(Boolean);
  if (!values.length) throw fault(place(pointer), `${title}: write the values to try.`);
  return values.map((part) => {
    const known = choices.find((value) => word(value) === part);
    if (known !== undefined) return known;
    try {
      return JSON.parse(part);
    } catch {
      return part;
    }
  });
}

// --- words -----------------------------------------------------------------------------------------------------------

function words(one) {
  if (one.choices.length > MOST_BOXES || one.open) return written(one);
  const boxes = one.choices.map((value) => h("input", { type: "checkbox", checked: true, "data-word": word(value) }));
  const labels = boxes.map((box) => h("label.check", {}, box, box.dataset.word));
  const value = () => {
    const ticked = one.choices.filter((_, index) => boxes[index].checked);
    if (!ticked.length) throw fault(place(one.pointer), `${one.title}: tick the values to try.`);
    return { choice: ticked };
  };
  boxes[0].id = `vary${one.pointer.replaceAll("/", "-")}`;
  return { element: h("div.row", {}, labels), control: boxes[0], value };
}

function written(one) {
  const known = `vary${one.pointer.replaceAll("/", "-")}-known`;
  const text = h("input", { autocomplete: "off", spellcheck: "false", list: known });
  const help = `With commas between them, such as ${one.choices.slice(0, 3).map(word).join(", ")}.`;
  const options = h("datalist", { id: known }, one.choices.map((value) => h("option", { value: word(value) })));
  const value = () => ({ choice: read(text.value, one) });
  return { element: [field("Values", text, help), options], control: text, value };
}
