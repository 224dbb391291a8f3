// One task: its stream moves the page on, and the review form lets a wish through.

import { act, call, element, localTimes, timeOf } from "/static/page.js";

const task = document.getElementById("task");
const timeline = document.getElementById("timeline");
const state = document.getElementById("state");
const progress = document.getElementById("progress");
const review = document.getElementById("review");

function addLine(name, line) {
  if (timeline.querySelector(`[data-n="${line.n}"]`)) return;
  const made = element("li");
  made.dataset.n = line.n;
  const text = element("div");
  text.append(element("strong", name));
  if (line.detail) text.append(element("p", line.detail));
  text.append(timeOf(line.at));
  made.append(element("span", "", `dot ${line.state}`), text);
  timeline.append(made);
  localTimes(made);
}

function follow() {
  const last = timeline.lastElementChild;
  const from = last ? last.dataset.n : "0";
  const stream = new EventSource(`/api/tasks/${task.dataset.id}/stream?last_event_id=${from}`);
  const on = (name, handle) => {
    stream.addEventListener(name, (event) => handle(JSON.parse(event.data)));
  };
  on("status", (line) => {
    state.textContent = line.state.replaceAll("_", " ");
    state.className = `state ${line.state}`;
    addLine(line.state.replaceAll("_", " "), line);
    if (line.state === "succeeded" || line.state === "needs_review") location.reload();
  });
  on("log", (line) => addLine(line.message || "log", line));
  on("progress", (data) => {
    progress.hidden = false;
    progress.value = data.percent;
  });
  on("done", () => {
    stream.close();
    location.reload();
  });
}

if (review) {
  review.addEventListener("submit", (event) => {
    event.preventDefault();
    act(review.querySelector("button.main"), async () => {
      const wish = Object.fromEntries(new FormData(review));
      await call("POST", review.dataset.url, wish);
      location.reload();
    });
  });
}

if ("moving" in task.dataset) follow();
