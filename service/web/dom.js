// Builds elements. Every string becomes a text node, so a name that looks like HTML is shown, never run.

const SVG = "http://www.w3.org/2000/svg";

/** h("div.card", {onclick}, "text", child, [children]): falsy children are left out. */
export function h(tag, props = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  return fill(document.createElement(name), classes, props, children);
}

/** The same for SVG. */
export function svg(tag, props = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  return fill(document.createElementNS(SVG, name), classes, props, children);
}

function fill(element, classes, props, children) {
  if (classes.length) element.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(props)) set(element, key, value);
  const shown = (child) => child !== null && child !== undefined && child !== false;
  element.append(...children.flat(Infinity).filter(shown));
  return element;
}

function set(element, key, value) {
  if (value === null || value === undefined || value === false) return;
  if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
  else if (key === "vars") for (const [name, one] of Object.entries(value)) element.style.setProperty(`--${name}`, one);
  else if (key === "value" || key === "checked" || key === "selected" || key === "indeterminate") element[key] = value;
  else element.setAttribute(key, value === true ? "" : value);
}

/** Replaces what a place shows. */
export function show(place, ...children) {
  place.replaceChildren(...children.flat(Infinity).filter(Boolean));
}
