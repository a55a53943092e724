// A network as lines of text: "conv 32 3 relu norm", "max_pool 2", "dense 512 relu".

const ACTIVATIONS = ["relu", "relu6", "leaky_relu", "sigmoid", "tanh", "gelu", "silu", "hardswish"];
const EMPTY = ["flatten", "global_avg_pool", "batch_norm"];

export const TEXTBOOK = `conv 32 3 relu
max_pool 2
conv 64 3 relu
max_pool 2
conv 128 3 relu
max_pool 2
flatten
dense 512 relu`;

export const HELP = [
  "One layer a line: conv FILTERS [KERNEL] [stride N] [norm] [nobias] [activation],",
  "depthwise_conv [KERNEL] [stride N] [norm] [nobias] [activation], max_pool N, avg_pool N,",
  "dense UNITS [norm] [nobias] [activation], dropout P, batch_norm, flatten, global_avg_pool, or an activation. The class layer is added.",
  "A JSON object on a line is taken as it is.",
].join(" ");

/** The `layers` of a spec. Throws an Error that names the line. */
export const parse = (text) => lines(text).map(([line, number]) => layer(line, number));

/** The number of the line that layer `index` (from 0) stands on. */
export const lineOf = (text, index) => lines(text)[index]?.[1] ?? index + 1;

/** Layers as text that `parse` reads: words where the language has them, else JSON. */
export const print = (layers) => layers.map(line).join("\n");

function lines(text) {
  return text
    .split("\n")
    .map((one, index) => [one.replace(/#.*/, "").trim(), index + 1])
    .filter(([one]) => one);
}

function line(layer) {
  const [kind, options] = Object.entries(layer)[0];
  if (kind === "activation") return options;
  if (typeof options === "number") return `${kind} ${options}`;
  const { filters, units, p, kernel, stride = 1, batch_norm, bias, activation, padding = "same", ...more } = options;
  const plain = padding === "same" && !more.layers && !more.size && (more.multiplier ?? 1) === 1 && bias !== true;
  if (!plain) return JSON.stringify(layer);
  const named = [stride > 1 && `stride ${stride}`, batch_norm && "norm", bias === false && "nobias"];
  const words = [kind, filters ?? units ?? p, kernel, ...named, activation];
  return words.filter((one) => one !== undefined && one !== null && one !== false).join(" ");
}

function layer(line, number) {
  if (line.startsWith("{")) return json(line, number);
  const [kind, ...words] = line.toLowerCase().split(/[\s,]+/);
  if (EMPTY.includes(kind)) return { [kind]: {} };
  if (ACTIVATIONS.includes(kind)) return { activation: kind };
  const options = read(words, number);
  const [first, second] = options.numbers;
  if (kind === "conv") return {
    conv: clean({ filters: needed(first, number, "the number of filters"), kernel: second, ...options.named }),
  };
  if (kind === "depthwise_conv") return { depthwise_conv: clean({ kernel: first, ...options.named }) };
  if (kind === "dense") return {
    dense: clean({ units: needed(first, number, "the number of units"), ...options.named }),
  };
  if (kind === "max_pool" || kind === "avg_pool") return { [kind]: first ?? 2 };
  if (kind === "dropout") return { dropout: { p: first ?? 0.5 } };
  throw problem(number, `there is no layer called ${kind}`);
}

function read(words, number) {
  const found = { numbers: [], named: {} };
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index];
    if (word !== "" && !Number.isNaN(Number(word))) found.numbers.push(Number(word));
    else if (ACTIVATIONS.includes(word)) found.named.activation = word;
    else if (word === "norm") found.named.batch_norm = true;
    else if (word === "nobias") found.named.bias = false;
    else if (word === "stride") found.named.stride = Number(words[(index += 1)]);
    else throw problem(number, `"${word}" is not understood`);
  }
  return found;
}

function json(line, number) {
  try {
    return JSON.parse(line);
  } catch {
    throw problem(number, "this is not JSON");
  }
}

function needed(value, number, what) {
  if (value === undefined) throw problem(number, `${what} is missing`);
  return value;
}

const clean = (options) => Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));

function problem(number, words) {
  const error = new Error(`Line ${number}: ${words}.`);
  error.hint = HELP;
  return error;
}
