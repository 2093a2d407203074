"""Serve the tiny model, and ask it with OpenAI's own client: a completion as a stream, a place filled in, an edit."""

import json
import subprocess
import sys

import httpx
import openai


def main() -> None:
    command = [sys.executable, "-m", "mezzotint", "serve", "--model", "tiny", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            ask(json.loads(server.stderr.readline())["url"])  # the first line of its log
        finally:
            server.terminate()


def ask(url: str) -> None:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=9)  # it answers 503 until the model is loaded
    told = {"model": "tiny", "prompt": "Mia has", "max_tokens": 24, "seed": 1}
    for chunk in client.completions.create(**told, stream=True, extra_body={"quality": "best"}):
        print(chunk.choices[0].text, end="", flush=True)
    filled = client.completions.create(model="tiny", prompt="Mia has ", suffix=" ball.", max_tokens=6, seed=1)
    print("\nMia has", filled.choices[0].text, "ball.")
    edit = httpx.post(f"{url}/instant-edit", json={"document": "The blue horses wait in seven garden."}, timeout=60)
    for hunk in edit.json()["hunks"]:
        print(hunk["before"], "->", hunk["after"], round(hunk["confidence"], 2))


if __name__ == "__main__":
    main()
