// The pieces that every view is made of: errors, empty states, tables, bars, dialogs, drop zones.

import { h, show } from "./dom.js";

/** What went wrong, and what to do. */
export function errorBox(error) {
  return h(
    "div.notice.bad",
    { role: "alert" },
    h("strong", {}, error.message || String(error)),
    error.hint && h("p", {}, error.hint),
    error.param && h("p.muted", {}, "Field: ", h("code", {}, error.param)),
    error.requestId && error.status >= 500 && h("p.muted", {}, "Request: ", h("code", {}, error.requestId)),
  );
}

/** Says something to everybody, also to those who do not see the page. */
export function say(message) {
  const place = document.getElementById("live");
  show(place, h("p", {}, message));
  setTimeout(() => show(place), 6000);
}

/** Runs what a button does: the button rests meanwhile, and an error appears in `place`. */
export function doing(place, action) {
  return async (event) => {
    event.preventDefault();
    const button = event.submitter || event.currentTarget;
    button.disabled = true;
    show(place);
    try {
      await action(event);
    } catch (error) {
      if (error.name !== "AbortError") show(place, errorBox(error));
    } finally {
      button.disabled = false;
    }
  };
}

export function empty(title, text, ...actions) {
  return h("section.card.empty", {}, h("h2", {}, title), h("p", {}, text), h("div.row", {}, actions));
}

export function card(title, ...children) {
  return h("section.card", {}, title && h("h2", {}, title), children);
}

export function facts(pairs) {
  return h(
    "dl.facts",
    {},
    pairs.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

/** A bar from 0 to 1 with its label before and its value after; `mark` is a place on it that matters. */
export function bar(label, share, value, mark) {
  return h(
    "div.bar-row",
    {},
    h("span.bar-label", { title: label }, label),
    h(
      "span.bar-track",
      { "aria-hidden": "true" },
      h("span.bar-fill", { vars: { share: Math.max(0, Math.min(1, share)) } }),
      mark !== undefined && h("span.bar-mark", { vars: { mark } }),
    ),
    h("span.bar-value", {}, value),
  );
}

export function progress(label, value) {
  return h("progress", { max: 1, "aria-label": label, ...(value === null ? {} : { value }) });
}

export function badge(status) {
  const kinds = {
    succeeded: "good",
    ready: "good",
    passed: "good",
    best: "good",
    failed: "bad",
    cancelled: "muted",
    running: "live-now",
    importing: "live-now",
  };
  return h(`span.badge.${kinds[status] || "plain"}`, {}, status);
}

/**
 * columns: [{title, value(row) for sorting, cell(row)?, numeric?, up?}]. Sorted by a click on a head: numbers from the
 * largest down, unless `up`. The element has `fill(rows)`, which keeps the order chosen.
 */
export function table(caption, columns, data, sortable = true) {
  let sorted = { column: null, down: false };
  const body = h("tbody");
  const heads = columns.map((column, index) => h(
    column.numeric ? "th.number" : "th",
    { scope: "col" },
    sortable && column.value
      ? h("button.head", { type: "button", onclick: () => sort(index) }, column.title)
      : column.title,
  ));
  const draw = () => {
    const { column, down } = sorted;
    const value = column === null ? null : columns[column].value;
    const order = (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0);
    const list = value ? [...data].sort((a, b) => (down ? order(b, a) : order(a, b))) : data;
    show(
      body,
      list.map((row) => h(
        "tr",
        {},
        columns.map((column) => h(
          column.numeric ? "td.number" : "td",
          {},
          column.cell ? column.cell(row) : String(column.value(row) ?? "–"),
        )),
      )),
    );
  };
  const sort = (index) => {
    const { numeric, up } = columns[index];
    sorted = { column: index, down: sorted.column === index ? !sorted.down : Boolean(numeric && !up) };
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[index].setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
    draw();
  };
  draw();
  const element = h(
    "div.scroll",
    { tabindex: 0, role: "region", "aria-label": caption },
    h("table", {}, h("caption.hidden", {}, caption), h("thead", {}, h("tr", {}, heads)), body),
  );
  element.fill = (rows) => {
    data = rows;
    draw();
  };
  return element;
}

/** A question before something that cannot be undone; resolves to true or false. */
export function ask(question, yes) {
  return new Promise((resolve) => {
    const close = (value) => () => dialog.close(value);
    const dialog = h(
      "dialog",
      { "aria-label": question, onclose: () => (dialog.remove(), resolve(dialog.returnValue === "yes")) },
      h("p", {}, question),
      h(
        "div.row",
        {},
        h("button.danger", { type: "button", onclick: close("yes") }, yes),
        h("button.quiet", { type: "button", onclick: close("no") }, "Keep it"),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** A place to drop files on; `onDrop` gets the DataTransfer. */
export function dropZone(label, onDrop, ...children) {
  const zone = h("div.drop", { role: "group", "aria-label": label }, children);
  const over = (on) => (event) => {
    event.preventDefault();
    zone.classList.toggle("over", on);
  };
  zone.addEventListener("dragover", over(true));
  zone.addEventListener("dragleave", over(false));
  zone.addEventListener("drop", (event) => (over(false)(event), onDrop(event.dataTransfer)));
  return zone;
}

/** A button that opens the file chooser; `props` go to the hidden input. */
export function chooser(label, props, onFiles) {
  const input = h(
    "input.hidden",
    {
      type: "file",
      tabindex: -1,
      "aria-label": label,
      ...props,
      onchange: () => (onFiles([...input.files]), (input.value = "")),
    },
  );
  return [h("button", { type: "button", onclick: () => input.click() }, label), input];
}

let serial = 0;

/** A labelled field of a form. */
export function field(label, control, help) {
  serial += 1;
  const id = control.id || `field-${serial}`;
  control.id = id;
  if (help) control.setAttribute("aria-describedby", `${id}-help`);
  return h("div.field", {}, h("label", { for: id }, label), control, help && h("p.muted", { id: `${id}-help` }, help));
}

export function choice(options, chosen, props = {}) {
  return h("select", props, options.map(([value, label]) => h("option", { value, selected: value === chosen }, label)));
}

/** Text to take along. The clipboard needs https or localhost; elsewhere the text is marked, to copy by hand. */
export function snippet(title, code) {
  const pre = h("pre", { tabindex: 0, "aria-label": title }, code);
  const copy = async () => {
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(code);
      say("Copied");
    } else getSelection().selectAllChildren(pre);
  };
  return h(
    "figure.snippet",
    {},
    h(
      "figcaption",
      {},
      title,
      h("button.quiet", { type: "button", onclick: copy, "aria-label": `Copy ${title}` }, "Copy"),
    ),
    pre,
  );
}
