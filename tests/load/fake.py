"""A server of known delays, in a process of its own: `python fake.py '{"draft": 0.05, "text": 0.1, ...}'` prints its port.

draft, text: seconds after the request until the first of each; gap: between `pieces` pieces of text; end: after the last.
slow: what every second request takes longer before its text. GET /times: when each thing was done, by this server's clock.
"""

import asyncio
import json
import sys
import time

PLAN = {"draft": None, "text": 0.1, "gap": 0.05, "pieces": 3, "end": 0.05, "tokens": 7, "slow": 0.0, "status": 200}
PLAN |= json.loads(sys.argv[1])
TIMES = []
NOW = [0, 0]  # requests in work, most at once


async def serve(reader, writer):
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(
                (int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length")), 0
            )
            body = json.loads(await reader.readexactly(length) or b"{}")
            if head.startswith(b"GET"):
                answer(writer, 200, {"times": TIMES, "most": NOW[1]})
            elif PLAN["status"] != 200:
                answer(writer, PLAN["status"], {"error": {"message": "no"}})
            else:
                await stream(writer, body)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def answer(writer, status, found):
    data = json.dumps(found).encode()
    writer.write(
        b"HTTP/1.1 %d x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (status, len(data), data)
    )


async def stream(writer, body):
    start, seen = time.perf_counter(), {"body": body, "texts": []}
    TIMES.append(seen)
    NOW[0] += 1
    NOW[1] = max(NOW)
    slow = PLAN["slow"] if len(TIMES) % 2 == 0 else 0.0
    seen["start"] = start
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")

    def say(chunk):
        line = f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n".encode()
        writer.write(b"%x\r\n%s\r\n" % (len(line), line))
        return time.perf_counter() - start

    async def until(seconds):
        await asyncio.sleep(max(0.0, start + seconds - time.perf_counter()))

    say({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    if PLAN["draft"] is not None:
        await until(PLAN["draft"])
        seen["draft"] = say({"choices": [{"delta": {}}], "diffusion": {"step": 0}})
    for number in range(PLAN["pieces"]):
        await until(slow + PLAN["text"] + number * PLAN["gap"])
        seen["texts"].append(say({"choices": [{"delta": {"content": "x"}, "text": "x"}]}))
    await until(slow + PLAN["text"] + (PLAN["pieces"] - 1) * PLAN["gap"] + PLAN["end"])
    say({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    if PLAN["tokens"] is not None:
        say({"choices": [], "usage": {"completion_tokens": PLAN["tokens"]}})
    seen["end"] = say("[DONE]")
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    NOW[0] -= 1


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
