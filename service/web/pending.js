// What the browser remembers of uploads that have not ended, so that a reload costs nothing that was acknowledged: where
// each is at the service, what was sent, and the bytes themselves where the browser keeps them. IndexedDB, for it holds
// large Blobs and works without https. A browser that refuses loses the memory, not the upload.

import { crc32 } from "./zip.js";

const FORGOTTEN_AFTER = 7 * 86400e3; // ms without news; the service forgets then too
const MOST_BYTES = 2 ** 30; // of one archive that are kept here; a larger one is asked for again
const ELSEWHERE = 15e3; // ms: news younger than this are of another tab that is still sending
const ENDS = 2 ** 20; // bytes at the beginning and at the end that tell an archive from another

const tab = (() => {
  try {
    return (sessionStorage.tab ??= Math.random().toString(36).slice(2)); // survives a reload, and is no other tab's
  } catch {
    return "";
  }
})();

let opened = null;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const asked = indexedDB.open("fovea", 1);
    asked.onupgradeneeded = () => {
      asked.result.createObjectStore("uploads", { keyPath: "id" });
      asked.result.createObjectStore("bytes");
    };
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = asked.onblocked = () => reject(asked.error);
  });
  return opened;
}

/** Runs `work(stores)` in one transaction; resolves to what its request found, or null where nothing can be kept. */
async function inside(mode, work) {
  try {
    const transaction = (await database()).transaction(["uploads", "bytes"], mode);
    const request = work(transaction.objectStore("uploads"), transaction.objectStore("bytes"));
    return await new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(request?.result ?? null);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  } catch {
    return null;
  }
}

/** Remembers the entry, {id, name, size, print, …}, as of now. */
export const remember = (entry) =>
  inside("readwrite", (uploads) => uploads.put({ ...entry, tab, touched: Date.now() }));

export const keepBytes = (id, blob) =>
  blob.size <= MOST_BYTES ? inside("readwrite", (_, bytes) => bytes.put(blob, id)) : null;

export const bytesOf = (id) => inside("readonly", (_, bytes) => bytes.get(id));

export const forget = (id) =>
  inside("readwrite", (uploads, bytes) => (uploads.delete(id), bytes.delete(id)));

export const forgetAll = () => inside("readwrite", (uploads, bytes) => (uploads.clear(), bytes.clear()));

/** The entries that nobody is sending, as far as this browser knows; those too old are forgotten. */
export async function interrupted() {
  const known = (await inside("readonly", (uploads) => uploads.getAll())) || [];
  const old = (entry) => Date.now() - entry.touched > FORGOTTEN_AFTER;
  await Promise.all(known.filter(old).map((entry) => forget(entry.id)));
  const free = (entry) => entry.tab === tab || Date.now() - entry.touched > ELSEWHERE;
  return known.filter((entry) => !old(entry) && free(entry));
}

/** Every entry, whoever sends it. */
export const all = async () => (await inside("readonly", (uploads) => uploads.getAll())) || [];

/** Tells an archive from another: CRC-32 of its ends. That of a zip lists the names and checksums of its files. */
export async function fingerprint(blob) {
  const read = async (part) => new Uint8Array(await part.arrayBuffer());
  const head = crc32(await read(blob.slice(0, ENDS)));
  return crc32(await read(blob.slice(Math.max(blob.size - ENDS, 0))), head).toString(16);
}
