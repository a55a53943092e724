// Sends a file in pieces, by tus (tus.io): a broken connection or a service that is started again costs one piece. Tells
// how far it is; fetch cannot say that, XMLHttpRequest can. Also finds the files of a dropped folder.

import { answer, ApiError, failure, randomKey, request } from "./api.js";

const PIECE = 4 * 1024 ** 2; // bytes
const TUS = { "Tus-Resumable": "1.0.0" };
const MOST_TRIES = 60; // without a byte more: some seven minutes
const LONGEST_PAUSE = 8000; // ms

/** A new upload of so many bytes: its id and when it expires. */
export function begin(size, signal) {
  const headers = { ...TUS, "Upload-Length": String(size), "Idempotency-Key": randomKey() };
  return request("POST", "/v1/uploads", { headers, signal });
}

/**
 * Sends what the service has not of the upload; resolves when all has arrived. `onProgress({sent, total, perSecond,
 * left})` in bytes and seconds; `perSecond` is null while the connection is broken.
 */
export async function send(id, blob, onProgress, signal) {
  let offset = await kept(id, 0, signal);
  let failures = 0;
  let tell = teller(blob.size, offset, onProgress);
  while (offset < blob.size) {
    try {
      offset = await piece(id, blob, offset, tell, signal);
      failures = 0;
    } catch (error) {
      failures += 1;
      if (!passing(error) || failures > MOST_TRIES) throw error;
      onProgress({ sent: offset, total: blob.size, perSecond: null });
      await pause(Math.min(250 * 2 ** failures, LONGEST_PAUSE), signal);
      offset = await kept(id, offset, signal);
      tell = teller(blob.size, offset, onProgress);
    }
  }
}

/** Throws an upload away; it would go by itself in time. A piece that was just broken off may hold it for a moment. */
export async function discard(id) {
  for (let tries = 0; tries < 20; tries += 1) {
    try {
      return await request("DELETE", `/v1/uploads/${id}`, { headers: TUS });
    } catch (error) {
      if (error.status !== 423) return null;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  return null;
}

const passing = ({ status, name }) => name !== "AbortError" && (status >= 500 || [0, 408, 409, 423].includes(status));

function teller(total, from, onProgress) {
  const started = performance.now();
  return (sent) => {
    const perSecond = (sent - from) / Math.max((performance.now() - started) / 1000, 0.001);
    onProgress({ sent, total, perSecond, left: (total - sent) / perSecond });
  };
}

/** How many bytes the service has; what was known before, when it does not answer. */
export async function kept(id, known, signal) {
  try {
    const response = await answer("HEAD", `/v1/uploads/${id}`, { headers: TUS, signal });
    return Number(response.headers.get("Upload-Offset"));
  } catch (error) {
    if (passing(error)) return known;
    throw error;
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), reject(stopped())), { once: true });
  });
}

const stopped = () => new DOMException("The upload was stopped.", "AbortError");

/** Sends the next piece; resolves to the offset after it. */
function piece(id, blob, offset, tell, signal) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return void reject(stopped());
    const asked = new XMLHttpRequest();
    const stop = () => asked.abort();
    asked.upload.onprogress = ({ loaded }) => tell(offset + loaded);
    asked.onload = () => {
      if (asked.status < 300) resolve(Number(asked.getResponseHeader("Upload-Offset")));
      else reject(failure(asked.status, asked.responseText));
    };
    asked.onerror = () => reject(new ApiError(
      0,
      { code: "unreachable", detail: "The connection broke.", hint: "Is `fovea up` still running? Send it again." },
    ));
    asked.onabort = () => reject(stopped());
    asked.onloadend = () => signal.removeEventListener("abort", stop);
    signal.addEventListener("abort", stop);
    asked.open("PATCH", `/v1/uploads/${id}`);
    const headers = { ...TUS, "Content-Type": "application/offset+octet-stream", "Upload-Offset": String(offset) };
    for (const [name, value] of Object.entries(headers)) asked.setRequestHeader(name, value);
    asked.send(blob.slice(offset, offset + PIECE));
  });
}

/** What was dropped: one zip, or the files of folders with their paths. */
export async function dropped(transfer) {
  const files = [...transfer.files];
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return files.map((file) => ({ path: file.name, file }));
  return (await Promise.all(entries.map(walk))).flat();
}

/** What a folder chooser gives. */
export const chosen = (files) => files.map((file) => ({ path: file.webkitRelativePath || file.name, file }));

async function walk(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ path: entry.fullPath.replace(/^\//, ""), file }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // at most 100 a time
    if (!some.length) return found;
    for (const one of some) found.push(...(await walk(one)));
  }
}
