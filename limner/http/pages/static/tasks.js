// The table follows what happens: it is read again every few seconds while the page is seen.

import { call, element, localTimes, timeOf } from "/static/page.js";

const EVERY_MS = 3000;
const table = document.getElementById("tasks");
const body = table.tBodies[0];
const none = document.getElementById("none");
let shown = "";

function row(task) {
  const made = element("tr");
  made.dataset.id = task.id;
  const state = element("td");
  state.append(element("span", task.state.replaceAll("_", " "), `state ${task.state}`));
  const wish = element("td", "", "wide");
  const comment = task.comment ? task.comment.text : "";
  const link = element("a", task.prompt || comment || "no wish found yet");
  link.href = `/tasks/${task.id}`;
  wish.append(link);
  const since = element("td");
  since.append(timeOf(task.created_at));
  made.append(state, wish, element("td", task.email, "address"), element("td", task.kind), since);
  return made;
}

async function refresh() {
  const filter = table.dataset.state ? `?state=${table.dataset.state}` : "";
  const page = await call("GET", `/api/tasks${filter}`);
  const now = JSON.stringify(page.data.map((task) => [task.id, task.state, task.prompt]));
  if (now === shown) return;
  shown = now;
  body.replaceChildren(...page.data.map(row));
  none.hidden = page.data.length > 0;
  localTimes(body);
}

async function follow() {
  if (!document.hidden) await refresh().catch(() => {});
  setTimeout(follow, EVERY_MS);
}

// A page further back in the list stays as it is.
if (!new URLSearchParams(location.search).has("cursor")) setTimeout(follow, EVERY_MS);
