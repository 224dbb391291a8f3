// The picture of one's account: chosen, made small enough to be sent, and put in its place.

import { act, call } from "/static/page.js";

const form = document.getElementById("avatar-form");
const chosen = document.getElementById("avatar");
const LIMIT_BYTES = 1024 * 1024;
const SIDE_PX = 1024;

// What a telephone makes is larger than what is taken; the server makes it smaller still.
async function smallEnough(file) {
  if (file.size <= LIMIT_BYTES) return file;
  const picture = await createImageBitmap(file);
  const shorter = Math.min(picture.width, picture.height);
  const scale = Math.min(1, SIDE_PX / shorter);
  const [width, height] = [picture.width * scale, picture.height * scale];
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = Math.max(1, Math.round(shorter * scale));
  const brush = canvas.getContext("2d");
  // A JPEG has no transparency, and what was transparent would be black.
  brush.fillStyle = "white";
  brush.fillRect(0, 0, canvas.width, canvas.height);
  brush.drawImage(picture, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  return new Promise((done, fail) => {
    // A browser that cannot write the picture gives none.
    const take = (made) => (made ? done(made) : fail(new Error("the picture cannot be made smaller")));
    canvas.toBlob(take, "image/jpeg", 0.9);
  });
}

async function send(file) {
  let picture = file;
  try {
    picture = await smallEnough(file);
  } catch {
    // What the browser cannot read or write is sent as it is; the server refuses it with a reason.
  }
  await call("PUT", "/api/me/avatar", picture);
  location.reload();
}

form.hidden = false;
form.addEventListener("submit", (event) => {
  event.preventDefault();
  act(event.submitter || form.querySelector("button"), () => send(chosen.files[0]));
});
