// A picture from the camera. A phone has an application for that, which a file field opens; a computer shows its camera
// in a dialog, where the browser allows it (https or localhost).

import { h } from "./dom.js";
import { chooser, errorBox } from "./parts.js";

const PHONE = window.matchMedia("(pointer: coarse)");

/** A button; `onFiles` gets [the picture]. */
export function camera(onFiles) {
  const label = "Use the camera";
  const phone = PHONE.matches || !navigator.mediaDevices;
  if (phone) return chooser(label, { accept: "image/*", capture: "environment" }, onFiles);
  const open = async () => {
    const taken = await shot();
    if (taken) onFiles([taken]);
  };
  return h("button", { type: "button", onclick: open }, label);
}

/** Resolves to a JPEG file, or to null when the person closes the dialog. */
function shot() {
  return new Promise((resolve) => {
    const video = h("video.large", { autoplay: true, playsinline: true, "aria-label": "What the camera sees" });
    video.muted = true;
    const take = h(
      "button.primary",
      { type: "button", disabled: true, onclick: () => done(drawn(video)) },
      "Take the picture",
    );
    const close = h("button.quiet", { type: "button", onclick: () => dialog.close() }, "Close");
    let stream = null;
    let found = null;
    const dialog = h("dialog", { "aria-label": "Camera", onclose: end }, video, h("div.row", {}, take, close));
    const done = async (coming) => ((found = await coming), dialog.close());
    function end() {
      stream?.getTracks().forEach((track) => track.stop());
      dialog.remove();
      resolve(found);
    }
    document.body.append(dialog);
    dialog.showModal();
    navigator.mediaDevices
      .getUserMedia({ video: { facingMode: "environment" } })
      .then((opened) => {
        if (!dialog.open) return opened.getTracks().forEach((track) => track.stop());
        stream = video.srcObject = opened;
        video.onloadeddata = () => (take.disabled = false);
      })
      .catch((error) => video.replaceWith(errorBox({
        message: `The camera cannot be used: ${error.message}.`,
        hint: "Allow it in the browser's settings for this page, or choose a picture instead.",
      })));
  });
}

async function drawn(video) {
  const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  return new File([blob], "camera.jpg", { type: "image/jpeg" });
}
