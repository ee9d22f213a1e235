"""What the libraries that docs/receiving.md shows make of real calls: `calls.json` of a folder, a verdict for each."""

import json
import pathlib
import sys

from standardwebhooks import WebhookVerificationError

folder = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(folder))
import cloudevent  # noqa: E402
import verify  # noqa: E402

verdicts = []
for call in json.loads((folder / "calls.json").read_text()):
    headers, body = call["headers"], call["body"].encode()
    verdict = {"body": verify.event_of(headers, body)}
    try:
        verify.event_of(headers, body + b" ")
        verdict["forged"] = "taken"
    except WebhookVerificationError:
        verdict["forged"] = "refused"
    if call["format"].startswith("cloudevents"):
        verdict["event"] = cloudevent.event_of(headers, body)
    verdicts.append(verdict)
print(json.dumps(verdicts))
