// Errors at the field that they are about: a problem's `param` is a JSON pointer (RFC 6901) into the body that was sent.

import { h, show } from "./dom.js";

/** An error of a form that needs no service to be seen. */
export const fault = (param, message, hint) => Object.assign(new Error(message), { param, hint });

export function faults() {
  const known = new Map(); // pointer -> {control, place}
  let marked = null;

  /** Gives the field, as parts.js made it, a place for what is wrong with it. */
  function add(pointer, element, control) {
    const place = h("p.fault", { id: `${control.id}-fault` });
    element.append(place);
    known.set(pointer, { control, place });
    return element;
  }

  function clear() {
    if (!marked) return;
    show(marked.place);
    marked.control.removeAttribute("aria-invalid");
    marked.control.removeAttribute("aria-errormessage");
    marked = null;
  }

  /** Tells it at the nearest field; with `lead` the field is opened up and gets the focus. */
  function tell(error, lead = false) {
    clear();
    marked = nearest(error.param);
    if (!marked) return;
    show(marked.place, error.message.replace(`${error.param}: `, ""));
    marked.control.setAttribute("aria-invalid", "true");
    marked.control.setAttribute("aria-errormessage", marked.place.id);
    if (!lead) return;
    for (let up = marked.control.closest("details"); up; up = up.parentElement.closest("details")) up.open = true;
    marked.control.focus();
  }

  function nearest(pointer) {
    for (let at = pointer || ""; at; at = at.slice(0, at.lastIndexOf("/"))) if (known.has(at)) return known.get(at);
    return null;
  }

  return { add, clear, tell, drop: (pointer) => known.delete(pointer) };
}
