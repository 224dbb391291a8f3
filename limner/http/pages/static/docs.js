// The operations, from the document that describes them.

import { call, element } from "/static/page.js";

const place = document.getElementById("operations");

function operation(path, method, one) {
  const made = element("div", "", "operation");
  const scopes = (one.security || []).flatMap((way) => way.key || []);
  const access = scopes.length ? `needs ${scopes.join(", ")}` : "";
  made.append(element("span", method.toUpperCase(), "method"), element("code", path));
  made.append(element("p", [one.summary, access].filter(Boolean).join(" · ")));
  return made;
}

const description = await call("GET", "/openapi.json");
const groups = new Map();
for (const [path, methods] of Object.entries(description.paths)) {
  for (const [method, one] of Object.entries(methods)) {
    const name = one.tags[0];
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(operation(path, method, one));
  }
}
place.replaceChildren(
  ...[...groups].map(([name, operations]) => {
    const card = element("section", "", "card flush");
    card.append(element("h2", name, "inset"), ...operations);
    return card;
  }),
);
