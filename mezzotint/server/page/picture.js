// A trace as an animated SVG: one group a step, each shown in its turn. No script, so it plays in any page.

const safe = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`).replace(/[\u0000-\u0008\u000b-\u001f]/g, " ");
const STYLE = { mask: 'fill="#8a7f70"', guess: 'fill="#5c5348" font-style="italic"', overwritten: 'fill="#8c3f14" font-weight="bold"', locked: 'fill="#1f1b16" text-decoration="underline"' };

export function animated(trace, width = 64, step = 0.18) {
  const rows = trace.frames.map((frame) => {
    const cells = [[trace.text.slice(0, frame.text), "committed"], ...frame.cells.map(([text, state]) => [state === "mask" ? "░░" : text, state])];
    const lines = [[]];
    let used = 0;
    for (const [text, state] of cells) {
      for (const part of text.split(/(\n|(?<= ))/)) {
        if (part === "\n" || used + part.length > width) (lines.push([]), (used = 0));
        if (part !== "\n" && part) (lines.at(-1).push([part, state]), (used += part.length));
      }
    }
    return lines;
  });
  const tall = Math.max(...rows.map((lines) => lines.length)), total = rows.length * step + 2;
  const groups = rows.map((lines, n) => {
    const from = ((n * step) / total).toFixed(4), to = n === rows.length - 1 ? 1 : (((n + 1) * step) / total).toFixed(4);
    const body = lines.map((line, y) => `<text x="16" y="${34 + 24 * y}" xml:space="preserve">${line.map(([t, s]) => `<tspan ${STYLE[s] || ""}>${safe(t)}</tspan>`).join("")}</text>`).join("");
    const times = n === 0 ? `values="1;0" keyTimes="0;${to}"` : `values="0;1;0" keyTimes="0;${from};${to}"`;
    return `<g opacity="0"><animate attributeName="opacity" calcMode="discrete" dur="${total}s" repeatCount="indefinite" ${times}/>${body}</g>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width * 9.7 + 32} ${tall * 24 + 28}" font-family="monospace" font-size="16" fill="#1f1b16"><rect width="100%" height="100%" fill="#faf7f1"/>${groups.join("")}</svg>\n`;
}
