"""Calls the server with OpenAI's client. Arguments: the server's address; in the folder lies `photo.png`."""

import base64
import sys

import openai

client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0)
photo = base64.b64encode(open("photo.png", "rb").read()).decode()


def embed(**more):
    return client.embeddings.create(**{"model": "tiny", "input": photo, **more})


def error(kind, **more):
    try:
        embed(**more)
    except kind as raised:
        return raised
    raise AssertionError(f"no {kind.__name__}")


# Without a format the client asks for base64 and decodes it itself.
default = embed()
assert default.model == "tiny" and len(default.data) == 1, default
assert default.usage.total_tokens == 1, default.usage
numbers = default.data[0].embedding
assert len(numbers) == 8 and all(isinstance(n, float) for n in numbers), numbers

floats = embed(encoding_format="float", user="somebody").data[0].embedding
assert all(abs(a - b) < 1e-6 for a, b in zip(floats, numbers, strict=True)), (floats, numbers)
coded = embed(encoding_format="base64").data[0].embedding
assert isinstance(coded, str) and len(base64.b64decode(coded)) == 32, coded

several = embed(input=[photo, f"data:image/png;base64,{photo}"], dimensions=8)
assert [d.index for d in several.data] == [0, 1]
assert several.data[0].embedding == several.data[1].embedding == numbers

missing = error(openai.NotFoundError, model="none")
assert missing.code == "model_not_found" and "there is no model `none`" in missing.message, missing
assert missing.body["hint"].startswith("this server has `tiny`"), missing.body
assert missing.request_id == missing.body["request_id"], (missing.request_id, missing.body)
short = error(openai.UnprocessableEntityError, dimensions=4)
assert short.code == "invalid_request" and "`dimensions` is 4" in short.message, short
assert error(openai.BadRequestError, input="a text").code == "bad_request"
assert error(openai.APIStatusError, input=[photo] * 4).status_code == 413

models = list(client.models.list())
assert [m.id for m in models] == ["tiny"], models
one = client.models.retrieve("tiny")
assert one.owned_by == "occlude" and one.dim == 8 and len(one.fingerprint) == 64, one
