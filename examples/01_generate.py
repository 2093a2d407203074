"""Generate text, watch it settle, and count what it cost."""

import mezzotint as mz


def main() -> None:
    engine = mz.Engine(mz.load("default"))
    request = mz.Request("Name three colours.", max_tokens=12, seed=0)
    for event in engine.stream(request):
        if isinstance(event, mz.Text):
            print(event, end="", flush=True)
    trace = engine.generate(request)[0].trace
    print(f"\n{trace.num_tokens} tokens in {trace.num_calls} calls, {trace.tokens_per_call:.2f} tokens a call")


if __name__ == "__main__":
    main()
