// A grid of thumbnails that holds only what is in sight: any number of pictures, the same memory.
//
// Rows come in pages of 120 by cursor. Without a filter a cursor is an ordinal, so any page can be asked for at once;
// with one, the pages before it are walked.

import { get } from "./api.js";
import { h, show } from "./dom.js";
import { errorBox } from "./parts.js";

const PAGE = 120; // items, and so at most thumbnails, of one request
const KEPT_PAGES = 6;
const CELL = 116; // px, with its gap

/** `mark(item)` says what a thumbnail shows of its picture: `note`, and `picked` where pictures can be selected. */
export function gallery({ where, filter, total, anywhere, onOpen, mark, signal }) {
  const pages = new Map(); // number -> rows, the latest used last
  const cursors = [undefined]; // where each page begins
  const cells = new Map(); // index -> element
  let known = total ?? PAGE;
  let walking = null;

  const space = h("div.space");
  const said = h("div");
  const box = h(
    "div.gallery",
    { tabindex: 0, role: "group", "aria-label": "Pictures", onscroll: () => requestAnimationFrame(draw) },
    space,
  );
  new ResizeObserver(() => draw()).observe(box);
  return { element: h("div", {}, said, box), refresh: () => cells.forEach((cell) => cell.dress()) };

  function draw() {
    if (!box.isConnected || signal.aborted) return;
    const columns = Math.max(1, Math.floor(box.clientWidth / CELL));
    const first = Math.max(0, Math.floor(box.scrollTop / CELL) - 1) * columns;
    const last = Math.min(known, (Math.ceil((box.scrollTop + box.clientHeight) / CELL) + 1) * columns);
    space.style.height = `${Math.ceil(known / columns) * CELL}px`;
    for (const [index, cell] of cells) {
      if (index >= first && index < last) continue;
      cell.remove();
      cells.delete(index);
    }
    const step = Math.max(CELL, Math.floor((box.clientWidth - 8) / columns));
    for (let index = first; index < last; index += 1) place(index, columns, step);
  }

  function place(index, columns, step) {
    const item = pages.get(Math.floor(index / PAGE))?.[index % PAGE];
    if (!item) return void load(Math.floor(index / PAGE));
    let cell = cells.get(index);
    if (!cell) {
      cell = thumbnail(where, item, () => onOpen(item));
      const [words, note] = [cell.title, h("span.note", { hidden: true })];
      cell.append(note);
      cell.dress = () => dress(cell, note, words, mark(item));
      cell.dress();
      cells.set(index, cell);
      space.append(cell);
    }
    cell.style.transform = `translate(${(index % columns) * step}px, ${Math.floor(index / columns) * CELL}px)`;
  }

  function load(number) {
    if (walking || pages.has(number)) return;
    walking = walk(number)
      .then(() => requestAnimationFrame(draw))
      .catch((error) => !signal.aborted && show(said, errorBox(error)))
      .finally(() => (walking = null));
  }

  async function walk(number) {
    if (anywhere && number > 0) cursors[number] = String(number * PAGE - 1);
    let at = number;
    while (at > 0 && cursors[at] === undefined) at -= 1;
    for (; at <= number; at += 1) {
      const page = await get(where, { ...filter, limit: PAGE, after: cursors[at] }, { signal });
      if (page.has_more) cursors[at + 1] = page.next;
      if (total === null) known = Math.max(
        known === PAGE ? 0 : known,
        at * PAGE + page.data.length + (page.has_more ? PAGE : 0),
      );
      keep(at, page.data);
      if (!page.has_more) return;
    }
  }

  function keep(number, data) {
    pages.delete(number);
    pages.set(number, data);
    if (pages.size > KEPT_PAGES) pages.delete(pages.keys().next().value);
  }
}

function dress(cell, place, words, { note, picked }) {
  place.textContent = note || "";
  place.hidden = !note;
  cell.setAttribute("aria-label", note ? `${words}: ${note}` : words);
  if (picked === undefined) cell.removeAttribute("aria-pressed");
  else cell.setAttribute("aria-pressed", String(picked));
}

/** One small picture as a button. A few pixels stay pixels: nothing is smoothed that was not there. */
export function thumbnail(where, item, onClick, note) {
  const image = h(
    "img",
    {
      alt: "",
      loading: "lazy",
      decoding: "async",
      src: `${where}/${item.image}/thumbnail`,
      onload: () => image.naturalWidth < 64 && image.classList.add("pixels"),
      onerror: () => image.classList.add("gone"),
    },
  );
  const words = item.path || `a picture of ${item.label}`;
  return h(
    "button.thumb",
    { type: "button", title: words, "aria-label": note ? `${words}: ${note}` : words, onclick: onClick },
    image,
    note && h("span.note", {}, note),
  );
}
