// Files as a zip, in the browser: stored, not compressed, for pictures are compressed already. The zip is a Blob made
// of the files themselves, so a folder of gigabytes is never in memory; each file is read once for its checksum.

const MOST_FILES = 65535;
const MOST_BYTES = 0xffffffff;
const encoder = new TextEncoder();

const TABLE = Uint32Array.from({ length: 256 }, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value >>> 0;
});

/** CRC-32 of ISO 3309, as zip uses it. `state` continues an earlier piece. */
export function crc32(data, state = 0) {
  let value = ~state >>> 0;
  for (let index = 0; index < data.length; index += 1) value = TABLE[(value ^ data[index]) & 0xff] ^ (value >>> 8);
  return ~value >>> 0;
}

/** entries: [{path, file}]; `onFile(done, total)` as it reads. Throws an Error with a hint when they are too many. */
export async function zip(entries, onFile = () => {}, signal) {
  check(entries);
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const [index, { path, file }] of entries.entries()) {
    signal?.throwIfAborted();
    const name = encoder.encode(path);
    const checksum = await checksumOf(file);
    const head = header(name, checksum, file.size);
    directory.push(central(name, checksum, file.size, offset));
    parts.push(head, name, file);
    offset += head.length + name.length + file.size;
    onFile(index + 1, entries.length);
  }
  const size = directory.reduce((sum, entry) => sum + entry.length, 0);
  return new Blob([...parts, ...directory, end(directory.length, size, offset)], { type: "application/zip" });
}

function check(entries) {
  const total = entries.reduce((sum, { file }) => sum + file.size, 0);
  if (entries.length <= MOST_FILES && total < MOST_BYTES * 0.95) return;
  const error = new Error("This folder is too large to be packed by the browser (65,535 files or 4 GB).");
  error.hint = "Make a zip of it and choose that, or use `fovea datasets push ./folder --name …`.";
  throw error;
}

async function checksumOf(file) {
  let state = 0;
  const reader = file.stream().getReader();
  for (let step = await reader.read(); !step.done; step = await reader.read()) state = crc32(step.value, state);
  return state;
}

// the records of APPNOTE.TXT 4.3; names are UTF-8 (flag 0x800), the method is 0 (stored), the date 1980-01-01

function header(name, checksum, size) {
  return record(
    30,
    [
      [4, 0x04034b50],
      [2, 20],
      [2, 0x800],
      [2, 0],
      [2, 0],
      [2, 0x21],
      [4, checksum],
      [4, size],
      [4, size],
      [2, name.length],
      [2, 0],
    ],
  );
}

function central(name, checksum, size, offset) {
  const fixed = record(46, [
    [4, 0x02014b50], [2, 20], [2, 20], [2, 0x800], [2, 0], [2, 0], [2, 0x21], [4, checksum], [4, size], [4, size],
    [2, name.length], [2, 0], [2, 0], [2, 0], [2, 0], [4, 0], [4, offset],
  ]);
  const whole = new Uint8Array(fixed.length + name.length);
  whole.set(fixed);
  whole.set(name, fixed.length);
  return whole;
}

function end(count, size, offset) {
  return record(22, [[4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, size], [4, offset], [2, 0]]);
}

function record(length, fields) {
  const view = new DataView(new ArrayBuffer(length));
  let at = 0;
  for (const [width, value] of fields) {
    if (width === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += width;
  }
  return new Uint8Array(view.buffer);
}
