// A ZIP of files, made in the browser: stored and not deflated, since photographs hardly shrink (APPNOTE.TXT 6.3.10).
const table = Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let bit = 0; bit < 8; bit++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c >>> 0;
});

function checksum(bytes) {
  let c = 0xffffffff;
  for (const byte of bytes) c = table[(c ^ byte) & 255] ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

// Little-endian numbers: [bytes, value] each.
function record(fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [size]) => sum + size, 0)));
  let at = 0;
  for (const [size, value] of fields) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return new Uint8Array(view.buffer);
}

const utf8Name = 0x800, midnight = 0x21 /* 1 January 1980 */;

// `files` holds [name, Blob]; the parts stay on the disk until they are sent, all but one at a time.
export async function makeZip(files) {
  const parts = [], directory = [];
  let offset = 0;
  for (const [name, blob] of files) {
    const encoded = new TextEncoder().encode(name), data = new Uint8Array(await blob.arrayBuffer());
    const common = [[2, 20], [2, utf8Name], [2, 0], [2, 0], [2, midnight], [4, checksum(data)], [4, data.length], [4, data.length], [2, encoded.length], [2, 0]];
    const head = record([[4, 0x04034b50], ...common]);
    parts.push(head, encoded, blob);
    directory.push(record([[4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]]), encoded);
    offset += head.length + encoded.length + data.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = record([[4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, size], [4, offset], [2, 0]]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}
