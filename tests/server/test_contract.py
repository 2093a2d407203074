"""The contract: what the OpenAPI file says, and bodies that hypothesis makes of it and of nothing at all. S3, S28."""

import json
import time
from collections import Counter

import httpx
import live
import pytest

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed: pip install 'mezzotint[fuzz]'")
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402  # not before it is known to be installed
from hypothesis import strategies as st  # noqa: E402  # not before it is known to be installed

PATHS = [
    "/v1/chat/completions", "/v1/completions", "/v1/fim/completions", "/v1/edit/completions", "/v1/apply/completions",
    "/v1/instant-edit", "/v1/infill", "/v1/embeddings", "/v1/responses", "/v1/decisions", "/tokenize", "/detokenize",
]  # fmt: skip
FIELDS = [
    "model", "prompt", "suffix", "messages", "max_tokens", "temperature", "n", "stop", "seed", "stream", "logprobs", "logit_bias",
    "document", "instruction", "locks", "input", "state", "questions", "tokens", "input_prefix", "input_suffix", "condition",
    "deadline_ms", "top_p", "decode", "policy", "response_format", "tools", "stream_options", "text",
]  # fmt: skip
numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 2**63, 1e308, 10**400])
leaves = (
    st.none() | st.booleans() | numbers | st.text(max_size=20) | st.sampled_from(["\ud800", "\0", "tiny", "ar", "Mia"])
)
values = st.recursive(
    leaves, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3), max_leaves=6
)
bodies = st.dictionaries(st.sampled_from(FIELDS), values, max_size=5)
ALLOWED = (200, 400, 401, 403, 404, 405, 408, 413, 421, 429, 504)
PHASES = [Phase.explicit, Phase.generate]  # a failure is shown as it was found
RARE = [
    HealthCheck.function_scoped_fixture,
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.filter_too_much,
]


def test_any_json_is_answered(base, full):
    """Made of the fields that the endpoints know, or of anything; two in three carry what their endpoint needs."""
    slow = []
    needed = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "Mia"}], "max_tokens": 1},
        "/v1/completions": {"prompt": "Mia", "max_tokens": 1}, "/v1/fim/completions": {"prompt": "Mia", "max_tokens": 1},
        "/v1/instant-edit": {"document": "Mia"}, "/v1/infill": {"input_prefix": "Mia", "input_suffix": "", "n_predict": 1},
        "/v1/embeddings": {"input": "Mia"}, "/v1/responses": {"input": "Mia", "max_output_tokens": 1},
        "/tokenize": {"content": "Mia"}, "/detokenize": {"tokens": [5]},
    }  # fmt: skip
    with httpx.Client(base_url=base, timeout=60) as client:

        @settings(max_examples=10_000 if full else 40, deadline=None, suppress_health_check=RARE, database=None)
        @given(st.sampled_from(PATHS), bodies | values, st.integers(0, 2))
        def ask(path, body, whole):
            if whole and isinstance(body, dict):
                body = {
                    **body,
                    **{key: value for key, value in needed.get(path, {}).items() if whole == 2 or key not in body},
                }
            content = json.dumps(body).encode()
            began = time.monotonic()
            answer = client.post(path, content=content, headers={"content-type": "application/json"})
            assert answer.status_code in (200, 400, 404, 504), (path, body, answer.text)
            answer.content.decode()
            if answer.status_code == 400:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
                slow.append(time.monotonic() - began)

        ask()
        assert client.get("/health").status_code == 200
    slow.sort()
    print(f"\n{len(slow)} refused, P99 {slow[int(len(slow) * 0.99)] * 1000:.0f} ms, slowest {slow[-1] * 1000:.0f} ms")


def test_the_openapi_file_is_kept_to(engine, full):
    """Every status is documented, none is 500, answers are of the type that the file says. Answers are short: a long one
    takes its time, and tells nothing more."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: bash scripts/clients.sh")
    from schemathesis.specs.openapi import checks as known

    checks = [
        schemathesis.checks.not_a_server_error, known.status_code_conformance, known.content_type_conformance,
        known.response_schema_conformance,
    ]  # fmt: skip
    requests = pytest.importorskip("requests", reason="requests is not installed: bash scripts/clients.sh")
    with live.running(engine, max_tokens=2) as (base, _):
        schema = schemathesis.openapi.from_url(f"{base}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        varied = [o for o in operations if o.body or o.query or o.path_parameters]  # the others have one case each
        each = -(-(20_000 if full else 60) // len(varied))
        asked = Counter()
        with requests.Session() as session:
            for operation in operations:

                @settings(
                    max_examples=each,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    database=None,
                    phases=PHASES,
                )
                @given(operation.as_strategy())
                def ask(case):
                    answer = case.call(base_url=base, timeout=60, session=session)
                    assert answer.status_code in ALLOWED, (case, answer.text)
                    case.validate_response(answer, checks=checks)
                    asked[answer.status_code] += 1

                ask()
                print(f"\n{operation.label}: {asked.total()} cases so far, {dict(asked)}")
        assert httpx.get(f"{base}/health").status_code == 200
    print(f"\n{asked.total()} cases over {len(operations)} operations: {dict(asked)}")
