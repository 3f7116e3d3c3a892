// A program in JavaScript against the emulator: node examples/emulator.mjs
// It starts the emulator, submits a photograph, polls, saves rocket.mp4, and injects a fault.
import { spawn } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const python = process.env.PYTHON ?? "python3";
const server = spawn(python, ["-m", "modelslab_async.emulator", "--port", "0", "--speed", "40"], {
  stdio: ["ignore", "pipe", "inherit"],
});
const [line] = await once(createInterface(server.stdout), "line");
const { url } = JSON.parse(line);
const key = "any";

const call = async (path, body) => {
  const response = await fetch(url + path, { method: "POST", body: JSON.stringify(body) });
  return { http: response.status, ...(await response.json()) };
};
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

try {
  const picture = await readFile(fileURLToPath(new URL("rocket.jpg", import.meta.url)));
  const request = { key, prompt: "the rocket takes off", init_image: picture.toString("base64"), base64: true };
  const job = await call("/api/v6/video/img2video_ultra", request);
  console.log("job", job.id, job.status);
  let end = job;
  while (end.status === "processing") {
    await sleep(0.2);
    end = await call(`/api/v6/video/fetch/${job.id}`, { key });
  }
  let file = await fetch(end.output[0]);
  while (file.status !== 200) {  // a link may return 404 for some seconds after success
    await sleep(0.2);
    file = await fetch(end.output[0]);
  }
  await writeFile("rocket.mp4", Buffer.from(await file.arrayBuffer()));
  console.log("saved rocket.mp4");

  // A track_id of this form injects a fault into its job only.
  const refused = await call("/api/v6/video/img2video_ultra", { ...request, track_id: "fault:rate_limit:1" });
  console.log("fault:", refused.http, refused.message);
  const ledger = await (await fetch(`${url}/emulator/ledger`)).json();
  console.log("charged: $" + ledger.total_usd);
} finally {
  server.kill();
}
