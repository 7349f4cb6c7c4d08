"use strict";
(() => {
const about = JSON.parse(document.getElementById("about").textContent);
const MOST_SHOWN = 200, MOST_BARS = 8, MOST_CAMERA_SIDE = 640;
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B", "#56B4E9", "#8B4513", "#444444"];
const status = document.getElementById("status"), error = document.getElementById("error");
const results = document.getElementById("results");

const at = (id) => document.getElementById(id);
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value; else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
const say = (text) => { status.textContent = text; };
function complain(text) { error.textContent = text; error.hidden = !text; }
const counted = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
const shown = (value) => typeof value !== "number" ? String(value)
  : Math.abs(value) >= 1e6 || (value && Math.abs(value) < 1e-3) ? value.toPrecision(3) : String(+value.toPrecision(4));
const percent = (value) => `${(100 * value).toFixed(value > 0.9995 || value < 0.0005 ? 0 : 1)} %`;

// -- asking the server

async function ask(body, query = "") {
  const options = { method: "POST", body };
  if (typeof body === "string") options.headers = { "Content-Type": "application/json" };
  let answer;
  try {
    answer = await fetch("predict" + query, options);
  } catch (reason) {
    throw new Error("the server does not answer; was it stopped?");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Error(said.error || `the server answered ${answer.status}`);
}
function form(files, fields = {}) {
  const size = files.reduce((sum, file) => sum + file.size, 0);
  if (size > about.most_upload_bytes) {
    throw new Error(`${files[0].name}${files.length > 1 ? ", ..." : ""}: ${(size / 2 ** 20).toFixed(1)} MB, and this server takes ${(about.most_upload_bytes / 2 ** 20).toPrecision(3)} MB at a time.`);
  }
  const data = new FormData();
  for (const file of files) data.append("files", file, file.name);
  for (const [name, value] of Object.entries(fields)) data.append(name, value);
  return data;
}

// -- what a row says, task by task

function bars(chances) {
  const sorted = Object.entries(chances).sort((one, other) => other[1] - one[1]);
  const found = sorted.slice(0, MOST_BARS).map(([name, chance]) => {
    const fill = make("i");
    fill.style.width = `${100 * chance}%`;
    return make("dd", { class: "bar" }, make("span", { title: name }, name), make("span", { class: "track" }, fill), make("span", {}, percent(chance)));
  });
  if (sorted.length > MOST_BARS) found.push(make("dd", {}, `and ${sorted.length - MOST_BARS} more`));
  return found;
}
function said(task, row, chances) {
  const unit = task.unit ? ` ${task.unit}` : "";
  if (task.kind === "landmarks") return [];
  if (task.kind === "multilabel") return [make("dt", {}, task.name), ...bars(chances || {})];
  if (task.kind === "regression") return [make("dt", {}, task.name), make("dd", { class: "value" }, task.columns.map((name) => shown(row[name])).join(", ") + unit)];
  const value = `${shown(row[task.columns[0]])}${task.kind === "ordinal" ? unit : ""}`;
  const lines = [make("dt", {}, task.name), make("dd", { class: "value" }, task.kind === "ordinal" ? `${value} (${percent(row[task.columns[1]])})` : value)];
  return lines.concat(chances ? bars(chances) : []);
}
function card(title, row, chances, colour) {
  const heading = make("h3");
  if (colour) {
    const swatch = make("span", { class: "swatch" });
    swatch.style.background = colour;
    heading.append(swatch);
  }
  heading.append(title);
  const list = make("dl");
  if (row.problem) list.append(make("dd", {}, row.problem));
  else for (const task of about.tasks) list.append(make("div", {}, ...said(task, row, (chances || {})[task.name])));
  return make("section", { class: "face" }, heading, list);
}
function inShort(task, row) {
  if (["landmarks", "multilabel"].includes(task.kind)) return "";
  const value = row[task.columns[0]];
  if (value === null || value === undefined) return "";
  const text = typeof value === "number" ? (Math.abs(value) >= 10 ? value.toFixed(0) : value.toPrecision(3)) : value;
  return `${task.name} ${text}${task.unit ? " " + task.unit : ""}`;
}

// -- pictures

const colourOf = (face) => COLOURS[(face - 1) % COLOURS.length];
const facesOf = (answer) => answer.rows.map((row, index) => ({ row, chances: answer.probabilities[index] })).filter((face) => face.row.face !== null);

function draw(canvas, picture, width, height, faces) {
  const scale = Math.min(1, 1280 / Math.max(width, height));
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const size = Math.max(12, Math.round(canvas.width / 45));
  pen.font = `${size}px system-ui, "DejaVu Sans", sans-serif`;
  pen.textBaseline = "top";
  for (const { row } of faces) {
    const colour = colourOf(row.face);
    const [x, y, w, h] = [row.x, row.y, row.width, row.height].map((value) => value * scale);
    pen.lineWidth = Math.max(2, size / 6);
    pen.strokeStyle = colour;
    pen.strokeRect(x, y, w, h);
    const lines = [`face ${row.face}`, ...about.tasks.map((task) => inShort(task, row)).filter(Boolean)].slice(0, 5);
    const wide = Math.max(...lines.map((line) => pen.measureText(line).width)) + size / 2, high = lines.length * size * 1.2 + size / 4;
    // beside the face, where there is room; else below or above it
    const beside = x + w + wide <= canvas.width ? x + w : x - wide;
    const left = beside >= 0 ? beside : Math.max(0, Math.min(x, canvas.width - wide));
    const level = beside >= 0 ? y : y + h + high <= canvas.height ? y + h : y - high;
    const top = Math.max(0, Math.min(level, canvas.height - high));
    pen.fillStyle = colour;
    pen.fillRect(left, top, wide, high);
    pen.fillStyle = "white";
    lines.forEach((line, index) => pen.fillText(line, left + size / 4, top + size / 4 + index * size * 1.2));
    pen.fillStyle = colour;
    for (const task of about.tasks.filter((one) => one.kind === "landmarks")) {
      for (let at = 0; at < task.columns.length; at += 2) {
        pen.beginPath();
        pen.arc(row[task.columns[at]] * scale, row[task.columns[at + 1]] * scale, Math.max(2, size / 6), 0, 7);
        pen.fill();
      }
    }
  }
}
const cards = (faces) => faces.map(({ row, chances }) => card(`Face ${row.face}`, row, chances, colourOf(row.face)));

async function predictPicture(file) {
  const answer = await (await ask(form([file]))).json();
  const faces = facesOf(answer), section = make("section", { class: "result" }, make("h3", {}, file.name));
  const text = make("div", { class: "faces" }, ...cards(faces));
  const body = make("div", { class: "picture" }, text);
  section.append(body);
  if (!faces.length) text.append(make("p", {}, "No face was found in this picture."));
  const picture = await createImageBitmap(file).catch(() => null);
  if (picture) {
    const canvas = make("canvas", { role: "img", "aria-label": `${file.name}: ${counted(faces.length, "face")}` });
    draw(canvas, picture, picture.width, picture.height, faces);
    picture.close();
    body.prepend(canvas);
  } else {
    text.prepend(make("p", { class: "soft" }, "This browser cannot show the picture."));
  }
  results.prepend(section);
  return faces.length;
}
async function predictPictures(files) {
  complain("");
  const wrong = [];
  let done = 0, faces = 0;
  for (const file of files) {
    say(`${done + 1} of ${counted(files.length, "picture")} ...`);
    try { faces += await predictPicture(file); } catch (reason) { wrong.push(reason.message); }
    done += 1;
  }
  say(`${counted(done - wrong.length, "picture")}, ${counted(faces, "face")}`);
  complain(wrong.slice(0, 5).join(" ") + (wrong.length > 5 ? ` And ${wrong.length - 5} more.` : ""));
  at("clear").hidden = !results.childElementCount;
}

let stream = null;
async function camera() {
  const button = at("camera");
  if (stream) { stopCamera(); return; }
  complain("");
  if (!navigator.mediaDevices) {
    complain("This browser gives no camera to a page that was not opened as http://localhost, by a 127.0.0.1 address or over https.");
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, height: { ideal: 480 } } });
  } catch (reason) {
    complain(`The browser gives no camera (${reason.message}).`);
    return;
  }
  button.textContent = "Turn off the camera";
  at("live").hidden = false;
  const video = make("video", { muted: "", playsinline: "" });
  video.muted = true;
  video.srcObject = stream;
  await video.play();
  watch(video);
}
function stopCamera() {
  for (const track of stream.getTracks()) track.stop();
  stream = null;
  at("camera").textContent = "Turn on the camera";
  at("live").hidden = true;
}
async function watch(video) {
  const frame = document.createElement("canvas"), times = [];
  while (stream) {
    const scale = Math.min(1, MOST_CAMERA_SIDE / Math.max(video.videoWidth, video.videoHeight));
    frame.width = Math.round(video.videoWidth * scale);
    frame.height = Math.round(video.videoHeight * scale);
    frame.getContext("2d").drawImage(video, 0, 0, frame.width, frame.height);
    try {
      const blob = await new Promise((done) => frame.toBlob(done, "image/jpeg", 0.9));
      const answer = await (await ask(form([new File([blob], "frame.jpg", { type: "image/jpeg" })]))).json();
      if (!stream) return;
      const faces = facesOf(answer);
      draw(at("live_canvas"), frame, frame.width, frame.height, faces);
      at("live_faces").replaceChildren(...cards(faces));
      times.push(performance.now());
      if (times.length > 20) times.shift();
      const rate = times.length > 1 ? 1000 * (times.length - 1) / (times[times.length - 1] - times[0]) : 0;
      at("rate").textContent = `${rate.toFixed(1)} frames per second, ${counted(faces.length, "face")}`;
    } catch (reason) {
      if (stream) stopCamera();
      complain(reason.message);
    }
  }
}

