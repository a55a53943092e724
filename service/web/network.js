// The network of a spec: a name, or layers of one's own as lines of text.

import { get, path } from "./api.js";
import { h } from "./dom.js";
import { fault } from "./faults.js";
import * as format from "./format.js";
import { HELP, lineOf, parse, print, TEXTBOOK } from "./layers.js";
import { choice, field } from "./parts.js";
import { describe } from "./schema.js";

const LAYERS = "layers"; // no network is called so
const PRESETS = ["classic", "compact", "speedrun"];

/** A part of the form (form.js). `networks` are the named ones, `schema` that of the spec. */
export function networkPart(networks, schema, faults) {
  return (described, pointer) => {
    const named = networks.map((row) => [
      row.name,
      row.parameters ? `${row.name} (${format.short(row.parameters)} parameters)` : row.name,
    ]);
    const help = "A list of layers, or a network with a name; auto chooses from the pictures.";
    const control = choice([["auto", "auto"], [LAYERS, "my own layers"], ...named], "auto", { id: "network" });
    const text = h("textarea", { id: "layers", rows: 9, spellcheck: "false", value: TEXTBOOK });
    const own = h("div.own", {}, field("Layers", text, HELP), begins(text));
    const toggle = () => (own.hidden = control.value !== LAYERS);
    control.addEventListener("change", toggle);
    toggle();
    faults.add(pointer, own, text);
    const layers = () => read(text.value, pointer);
    return {
      element: h("div.wide", {}, field(described.title, control, help), own),
      value: () => {
        if (control.value === LAYERS) return { layers: layers() };
        return control.value === "auto" ? undefined : control.value;
      },
      leaves: () => (control.value === LAYERS ? leaves(layers(), schema.$defs) : [{
        ...described,
        title: "Network",
        pointer: "/network",
        choices: ["auto", ...networks.map((row) => row.name)],
        open: { kind: "text" },
      }]),
      /** Says which line an error about a layer is about. */
      line: (error) => {
        const index = new RegExp(`^${pointer}/layers/(\\d+)`).exec(error.param || "");
        if (index) error.message = `Line ${lineOf(text.value, Number(index[1]))}: ${error.message}`;
        return error;
      },
    };
  };
}

function begins(text) {
  const take = (name) => async () => {
    const { layers } = await get(path("networks", name)).catch(() => ({}));
    if (!layers) return;
    text.value = print(layers);
    text.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const button = (name) => h("button.chip", { type: "button", onclick: take(name) }, name);
  return h("div.row", {}, h("span.muted", {}, "Begin with the layers of"), PRESETS.map(button));
}

function read(text, pointer) {
  try {
    return parse(text);
  } catch (error) {
    throw fault(pointer, error.message, error.hint);
  }
}

/** Every option of every layer, as fields that a search may vary. */
function leaves(layers, defs, where = "/network/layers", title = "Layer") {
  return layers.flatMap((layer, index) => {
    const [kind, options] = Object.entries(layer)[0];
    const at = `${where}/${index}/${kind}`;
    const called = `${title} ${index + 1}, ${kind}`;
    const ways = defs.Layer.properties[kind]?.anyOf;
    if (!ways) return [];
    const plain = ways.filter((way) => !way.$ref && way.type !== "null");
    if (options === null || typeof options !== "object") return [
      { ...describe(kind, { anyOf: plain }, defs), pointer: at, title: called },
    ];
    const inner = Object.entries(defs[ways.find((way) => way.$ref).$ref.split("/").at(-1)].properties || {});
    const mine = inner.filter(([name]) => name !== "layers").map(([name, node]) => ({
      ...describe(name, node, defs),
      pointer: `${at}/${name}`,
      title: `${called}: ${name.replaceAll("_", " ")}`,
    }));
    return [...mine, ...leaves(options.layers || [], defs, `${at}/layers`, `${called}: layer`)];
  });
}
