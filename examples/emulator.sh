#!/bin/sh
# Use the emulator with curl: sh examples/emulator.sh URL, the address of `python -m modelslab_async.emulator`.
set -eu
url=${1:-http://127.0.0.1:8787}
post() { curl -sS -X POST "$url$1" -d "$2"; }

curl -sS "$url/emulator/health"; echo
# Each test has a separate key, here with a wallet for two jobs.
post /emulator/accounts '{"key": "my-test", "wallet": "0.40"}'; echo
# The first poll fails with a gateway's error page.
post /emulator/faults '{"fault": "html_502", "on": "fetch", "times": 1}'; echo

picture="$url/emulator/no-such-picture"   # with --offline-pictures, a URL that cannot be fetched gives a placeholder
post /api/v6/video/img2video_ultra \
  "{\"key\": \"my-test\", \"prompt\": \"zoom in\", \"init_image\": \"$picture\", \"track_id\": \"mine\"}" > /dev/null
id=$(curl -sS "$url/emulator/jobs?track_id=mine" | sed 's/.*"id": \([0-9]*\).*/\1/')

post "/api/v6/video/fetch/$id" '{"key": "my-test"}'; echo
post "/emulator/jobs/$id/finish" '{}' > /dev/null   # no test has to wait
post "/api/v6/video/fetch/$id" '{"key": "my-test"}'; echo
curl -sS "$url/emulator/ledger"; echo
