// Requests without the token are refused; the others say who let them pass.

import log from "tamis:filter/log@0.1.0";
import request from "tamis:filter/request@0.1.0";

export const requestHead = {
  onRequestHead() {
    try {
      return judge();
    } catch (error) {
      // Whoever reads the log finds why it failed.
      log.write("error", `${error}\n${error.stack}`);
      throw error;
    }
  },
};

function judge() {
  const token = request.header("x-token");
  if (token === null || text(token) !== "sesame") {
    const headers = [{ name: "content-type", value: bytes("text/plain") }];
    return { tag: "reply", val: { status: 403, headers, body: bytes("a token, please\n") } };
  }
  request.setHeader("x-filter", bytes("@NAME@"));
  return { tag: "proceed" };
}

// QuickJS has no TextEncoder; these do for ASCII.
function bytes(string) {
  return Uint8Array.from(string, (character) => character.charCodeAt(0));
}

function text(value) {
  return String.fromCharCode(...value);
}
