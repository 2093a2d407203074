// The knobs of decoding, each with plain help.

import { html } from "./vendor/preact.js";

export const DEFAULTS = { decode: "", quality: "", policy: "", temperature: 0, seed: "", max_tokens: 128 };

export function firstKnobs(info) {
  return { ...DEFAULTS, decode: info.leads ? "diffusion" : "verified", max_tokens: Math.min(info.leads ? 160 : 128, info.most) };
}

/** What of the knobs goes into a request. */
export function request(knobs) {
  const body = { decode: knobs.decode, temperature: Number(knobs.temperature) || 0, max_tokens: Number(knobs.max_tokens) || 1 };
  if (knobs.seed !== "") body.seed = Number(knobs.seed);
  if (knobs.decode === "diffusion" && knobs.policy) body.policy = knobs.policy;
  else if (knobs.decode === "diffusion" && knobs.quality) body.quality = knobs.quality;
  return body;
}

/** What of them a remote model is told: the rest is ours alone. */
export const asked = (remote, knobs, messages) => ({ remote, messages, temperature: Number(knobs.temperature) || 0, max_tokens: Number(knobs.max_tokens) || 1 });

/** Which model answers: the one that serves the page, or one elsewhere that the server was started with. */
export function Models({ info, value, set, id, disabled }) {
  if (!info.remotes.length) return null;
  return html`<${Knob} id=${id} label="Model" help=${value ? "On another server, through this one. Its steps are not ours to show; what you write goes there." : "The model that serves this page."}>
    <select id=${id} value=${value} disabled=${disabled} aria-describedby="${id}-help" onInput=${(event) => set(event.target.value)}><option value="">${info.model}</option>${info.remotes.map((name) => html`<option>${name}</option>`)}</select><//>`;
}

const DECODE = {
  diffusion: "The whole canvas at once, out of noise.",
  verified: "Drafts checked by the model's left-to-right pass: the same text as ar.",
  ar: "Left to right, one token a call.",
};

export function Knob({ id, label, help, children }) {
  return html`<div class="knob"><label for=${id}>${label}</label>${children}<p class="help" id="${id}-help">${help}</p></div>`;
}

export function Knobs({ info, knobs, set, prefix = "k", without = [], remote = "" }) {
  const change = (name) => (event) => set({ ...knobs, [name]: event.target.value });
  const field = (name) => ({ id: `${prefix}-${name}`, value: knobs[name], onInput: change(name), "aria-describedby": `${prefix}-${name}-help` });
  const off = knobs.decode !== "diffusion";
  return html`<div class="knobs">
    ${!remote && !without.includes("decode") && html`<${Knob} id="${prefix}-decode" label="Decoding" help=${DECODE[knobs.decode]}>
      <select ...${field("decode")}>${Object.keys(DECODE).map((name) => html`<option value=${name}>${name}</option>`)}</select><//>`}
    ${!remote && html`<${Knob} id="${prefix}-quality" label="Preset" help="How soon a token counts as decided. Fast takes fewer calls and slips more.">
      <select ...${field("quality")} disabled=${off}><option value="">as the model's own</option>${info.quality.map((name) => html`<option>${name}</option>`)}</select><//>
    <${Knob} id="${prefix}-policy" label="Policy" help=${info.policies[knobs.policy] ? `Accepts: ${info.policies[knobs.policy]}.` : "Which tokens are accepted at each step. Wins over the preset."}>
      <select ...${field("policy")} disabled=${off}><option value="">by preset</option>${Object.keys(info.policies).map((name) => html`<option>${name}</option>`)}</select><//>`}
    <${Knob} id="${prefix}-temperature" label="Temperature" help="0 takes the likeliest token; more is more varied and less sure.">
      <input type="number" min="0" max="2" step="0.1" ...${field("temperature")} /><//>
    ${!remote && html`<${Knob} id="${prefix}-seed" label="Seed" help="The same seed gives the same text. Empty: a new one each time.">
      <input type="number" step="1" placeholder="any" ...${field("seed")} /><//>`}
    <${Knob} id="${prefix}-max_tokens" label="Longest answer" help="In tokens; about three quarters of a word each.">
      <input type="number" min="1" max=${info.most} ...${field("max_tokens")} /><//>
  </div>`;
}
