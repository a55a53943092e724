// The bundle of a model version: made by an export job when there is none yet, then handed to the browser.

import { get, path, post } from "./api.js";

export async function download(ref) {
  await made(ref);
  const link = document.createElement("a");
  link.href = path("models", ref, "bundle");
  link.download = `${ref.replace(":", "-")}.zip`;
  link.click();
}

async function made(ref) {
  let job;
  try {
    job = await post("/v1/jobs", { type: "export", model: ref });
  } catch (error) {
    if (error.code === "bundle_exists") return;
    throw error;
  }
  while (!job.is_terminal) job = await get(path("jobs", job.id), { wait: 20 });
  if (job.status !== "succeeded") throw new Error(job.error?.message || `the export was ${job.status}`);
}
