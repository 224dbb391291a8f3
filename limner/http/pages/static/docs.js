// The reference: finding an operation, opening the one that the address names, and trying one.

import { csrfToken, element } from "/static/page.js";

// What the answer says about itself; the rest is the same for every answer.
const TOLD = new Set([
  "content-type", "etag", "idempotency-replayed", "link", "location", "preference-applied",
  "ratelimit", "retry-after", "x-request-id",
]);

const finder = document.getElementById("finder");
const found = document.getElementById("found");
const operations = [...document.querySelectorAll(".op")];

function find() {
  const words = finder.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const one of operations) {
    const text = one.querySelector("summary").textContent.toLowerCase();
    one.hidden = !words.every((word) => text.includes(word));
    if (!one.hidden) count += 1;
  }
  for (const group of document.querySelectorAll(".group")) {
    group.hidden = !group.querySelector(".op:not([hidden])");
  }
  found.textContent = words.length ? `${count} of ${operations.length} operations` : "";
}

function openNamed() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named?.matches(".op")) named.open = true;
  named?.scrollIntoView();
}

function input(operation, row, place) {
  const label = element("label", `${row.dataset.name} (${row.dataset.in})`);
  const field = element("input");
  field.id = label.htmlFor = `${operation.id}-${row.dataset.in}-${row.dataset.name}`;
  field.dataset.name = row.dataset.name;
  field.dataset.in = row.dataset.in;
  field.autocomplete = "off";
  field.spellcheck = false;
  field.placeholder = row.dataset.example;
  field.required = row.dataset.in === "path";
  place.append(label, field);
}

function form(operation, place) {
  const made = element("form");
  made.append(element("h3", "Try it"));
  for (const row of operation.querySelectorAll("tr[data-in]")) {
    if (row.dataset.in !== "body") input(operation, row, made);
  }
  if (place.dataset.body) {
    const label = element("label", "body");
    const body = element("textarea", place.dataset.body);
    body.id = label.htmlFor = `${operation.id}-body`;
    body.spellcheck = false;
    made.append(label, body);
  }
  const send = element("button", `Send ${operation.dataset.method}`, "go");
  const result = element("pre", "", "sample");
  result.hidden = true;
  result.tabIndex = 0;
  result.setAttribute("aria-live", "polite");
  made.append(send, result);
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    send.disabled = true;
    result.hidden = false;
    try {
      result.textContent = await tried(operation, made);
    } catch (error) {
      result.textContent = `No answer: ${error.message}`;
    } finally {
      send.disabled = false;
    }
  });
  place.append(made);
  place.hidden = false;
}

async function tried(operation, made) {
  const { method } = operation.dataset;
  let path = operation.dataset.path;
  const query = new URLSearchParams();
  const headers = { Accept: "application/json" };
  const bearer = document.getElementById("bearer").value.trim();
  if (bearer) headers.Authorization = `Bearer ${bearer}`;
  else if (method !== "GET") headers["X-CSRF-Token"] = csrfToken();
  for (const field of made.querySelectorAll("input[data-in]")) {
    const { name } = field.dataset;
    if (field.dataset.in === "path") path = path.replace(`{${name}}`, encodeURIComponent(field.value));
    else if (field.value && field.dataset.in === "query") query.set(name, field.value);
    else if (field.value) headers[name] = field.value;
  }
  const options = { method, headers, credentials: bearer ? "omit" : "same-origin" };
  const body = made.querySelector("textarea");
  if (body) {
    headers["Content-Type"] = "application/json";
    options.body = body.value;
  }
  const answer = await fetch(query.size ? `${path}?${query}` : path, options);
  const head = [...answer.headers]
    .filter(([name]) => TOLD.has(name))
    .map(([name, value]) => `${name}: ${value}`)
    .join("\n");
  return `${answer.status} ${answer.statusText}\n${head}\n\n${shown(await answer.text())}`;
}

function shown(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

document.querySelector(".finder").hidden = false;
document.querySelector(".finder").addEventListener("submit", (event) => event.preventDefault());
finder.addEventListener("input", find);
for (const operation of operations) {
  operation.addEventListener("toggle", () => {
    const place = operation.querySelector(".try");
    if (operation.open && place?.hidden) form(operation, place);
  });
}
addEventListener("hashchange", openNamed);
if (location.hash) openNamed();
