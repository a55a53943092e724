// Numbers, sizes and times as people read them.

const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export const count = (value) => (value === null || value === undefined ? "–" : whole.format(value));
export const short = (value) => (value === null || value === undefined ? "–" : compact.format(value));
export const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;
export const when = (text) => (text ? clock.format(new Date(text)) : "–");
export const decimals = (value, digits = 3) => Number(value).toFixed(digits);

export function bytes(value) {
  if (value < 1000) return `${value} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let size = value;
  let unit = -1;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${size.toFixed(size < 10 ? 1 : 0)} ${units[unit]}`;
}

export function seconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value < 60) return `${Math.round(value)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  return `${Math.floor(value / 3600)} h ${Math.round((value % 3600) / 60)} min`;
}

export function since(from, to) {
  return from ? seconds(((to ? new Date(to) : new Date()) - new Date(from)) / 1000) : "–";
}

/** "1 picture", "2 pictures". */
export const several = (value, word) => `${count(value)} ${word}${value === 1 ? "" : "s"}`;