// -- tables and recordings

function parsed(text) {
  const rows = [[]];
  let cell = "", quoted = false;
  for (let at = 0; at < text.length; at += 1) {
    const letter = text[at];
    if (quoted) {
      if (letter !== '"') cell += letter;
      else if (text[at + 1] === '"') { cell += '"'; at += 1; } else quoted = false;
    } else if (letter === '"') quoted = true;
    else if (letter === "," || letter === "\n") {
      rows[rows.length - 1].push(cell);
      cell = "";
      if (letter === "\n") {
        if (rows.length > MOST_SHOWN + 1) break;
        rows.push([]);
      }
    } else if (letter !== "\r") cell += letter;
  }
  return rows.filter((row) => row.length);
}
function grid(header, rows, caption) {
  const number = header.map((_, column) => rows.some((row) => row[column]) && rows.every((row) => !row[column] || !Number.isNaN(Number(row[column]))));
  const kind = (column) => (number[column] ? { class: "number" } : {});
  const units = Object.fromEntries(about.tasks.filter((task) => task.unit).map((task) => [task.columns[0], task.unit]));
  const head = make("tr", {}, ...header.map((name, column) => make("th", { scope: "col", ...kind(column) }, name + (units[name] ? ` (${units[name]})` : ""))));
  const body = rows.map((row) => make("tr", {}, ...row.map((cell, column) => make("td", kind(column), cell))));
  return make("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": caption }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}
