// What every page does: local times, buttons that call the API, and one place for messages.

const toast = document.getElementById("toast");

export function say(text) {
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { toast.hidden = true; }, 6000);
}

export function csrfToken() {
  return document.querySelector('meta[name="csrf-token"]')?.content || "";
}

// Sends a file or other Blob as it is, and any other body as JSON.
export async function call(method, path, body) {
  const options = { method, headers: { Accept: "application/json" } };
  if (method !== "GET") options.headers["X-CSRF-Token"] = csrfToken();
  if (body instanceof Blob) {
    options.headers["Content-Type"] = body.type || "application/octet-stream";
    options.body = body;
  } else if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options);
  const text = await answer.text();
  const content = text ? JSON.parse(text) : null;
  if (!answer.ok) {
    const faults = (content.errors || []).map((one) => `${one.pointer.slice(1)} ${one.detail}`);
    throw new Error([content.detail, ...faults].join(": "));
  }
  return content;
}

export function localTimes(root = document) {
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  for (const time of root.querySelectorAll("time[datetime]")) {
    time.textContent = format.format(new Date(time.dateTime));
  }
}

export function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function timeOf(at) {
  const made = element("time");
  made.dateTime = at;
  return made;
}

export async function act(button, work) {
  button.disabled = true;
  try {
    await work();
  } catch (error) {
    say(error.message);
  } finally {
    button.disabled = false;
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-post], button[data-delete]");
  if (!button || (button.dataset.ask && !confirm(button.dataset.ask))) return;
  const [method, path] = button.dataset.post
    ? ["POST", button.dataset.post]
    : ["DELETE", button.dataset.delete];
  act(button, async () => {
    await call(method, path);
    if (button.dataset.then) location.assign(button.dataset.then);
    else location.reload();
  });
});

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submits]")) event.target.form.submit();
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.dataset.ask && !confirm(form.dataset.ask)) {
    event.preventDefault();
    return;
  }
  const button = event.submitter;
  if (!button || !button.dataset.busy || event.defaultPrevented) return;
  // Once the browser has read the form: a disabled button would not be part of it.
  setTimeout(() => busy(button, button.dataset.busy), 0);
});

function busy(button, text) {
  button.dataset.label = button.innerHTML;
  button.textContent = text;
  button.setAttribute("aria-busy", "true");
  button.disabled = true;
}

// Who comes back to a page finds its buttons as they were.
window.addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  for (const button of document.querySelectorAll('button[aria-busy="true"]')) {
    button.innerHTML = button.dataset.label;
    button.removeAttribute("aria-busy");
    button.disabled = false;
  }
});

function showPassword(button) {
  const input = document.getElementById(button.dataset.shows);
  const shows = input.type === "password";
  input.type = shows ? "text" : "password";
  button.firstChild.data = shows ? "Hide" : "Show";
}

async function copy(button) {
  const source = document.getElementById(button.dataset.copies);
  const lines = source.children.length ? [...source.children] : [source];
  await navigator.clipboard.writeText(lines.map((line) => line.textContent.trim()).join("\n"));
  say("Copied");
}

function improve() {
  for (const button of document.querySelectorAll("button[data-shows]")) {
    button.hidden = false;
    button.addEventListener("click", () => showPassword(button));
    // A password is never sent from a field that a browser would remember as plain text.
    button.form?.addEventListener("submit", () => {
      document.getElementById(button.dataset.shows).type = "password";
    });
  }
  if (navigator.clipboard) {
    for (const button of document.querySelectorAll("button[data-copies]")) {
      button.hidden = false;
      button.addEventListener("click", () => act(button, () => copy(button)));
    }
  }
  document.querySelector("[data-focus]")?.focus();
}

localTimes();
improve();
