// What the page asks of its server, and nobody else.

let key = sessionStorage.getItem("mezzotint-key") || "";

export function setKey(value) {
  key = value.trim();
  sessionStorage.setItem("mezzotint-key", key);
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function send(path, body, signal) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer. Is it still running?");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  let message = `The server answered ${answer.status}.`;
  try {
    message = (await answer.json()).error.message;
  } catch { /* no envelope */ }
  return new Refused(answer.status, message);
}

/** A WebSocket to this server. The key goes as a protocol, since a page can set no header of one. */
export function socket(path) {
  const protocols = ["mezzotint"];
  if (key) protocols.push(`key.${btoa(key).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`);
  return new WebSocket(new URL(path, location.href).href.replace(/^http/, "ws"), protocols);
}

export const get = async (path) => (await send(path)).json();
export const text = async (path) => (await send(path)).text();
export const post = async (path, body, signal) => (await send(path, body, signal)).json();

/** Events of an answer, one by one. Ends early when `signal` is aborted, which also ends the server's work. */
export async function* run(body, signal) {
  const answer = await send(body.remote ? "remote" : "run", body, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Refused(0, "The answer broke off: the server ended, or the line did.");
    rest += value;
    let end;
    while ((end = rest.indexOf("\n\n")) >= 0) {
      const data = rest.slice(6, end);
      rest = rest.slice(end + 2);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(500, event.error.message);
      yield event;
    }
  }
}
