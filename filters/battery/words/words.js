// What the battery does to bodies, for the battery in two languages.

export const transform = {
  swapped(piece) {
    return piece.map((byte) => (byte === 0x61 ? 0x62 : byte));
  },

  upper(body) {
    return body.map((byte) => (byte >= 0x61 && byte <= 0x7a ? byte - 0x20 : byte));
  },
};
