// Starts the page: the code of a sign-in link, the session, then whatever view the address names.

import { ApiError, get, post, remove } from "./api.js";
import { h, show } from "./dom.js";
import { errorBox } from "./parts.js";
import { route } from "./router.js";

const VIEWS = {
  datasets: () => import("./views/datasets.js"),
  dataset: () => import("./views/dataset.js"),
  train: () => import("./views/train.js"),
  watch: () => import("./views/watch.js"),
  judge: () => import("./views/judge.js"),
  ask: () => import("./views/ask.js"),
  serve: () => import("./views/serve.js"),
};
const TABS = [
  ["datasets", "Datasets"],
  ["train", "Train"],
  ["watch", "Watch"],
  ["judge", "Judge"],
  ["ask", "Ask"],
  ["serve", "Serve"],
];

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const out = document.getElementById("sign-out");
let session = null;

show(nav, TABS.map(([name, title]) => h("a", { href: `#/${name}`, "data-view": name }, title)));
out.addEventListener("click", signOut);
window.addEventListener("hashchange", () => (codeInAddress() ? start() : session && open()));
window.addEventListener(
  "fovea:signed-out",
  () => session && signIn(new ApiError(
    401,
    { detail: "You were signed out.", hint: "Sign in again; nothing is lost." },
  )),
);
start();

async function start() {
  const code = codeInAddress();
  if (code) history.replaceState(null, "", "/#/datasets"); // before anything else can see or keep it
  try {
    session = code ? await post("/v1/session", { code }) : await get("/v1/session");
    open();
  } catch (error) {
    if (code && (await signedInAlready())) open();
    else signIn(error.code === "unauthorized" ? null : error);
  }
}

async function signedInAlready() {
  session = await get("/v1/session").catch(() => null);
  return session !== null;
}

function codeInAddress() {
  return location.hash.startsWith("#code=") ? location.hash.slice("#code=".length) : null;
}

function open() {
  nav.hidden = false;
  out.hidden = session.auth === "off";
  route(VIEWS, main, (name) => {
    for (const tab of nav.children) {
      const shown = name === "dataset" ? "datasets" : name;
      if (tab.dataset.view === shown) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
  });
}

async function signIn(error) {
  session = null;
  nav.hidden = out.hidden = true;
  const { signInForm } = await import("./views/signin.js");
  const welcome = (opened) => {
    session = opened;
    open();
  };
  show(main, signInForm(welcome), error && errorBox(error));
  document.title = "Sign in · Fovea";
}

async function signOut() {
  const { endAll } = await import("./uploads.js");
  await endAll();
  await remove("/v1/session").catch(() => null);
  signIn(null);
}
