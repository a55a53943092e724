// Which view the address names: #/watch/job_1?x=y is the view "watch" with ["job_1"] and {x: "y"}.

import { h, show } from "./dom.js";
import { errorBox } from "./parts.js";

let leaving = new AbortController();

export const link = (view, args = [], query = {}) => {
  const tail = new URLSearchParams(query).toString();
  return `#/${[view, ...args].map((part) => encodeURIComponent(part)).join("/")}${tail ? `?${tail}` : ""}`;
};

export function go(view, args, query) {
  location.hash = link(view, args, query);
}

/** Shows the view of the present address; what the last one still does is aborted through its signal. */
export async function route(views, place, onShown) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [where, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...args] = where.split("/").map(decode);
  const view = views[name] || views.datasets;
  onShown(views[name] ? name : "datasets");
  try {
    const module = await view();
    const content = await module.view({ args, query: new URLSearchParams(query), signal });
    if (signal.aborted) return;
    show(place, content);
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") return;
    show(place, h("h1", {}, "This did not work"), errorBox(error));
  }
  const title = place.querySelector("h1");
  document.title = title ? `${title.textContent} · Fovea` : "Fovea";
  place.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
