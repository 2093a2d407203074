// Captions: what is said into the microphone, and its translation, while it is said. Sound goes to this page's own server.

import { html, useState, useRef, useEffect } from "./vendor/preact.js";
import { socket } from "./api.js";
import { Problem } from "./cells.js";

const RATE = 16000; // samples a second; the browser resamples
const KEPT = 20; // utterances on the page
const REFUSED = {
  NotAllowedError: "The browser may not use the microphone. Allow it for this page, and try again.",
  NotFoundError: "There is no microphone.",
};

/** A button, and captions below it. target: language of the translation. */
export function Microphone({ target, shown }) {
  const [state, setState] = useState("off"); // off, asking, on, ending
  const [lines, setLines] = useState([]);
  const [problem, setProblem] = useState("");
  const held = useRef({});

  const release = () => {
    const { stream, context } = held.current;
    stream?.getTracks().forEach((track) => track.stop());
    if (context && context.state !== "closed") context.close();
    held.current.stream = held.current.context = null;
  };
  const off = (why = "") => {
    release();
    const line = held.current.socket;
    held.current.socket = null;
    line?.close(1000);
    setState("off");
    if (why) setProblem(why);
  };
  const take = (event) => {
    const told = JSON.parse(event.data);
    if (told.error) return off(told.error.message);
    if (told.object === "transcription.end") return off();
    setLines((before) => [...before.filter((one) => one.key !== told.utterance), { key: told.utterance, ...told }]
      .filter((one) => one.text || !one.final).slice(-KEPT));
  };
  const listen = async () => {
    setProblem("");
    setState("asking");
    try {
      const stream = (held.current.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } }));
      const context = (held.current.context = new AudioContext({ sampleRate: RATE }));
      await context.audioWorklet.addModule(new URL("./microphone-worklet.js", import.meta.url).href);
      const node = new AudioWorkletNode(context, "samples", { numberOfOutputs: 0 });
      const line = (held.current.socket = socket("/v1/audio/live"));
      line.onopen = () => {
        const told = { rate: context.sampleRate, channels: 1 };
        if (target.trim()) told.translate_to = target.trim();
        line.send(JSON.stringify(told));
        node.port.onmessage = (event) => line.readyState === WebSocket.OPEN && line.send(event.data);
        context.createMediaStreamSource(stream).connect(node);
        setLines([]);
        setState("on");
      };
      line.onmessage = take;
      line.onclose = (event) => {
        if (held.current.socket === line) off(event.reason ? `The line was closed: ${event.reason}.` : "The server hears no sound now. Is transcription installed there?");
      };
    } catch (error) {
      off(REFUSED[error.name] || `The microphone cannot be used: ${error.message}`);
    }
  };
  const end = () => {
    release();
    setState("ending");
    held.current.socket?.send(JSON.stringify({ end: true }));
  };
  useEffect(() => () => off(), []);
  useEffect(() => void (!shown && state === "on" && end()), [shown]);

  return html`<section class="card stack" aria-label="Captions" aria-busy=${state === "asking" || state === "ending" ? "true" : "false"}>
    <div class="row">
      ${state === "on" ? html`<button type="button" class="stop" onClick=${end}>Stop the microphone</button>`
        : html`<button type="button" disabled=${state !== "off"} onClick=${listen}>Speak into the microphone</button>`}
      <span class="note" role="status">${{ off: "", asking: "Asking…", on: "Listening. English, on this server alone.", ending: "Hearing the rest…" }[state]}</span>
    </div>
    <${Problem} text=${problem} />
    ${lines.map((one) => html`<div key=${one.key} data-testid="utterance" data-final=${one.final ? "yes" : "no"}>
      <p class="captions" lang="en"><span class=${one.final ? "said" : "open"} data-testid="heard">${one.text}</span></p>
      ${one.translation && html`<p class="captions" data-testid="translated"><span class="said">${one.translation.committed}</span><span class="open">${one.translation.draft}</span></p>`}
    </div>`)}
  </section>`;
}