async function predictTable(files, fields = {}) {
  complain("");
  say("Predicting ...");
  try {
    const answer = await ask(form(files, fields), "?format=csv");
    const blob = await answer.blob(), text = await blob.text();
    const [header, ...rows] = parsed(text);
    const title = files.length === 1 ? files[0].name : counted(files.length, "file");
    const name = `${files.length === 1 ? files[0].name.replace(/\.[^.]*$/, "") : about.name.replace(/\.bundle$/, "")}.predicted.csv`;
    const link = make("a", { class: "button", href: URL.createObjectURL(blob), download: name }, `Download ${name}`);
    const section = make("section", { class: "result" }, make("h3", {}, title), make("p", {}, link));
    for (const note of JSON.parse(answer.headers.get("Taskloom-Notes") || "[]")) section.append(make("p", { class: "soft" }, note));
    const window = header.indexOf("window") >= 0 ? header.indexOf("window") : header.indexOf("sample");
    const whole = about.kind === "recordings" ? rows.filter((row) => row[window] === "") : [];
    if (whole.length) {
      const kept = header.map((_, column) => column).filter((column) => column !== window && whole.some((row) => row[column]));
      section.append(make("p", { class: "soft" }, "Whole recordings: the mean over their windows"), grid(kept.map((column) => header[column]), whole.map((row) => kept.map((column) => row[column])), "Whole recordings"));
      const parts = rows.filter((row) => row[window] !== "");
      section.append(make("details", {}, make("summary", {}, `Every ${header[window]}`), grid(header, parts.slice(0, MOST_SHOWN), `Every ${header[window]}`)));
    } else {
      section.append(grid(header, rows.slice(0, MOST_SHOWN), title));
    }
    if (rows.length > MOST_SHOWN) section.append(make("p", { class: "soft" }, `The first ${MOST_SHOWN} rows are shown; the file has them all.`));
    results.prepend(section);
    say(`${title}: predicted`);
  } catch (reason) {
    say("");
    complain(reason.message);
  }
}
async function predictRow(event) {
  event.preventDefault();
  complain("");
  const row = {};
  for (const field of at("row").querySelectorAll("input, select")) row[field.name] = field.value.trim() || null;
  try {
    const answer = await (await ask(JSON.stringify({ rows: [row] }))).json();
    at("row_answer").replaceChildren(card("This row", answer.rows[0], answer.probabilities[0]));
    say("");
  } catch (reason) {
    at("row_answer").replaceChildren();
    complain(reason.message);
  }
}
function people() {
  const fields = {};
  if (!at("person")) return fields;
  if (at("person").value.trim()) fields.person = at("person").value.trim();
  if (at("people").files.length) fields.people = at("people").files[0];
  if (at("new_people").checked) fields.new_people = "true";
  return fields;
}

// -- where files come from

function take(list) {
  const files = [...list];
  if (!files.length) return;
  if (about.kind === "images") predictPictures(files); else predictTable(files, people());
}
at("files").addEventListener("change", (event) => { take(event.target.files); event.target.value = ""; });
const drop = at("drop");
for (const name of ["dragenter", "dragover"]) document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const name of ["dragleave", "drop"]) document.addEventListener(name, (event) => { if (name === "drop" || !event.relatedTarget) drop.classList.remove("over"); });
document.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files); });
document.addEventListener("paste", (event) => { if (event.clipboardData.files.length) { event.preventDefault(); take(event.clipboardData.files); } });
if (at("row")) at("row").addEventListener("submit", predictRow);
if (at("camera")) {
  at("camera").addEventListener("click", camera);
  at("clear").addEventListener("click", () => { results.replaceChildren(); at("clear").hidden = true; say(""); });
}
for (const place of document.querySelectorAll(".here")) place.textContent = new URL(".", location.href).href;
})();
