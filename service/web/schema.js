// What a field of a JSON Schema may be, as a form needs it: words to choose from, and at most one kind of value to write.

const WORDS = new Map([[null, "none"], [true, "yes"], [false, "no"]]);

export const word = (value) => WORDS.get(value) ?? String(value);

/** {name, title, help, standard, choices: [value], open: null or {kind, low, high, properties}} of one property. */
export function describe(name, node, defs) {
  const ways = (node.anyOf || node.oneOf || [node]).map((way) => follow(way, defs));
  const open = ways.map((way) => opened(way, defs)).find(Boolean) || null;
  const whole = follow(node, defs);
  return {
    name,
    title: node.title && node.title !== capitalised(name) ? node.title : spoken(name),
    help: sentence(node.description || whole.description),
    standard: node.default,
    choices: ways.flatMap(closed),
    open,
  };
}

/** The description of every property of an object's schema. */
export const properties = (node, defs) =>
  Object.entries(node.properties || {}).map(([name, inner]) => describe(name, inner, defs));

const follow = (node, defs) => (node.$ref ? defs[node.$ref.split("/").at(-1)] : node);

function closed(way) {
  if ("const" in way) return [way.const];
  if (way.enum) return way.enum;
  if (way.type === "null") return [null];
  return way.type === "boolean" ? [false, true] : [];
}

function opened(way, defs) {
  if (closed(way).length) return null;
  if (way.type === "object") return { kind: "object", properties: properties(way, defs) };
  if (way.type === "array") return { kind: "numbers" };
  if (way.type === "string") return { kind: "text", most: way.maxLength };
  const [low, high] = [way.minimum ?? way.exclusiveMinimum, way.maximum ?? way.exclusiveMaximum];
  return { kind: way.type, low, high, inclusive: "minimum" in way && "maximum" in way };
}

/** What pydantic calls a field that nobody gave a title. */
const capitalised = (name) => name.split("_").map((part) => part.charAt(0).toUpperCase() + part.slice(1)).join(" ");

const spoken = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");

/** Descriptions are notes of one line to several paragraphs; the form shows the first as a sentence. */
function sentence(text) {
  if (!text) return null;
  const first = text.split("\n\n")[0].replace(/\s+/g, " ").replace(/\.$/, "").replaceAll("`", "");
  const spelt = first.replaceAll(/\bnull\b/g, word(null));
  return `${spelt.charAt(0).toUpperCase()}${spelt.slice(1)}.`;
}
