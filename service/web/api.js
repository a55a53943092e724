// The REST API. Every answer that is not 2xx becomes an ApiError with the problem's detail and hint.

export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `the service answered ${status}`);
    this.status = status;
    this.code = problem.code || "unknown";
    this.hint = problem.hint;
    this.param = problem.param;
    this.requestId = problem.request_id;
  }
}

export const path = (...parts) => `/v1/${parts.map((part) => encodeURIComponent(part)).join("/")}`;

export function get(where, params = {}, options = {}) {
  const given = Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const query = new URLSearchParams(given);
  return request("GET", query.size ? `${where}?${query}` : where, options);
}

export const remove = (where) => request("DELETE", where);

/** A POST that creates can be repeated safely: the service knows its key. */
export function post(where, body, options = {}) {
  const headers = { "Idempotency-Key": randomKey(), ...options.headers };
  if (body instanceof FormData || body instanceof Blob || body === undefined) return request(
    "POST",
    where,
    { ...options, headers, body },
  );
  return request(
    "POST",
    where,
    { ...options, headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify(body) },
  );
}

export async function text(where) {
  return (await answer("GET", where, {})).text();
}

/** Every row of a list, page after page, up to a limit that keeps the page light. */
export async function rows(where, params = {}, { signal, most = 2000 } = {}) {
  const found = [];
  let after;
  do {
    const page = await get(where, { limit: 200, ...params, after }, { signal });
    found.push(...page.data);
    after = page.has_more ? page.next : undefined;
  } while (after !== undefined && found.length < most);
  return found;
}

export async function request(method, where, options) {
  const response = await answer(method, where, options);
  return response.status === 204 ? null : response.json();
}

export async function answer(method, where, options) {
  let response;
  try {
    response = await fetch(where, { method, credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(
      0,
      {
        code: "unreachable",
        detail: "The service does not answer.",
        hint: "Is `fovea up` still running? The page tries again when you do.",
      },
    );
  }
  if (!response.ok) throw await failure(response.status, await response.text());
  return response;
}

export function failure(status, body) {
  let problem = {};
  try {
    problem = JSON.parse(body);
  } catch {
    problem = { detail: `The service answered ${status} without a reason.` };
  }
  if (status === 401 && problem.code === "unauthorized") window.dispatchEvent(new Event("fovea:signed-out"));
  return new ApiError(status, problem);
}

/** 128 random bits; `crypto.randomUUID` would need https, which a machine on a local network seldom has. */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
