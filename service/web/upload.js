// Sends a file and tells how far it is; fetch cannot say that, XMLHttpRequest can. Also finds the files of a dropped
// folder.

import { ApiError, failure, randomKey } from "./api.js";

/** Resolves to the answer's JSON. `onProgress({sent, total, perSecond, left})` in bytes and seconds. */
export function send(where, blob, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const started = performance.now();
    request.upload.onprogress = ({ loaded }) => {
      const perSecond = loaded / Math.max((performance.now() - started) / 1000, 0.001);
      onProgress({ sent: loaded, total: blob.size, perSecond, left: (blob.size - loaded) / perSecond });
    };
    request.onload = () => {
      if (request.status < 300) resolve(JSON.parse(request.responseText));
      else reject(failure(request.status, request.responseText));
    };
    request.onerror = () => reject(new ApiError(
      0,
      {
        code: "unreachable",
        detail: "The connection broke during the upload.",
        hint: "Nothing was stored; send it again.",
      },
    ));
    request.onabort = () => reject(new DOMException("The upload was stopped.", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.open("POST", where);
    request.setRequestHeader("Content-Type", "application/zip");
    request.setRequestHeader("Idempotency-Key", randomKey());
    request.send(blob);
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
