// What every page does: local times, buttons that call the API, and one place for messages.

const toast = document.getElementById("toast");

export function say(text) {
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { toast.hidden = true; }, 6000);
}

export async function call(method, path, body) {
  const options = { method, headers: { Accept: "application/json" } };
  if (body !== undefined) {
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

localTimes();
