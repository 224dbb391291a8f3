// The table follows what happens: it is read again every few seconds while the page is seen.

import { call, element, localTimes, timeOf } from "/static/page.js";

const EVERY_MS = 3000;
const table = document.getElementById("tasks");
const body = table.tBodies[0];
const none = document.getElementById("none");
const WITHOUT_TIME = 4;

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

// What rows show, but for their times, which are told in other words than they were made with.
function seen(rows) {
  const words = (one) => [...one.cells].slice(0, WITHOUT_TIME).map((cell) => cell.textContent);
  return JSON.stringify([...rows].map((one) => [one.dataset.id, ...words(one)]));
}

async function refresh() {
  const filter = table.dataset.state ? `?state=${table.dataset.state}` : "";
  const page = await call("GET", `/api/tasks${filter}`);
  const rows = page.data.map(row);
  if (seen(rows) === seen(body.rows)) return;
  // Who goes through the links with the keyboard goes on from where they were.
  const held = body.contains(document.activeElement)
    ? document.activeElement.closest("tr").dataset.id
    : null;
  body.replaceChildren(...rows);
  none.hidden = rows.length > 0;
  localTimes(body);
  const again = rows.find((one) => one.dataset.id === held);
  if (again) again.querySelector("a").focus({ preventScroll: true });
}

async function follow() {
  if (!document.hidden) await refresh().catch(() => {});
  setTimeout(follow, EVERY_MS);
}

// A page further back in the list stays as it is.
if (!new URLSearchParams(location.search).has("cursor")) setTimeout(follow, EVERY_MS);
