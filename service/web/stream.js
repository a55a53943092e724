// A job's events as they happen. A browser allows six connections to a service over all its tabs, so a tab that nobody
// looks at lets go of its own and goes on where it was when it is looked at again.

import { path } from "./api.js";

const TYPES = ["message", "metrics", "checkpoint", "warning", "status"];
const NEWEST = 200; // of a long job the page shows no more
export const ENDED = ["succeeded", "failed", "cancelled"];

/** Calls `onEvent` for the newest events and every later one, until the job has ended or the signal aborts. */
export function stream(id, onEvent, signal) {
  let source = null;
  let last = null;
  let ended = false;
  const hear = ({ data }) => {
    const event = JSON.parse(data);
    last = event.id;
    ended = event.type === "status" && ENDED.includes(event.data.status);
    if (ended) close();
    onEvent(event);
  };
  const open = () => {
    if (source || ended || document.hidden || signal.aborted) return;
    source = new EventSource(`${path("jobs", id)}/events?${last ? `after=${last}` : `newest=${NEWEST}`}`);
    for (const type of TYPES) source.addEventListener(type, hear);
  };
  const close = () => {
    source?.close();
    source = null;
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()), { signal });
  signal.addEventListener("abort", close);
  open();
}
