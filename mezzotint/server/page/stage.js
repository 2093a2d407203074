// Stage: a page that runs, on the preview's origin. It can reach neither this page nor the server nor the network; it can be taken away.

import { html, useState, useEffect, useRef } from "./vendor/preact.js";
import { post } from "./api.js";

const KINDS = ["error", "warn", "log"];
const SILENT = 3, GIVE_UP = 15; // seconds without a sign of life: it is said; the frame goes
const MOST = 100; // lines of a page's console
const FLOOD = 2000; // messages in a second after which the frame goes

/** What a page may say, made harmless: it can send whatever it likes. */
function heard(data) {
  const said = data?.mezzotint;
  if (!said || !KINDS.includes(said.kind)) return null;
  const whole = (value) => (Number.isSafeInteger(value) && value > 0 ? value : 0);
  return { kind: said.kind, text: String(said.text).slice(0, 500), line: whole(said.line), column: whole(said.column) };
}

/** job: {number, html, devices} of the page to run, or null. A new page is drawn behind the old one until it has loaded. */
export function Stage({ job, shown, onLog, onStop }) {
  const [frames, setFrames] = useState([]);
  const [silent, setSilent] = useState(0);
  const [problem, setProblem] = useState("");
  const windows = useRef(new Map()), newest = useRef(null), life = useRef({ at: 0, count: 0, lines: 0 });
  const calls = useRef({});
  calls.current = { onLog, onStop, shown };

  useEffect(() => {
    setSilent(0);
    setProblem("");
    newest.current = null;
    if (!job) return setFrames([]);
    let left = false;
    post("preview", { html: job.html, devices: job.devices }).then(({ url }) => {
      if (left) return;
      life.current = { at: performance.now(), count: 0, lines: 0 };
      newest.current = { ...job, url }; // at once: a page may speak before its frame is seen to have been drawn
      setFrames((before) => [...before.slice(-1), newest.current]);
    }, (error) => setProblem(error.message));
    return () => { left = true; };
  }, [job?.number]);

  useEffect(() => {
    const listen = (event) => {
      const frame = newest.current, now = life.current;
      if (!frame || event.source !== windows.current.get(frame.number)?.contentWindow) return;
      now.at = performance.now();
      if (++now.count > FLOOD) return calls.current.onStop("The page was stopped: it sent messages without end.");
      const said = heard(event.data);
      if (said && now.lines++ < MOST) calls.current.onLog(said, frame);
    };
    addEventListener("message", listen);
    const timer = setInterval(() => {
      life.current.count = 0;
      if (!calls.current.shown || document.hidden || !newest.current) return void (life.current.at = performance.now());
      const seconds = Math.floor((performance.now() - life.current.at) / 1000);
      setSilent(seconds >= SILENT ? seconds : 0);
      if (seconds >= GIVE_UP) calls.current.onStop("The page was stopped: it did not answer, so it may loop for ever.");
    }, 1000);
    return () => (removeEventListener("message", listen), clearInterval(timer));
  }, []);

  const loaded = (number) => setFrames((before) => before.filter((frame) => frame.number >= number));
  return html`<div class="stage">${frames.map((frame, n) => html`<iframe class="frame ${n ? "coming" : ""}" key=${frame.number} title="The running page" src=${frame.url}
      ref=${(element) => (element ? windows.current.set(frame.number, element) : windows.current.delete(frame.number))}
      sandbox=${frame.devices ? "allow-scripts allow-same-origin" : "allow-scripts"} allow=${frame.devices ? "camera; microphone" : ""} referrerpolicy="no-referrer"
      onLoad=${() => loaded(frame.number)}></iframe>`)}
    ${!frames.length && html`<p class="empty note">${job ? "Opening…" : "Nothing runs."}</p>`}</div>
    ${silent > 0 && html`<p class="problem" role="alert">The page has not answered for ${silent} s; it may loop for ever. Stop takes it away.</p>`}
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}`;
}
