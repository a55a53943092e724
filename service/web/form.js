// A form made from a JSON Schema: every field reachable, nothing sent that was left as it is.
//
// A part of the form is {element, value(), leaves()}. `value()` is undefined where nothing was chosen, so that
// what is left alone stays the service's to decide. `leaves()` are the fields that a search may vary now.

import { h } from "./dom.js";
import { fault } from "./faults.js";
import { choice, field } from "./parts.js";
import { properties, word } from "./schema.js";

const OWN = "=own"; // no schema has such a word

/** `own` has parts of the caller's by pointer: (described, pointer) => part. `pointer` is where the object goes. */
export function schemaForm(schema, { pointer, own, faults }) {
  const context = { top: pointer, own, faults };
  return group(properties(schema, schema.$defs || {}), pointer, context);
}

/** An id for the field at a pointer; that of /spec/optimizer/lr is optimizer-lr. */
const idOf = (pointer, { top }) => pointer.slice(top.length + 1).replaceAll(/[/_]/g, "-");

function group(described, pointer, context) {
  const parts = described.map((one) => [one.name, part(one, `${pointer}/${one.name}`, context)]);
  return {
    element: h("div.fields", {}, parts.map(([, one]) => one.element)),
    value: () => {
      const given = parts.map(([name, one]) => [name, one.value()]).filter(([, value]) => value !== undefined);
      return Object.fromEntries(given);
    },
    leaves: () => parts.flatMap(([, one]) => one.leaves()),
  };
}

function part(described, pointer, context) {
  const { open, choices, standard } = described;
  if (context.own[pointer]) return context.own[pointer](described, pointer);
  if (open?.kind === "object") return (choices.length ? optional : always)(described, pointer, context);
  if (!open) return selected(described, pointer, context);
  const plain = choices.length === 0 || (choices.length === 1 && choices[0] === standard);
  return (plain ? written : either)(described, pointer, context);
}

/** Leaves within `context.top`, as pointers into the spec. */
const leaf = (described, pointer, { top, within }) => ({
  ...described,
  pointer: pointer.slice(top.length),
  title: within ? `${within}: ${described.title}` : described.title,
});

// --- objects ---------------------------------------------------------------------------------------------------------

function always(described, pointer, context) {
  const inner = group(described.open.properties, pointer, { ...context, within: described.title });
  const given = () => {
    const value = inner.value();
    return Object.keys(value).length ? value : undefined;
  };
  return { element: fieldset("fieldset.part.wide", described, inner.element), value: given, leaves: inner.leaves };
}

function optional(described, pointer, context) {
  const inner = group(described.open.properties, pointer, { ...context, within: described.title });
  const control = select(described, pointer, context, "as follows");
  const place = h("div", {}, inner.element);
  const chosen = () => control.value === OWN;
  const own = context.faults.add(pointer, h("div.field", {}, control), control);
  const element = fieldset("fieldset.part", described, own, place);
  const toggle = () => element.classList.toggle("wide", !(place.hidden = !chosen()));
  control.addEventListener("change", toggle);
  control.setAttribute("aria-label", described.title);
  toggle();
  return {
    element,
    value: () => (chosen() ? inner.value() : picked(control, described)),
    leaves: () => [
      ...(described.choices.length > 1 && !chosen() ? [leaf(described, pointer, context)] : []),
      ...(chosen() ? inner.leaves() : []),
    ],
  };
}

function fieldset(tag, { title, help }, ...children) {
  return h(tag, {}, h("legend", {}, title), children[0], help && h("p.muted", {}, help), children.slice(1));
}

// --- single values ---------------------------------------------------------------------------------------------------

function selected(described, pointer, context) {
  const control = select(described, pointer, context);
  return single(described, pointer, context, control, () => picked(control, described));
}

/** A value to write; empty is what the schema says when nothing is given. */
function written(described, pointer, context) {
  const control = input(described, pointer, context);
  return single(described, pointer, context, control, () => read(control, described, pointer));
}

/** Words to choose from, or a value to write. */
function either(described, pointer, context) {
  const control = select(described, pointer, context, "own value");
  const own = input(described, `${pointer}-own`, context);
  own.setAttribute("aria-label", `${described.title}: own value`);
  const chosen = () => control.value === OWN;
  const toggle = () => (own.hidden = !chosen());
  control.addEventListener("change", toggle);
  toggle();
  const made = single(described, pointer, context, control, () => {
    if (!chosen()) return picked(control, described);
    const value = read(own, described, pointer);
    if (value === undefined) throw fault(pointer, `${described.title}: write a value, or choose a word.`);
    return value;
  });
  control.after(own);
  return made;
}

function single(described, pointer, context, control, value) {
  const element = context.faults.add(pointer, field(described.title, control, described.help), control);
  return { element, value, leaves: () => [leaf(described, pointer, context)] };
}

function select({ choices, standard }, pointer, context, open) {
  const options = choices.map((value, index) => [String(index), word(value)]);
  if (open) options.push([OWN, open]);
  return choice(options, String(choices.indexOf(standard)), { id: idOf(pointer, context) });
}

function picked(control, { choices, standard }) {
  const value = choices[Number(control.value)];
  return value === standard ? undefined : value;
}

function input({ open, standard }, pointer, context) {
  const props = { id: idOf(pointer, context), placeholder: word(standard), autocomplete: "off" };
  if (open.kind === "numbers") return h("input", { ...props, placeholder: "1, 2.5, 1" });
  if (open.kind === "text") return h("input", { ...props, maxlength: open.most, spellcheck: "false" });
  const step = open.kind === "integer" ? 1 : "any";
  return h("input", { ...props, type: "number", min: open.low, max: open.high, step });
}

function read(control, { title, open }, pointer) {
  if (control.validity.badInput) throw fault(pointer, `${title}: this is not a number.`);
  const text = control.value.trim();
  if (text === "") return undefined;
  if (open.kind === "text") return text;
  if (open.kind !== "numbers") return Number(text);
  const numbers = text.split(/[\s,;]+/).filter(Boolean).map(Number);
  if (numbers.some(Number.isNaN)) throw fault(pointer, `${title}: write numbers, with commas between them.`);
  return numbers;
}
