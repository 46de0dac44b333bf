// The review page. It moves on only when the server has said that a vote is on disk; until then answers stay here, also
// over a reload, and the vote is sent again under the same id, which the server counts once.

const $ = (id) => document.getElementById(id);
const ANSWERS = ["yes", "no", "unsure"];
const KEYS = { y: "yes", n: "no", u: "unsure", 1: "yes", 2: "no", 3: "unsure" };
const WAITS = [1, 2, 4, 8, 15];  // seconds between attempts to save

let session = null;
let sheet = null;    // the pair on the screen, as the server described it
let answers = null;  // [picture][claim]
let step = 0;        // the picture in question
let cursor = 0;      // the claim in question
let history = [];    // [picture, claim, the answer before], newest last
let voteId = "";
let seconds = 0;     // that this pair was visible
let visibleSince = 0;
let busy = false;
let zoomLevel = 1;

async function ask(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (session) headers["X-CSRF-Token"] = session.csrf;
  const options = body === undefined ? {} : { method: "POST", headers, body: JSON.stringify(body) };
  const response = await fetch(path, options);
  const told = await response.json().catch(() => ({}));
  if (response.ok) return told;
  const reason = typeof told.detail === "string" ? told.detail : `the server answered ${response.status}`;
  throw Object.assign(new Error(reason), { status: response.status });
}

async function askUntilAnswered(path, body) {
  for (let attempt = 0; ; attempt++) {
    try {
      return await ask(path, body);
    } catch (error) {
      if (error.status && error.status < 500) throw error;
      const wait = WAITS[Math.min(attempt, WAITS.length - 1)];
      say(`The server cannot be reached. Your answers are kept; trying again in ${wait} s.`, true);
      await new Promise((resolve) => setTimeout(resolve, wait * 1000));
    }
  }
}

let saying = 0;
function say(text, stay = false) {
  $("said").textContent = text;
  clearTimeout(saying);
  if (!stay && text) saying = setTimeout(() => { $("said").textContent = ""; }, 3500);
}

// ---- coming in

async function enter() {
  const token = location.hash.slice(1);
  if (token) window.history.replaceState(null, "", location.pathname);
  try {
    session = token ? await ask("/api/login", { token }) : await ask("/api/me");
  } catch (error) {
    return notice("Log in with your link", token ? sentence(error.message) : "Open the login link that you were sent.", false);
  }
  $("who").textContent = `${session.reviewer} · `;
  $("bar").hidden = false;
  await run(async () => receive(await askUntilAnswered("/api/next", {})));
}

function notice(title, text, again) {
  $("sheet").hidden = true;
  $("notice").hidden = false;
  $("notice-title").textContent = title;
  $("notice-text").textContent = text;
  $("notice-again").hidden = $("notice-undo").hidden = !again;
}

function receive(told) {
  const { mine, left, settled, pairs, per_hour } = told.progress;
  $("bar-progress").value = pairs ? settled / pairs : 0;
  $("bar-text").textContent = `${mine} done · ${left} to go`;
  $("pace").textContent = per_hour ? `${Math.round(per_hour)} an hour` : "";
  sheet = told.sheet;
  if (!sheet) {
    const more = session.stage === "adjudication" ? "No disputed pair waits for you just now." : "Every pair has the reviews it needs, or is on somebody's screen.";
    return notice(mine ? "All done, thank you" : "Nothing to do yet", `${more} ${settled} of ${pairs} pairs are settled.`, true);
  }
  show();
}

function show() {
  const kept = JSON.parse(localStorage.getItem(draftName()) || "null");
  const empty = [0, 1].map(() => sheet.claims.map(() => ""));
  answers = sheet.answers ? sheet.answers.map((given) => [...given]) : kept ? kept.answers : empty;
  voteId = kept && !sheet.answers ? kept.voteId : crypto.randomUUID ? crypto.randomUUID() : randomId();
  seconds = kept && !sheet.answers ? kept.seconds : 0;
  visibleSince = performance.now();
  history = [];
  $("notice").hidden = true;
  $("sheet").hidden = false;
  $("prompt").textContent = sheet.prompt;
  step = sheet.answers ? 1 : answers[0].every(Boolean) ? 1 : 0;
  turnTo(step);
  new Image().src = sheet.pictures[1];
}

function randomId() {  // where the page is reached over plain HTTP from another machine, browsers give no randomUUID
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function draftName() { return `draft|${session.reviewer}|${sheet.pair_id}`; }

function keepDraft() {
  localStorage.setItem(draftName(), JSON.stringify({ answers, voteId, seconds: spent() }));
}

function spent() {
  return seconds + (document.hidden ? 0 : (performance.now() - visibleSince) / 1000);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) seconds += (performance.now() - visibleSince) / 1000;
  else visibleSince = performance.now();
});

// ---- drawing

function turnTo(picture) {
  step = picture;
  const open = answers[step].indexOf("");
  cursor = open < 0 ? 0 : open;
  const name = step ? "second" : "first";
  $("image").src = $("zoomed").src = sheet.pictures[step];
  $("image").alt = $("zoomed").alt = `The ${name} picture`;
  $("question").textContent = `Does the ${name} picture show this?`;
  drawClaims();
  draw();
  if (matchMedia("(max-width: 860px)").matches) window.scrollTo(0, 0);
}

function words(claim, into) {
  into.replaceChildren();
  if (claim.length === 1) return into.append(claim[0]);
  const relation = document.createElement("em");
  relation.textContent = claim[1];
  into.append(`${claim[0]} `, relation, ` ${claim[2]}`);
}

function drawClaims() {
  $("claims").replaceChildren(...sheet.claims.map((claim, index) => {
    const item = document.createElement("li");
    const text = document.createElement("p");
    text.id = `claim-${index}`;
    words(claim, text);
    if (sheet.disputed && sheet.disputed[step].includes(index)) {
      const note = document.createElement("small");
      note.textContent = "The reviewers differ here.";
      text.append(note);
    }
    const choice = document.createElement("div");
    choice.className = "choice";
    choice.role = "group";
    choice.setAttribute("aria-labelledby", text.id);
    choice.append(...ANSWERS.map((answer) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.answer = answer;
      button.textContent = answer[0].toUpperCase() + answer.slice(1);
      button.addEventListener("click", () => { cursor = index; give(answer); });
      return button;
    }));
    item.append(text, choice);
    return item;
  }));
}

function draw() {
  [...$("claims").children].forEach((item, index) => {
    mark(item, index === cursor);
    for (const button of item.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.answer === answers[step][index]));
    }
  });
  for (const button of $("steps").querySelectorAll("button")) {
    const picture = Number(button.dataset.step);
    mark(button, picture === step);
    button.classList.toggle("done", answers[picture].every(Boolean));
  }
  const complete = answers[step].every(Boolean), other = answers[1 - step].every(Boolean);
  $("go-on").disabled = busy || !complete;
  $("rest").disabled = busy || complete;
  $("undo").disabled = busy;
  $("go-on-text").textContent = complete && other ? "Save and go on" : "Next picture";
  words(sheet.claims[cursor], $("zoom-claim"));
}

function mark(element, current) {
  if (current) element.setAttribute("aria-current", "true");
  else element.removeAttribute("aria-current");
}

function reveal() {
  $("claims").children[cursor].scrollIntoView({ block: "nearest" });
}

// ---- answering

function give(answer) {
  if (busy) return;
  history.push([step, cursor, answers[step][cursor]]);
  answers[step][cursor] = answer;
  say("");
  const next = answers[step].findIndex((given, index) => !given && index > cursor);
  const first = answers[step].indexOf("");
  cursor = next >= 0 ? next : first >= 0 ? first : cursor;
  keepDraft();
  draw();
  reveal();
}

function giveRest() {
  if (busy) return;
  answers[step].forEach((given, index) => {
    if (given) return;
    history.push([step, index, ""]);
    answers[step][index] = "yes";
  });
  keepDraft();
  draw();
}

function goOn() {
  if (busy) return;
  const open = answers[step].indexOf("");
  if (open >= 0) {
    cursor = open;
    draw();
    return say("Every claim needs an answer; unsure is one.");
  }
  if (answers[1 - step].every(Boolean)) return save();
  turnTo(1 - step);
}

async function run(work) {
  busy = true;
  if (sheet) draw();
  try {
    await work();
  } finally {
    busy = false;
    if (sheet) draw();
  }
}

async function save() {
  const vote = { vote_id: voteId, pair_id: sheet.pair_id, first: answers[0], second: answers[1], seconds: spent() };
  await run(async () => {
    try {
      const told = await askUntilAnswered("/api/vote", vote);
      localStorage.removeItem(draftName());
      say("Saved.");
      receive(told);
    } catch (error) {
      if (error.status !== 409) return failed(error);
      localStorage.removeItem(draftName());
      say("This pair was answered in another window or decided since.");
      receive(await askUntilAnswered("/api/next", {}));
    }
  });
}

async function undo() {
  if (busy) return;
  const last = history.pop();
  if (last) {
    const [picture, claim, before] = last;
    answers[picture][claim] = before;
    if (picture !== step) turnTo(picture);
    cursor = claim;
    keepDraft();
    draw();
    return reveal();
  }
  await run(async () => {
    try {
      const told = await askUntilAnswered("/api/undo", {});
      if (sheet) localStorage.removeItem(draftName());
      receive(told);
      say("The last pair is back. Change it and save it again.");
    } catch (error) {
      if (error.status === 409) say(error.message);
      else failed(error);
    }
  });
}

function failed(error) {
  if (error.status === 401 || error.status === 403) {
    return notice("You are logged out", "Open your login link again; the answers on this screen are kept.", false);
  }
  say(sentence(error.message), true);
}

function sentence(text) { return `${text[0].toUpperCase()}${text.slice(1)}.`; }

// ---- the picture, large

function openZoom() {
  zoomLevel = 1;
  $("zoom").showModal();
  sizeZoom();
}

function sizeZoom() {
  const image = $("zoomed"), pane = $("pane");
  const fit = Math.min(pane.clientWidth / image.naturalWidth, pane.clientHeight / image.naturalHeight);
  image.width = Math.round(image.naturalWidth * fit * zoomLevel);
  image.classList.toggle("small", fit * zoomLevel > 3);
}

function zoomBy(factor, x = 0.5, y = 0.5) {
  zoomLevel = Math.min(8, Math.max(1, zoomLevel * factor));
  sizeZoom();
  const pane = $("pane");
  pane.scrollTo((pane.scrollWidth - pane.clientWidth) * x, (pane.scrollHeight - pane.clientHeight) * y);
}

$("zoomed").addEventListener("load", () => { if ($("zoom").open) sizeZoom(); });
$("image").addEventListener("load", () => {
  $("zoom-open").classList.toggle("small", $("image").naturalWidth < 200);
});
$("pane").addEventListener("click", (event) => {
  const box = $("zoomed").getBoundingClientRect();
  const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  if (zoomLevel >= 4) zoomBy(0);
  else zoomBy(2, x, y);
});

// ---- wiring

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if ((event.key === "Enter" || event.key === " ") && event.target.closest("button, a")) return;  // reached by Tab
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if ($("help").open) return key === "?" ? $("help").close() : undefined;
  if (key === "?") return $("help").showModal();
  if ($("sheet").hidden) {
    if ((key === "z" || key === "Backspace") && !$("notice-undo").hidden) undo();
    return;
  }
  const zoomed = $("zoom").open;
  const pan = (x, y) => () => $("pane").scrollBy(x, y);
  const move = (by) => () => { cursor = Math.min(sheet.claims.length - 1, Math.max(0, cursor + by)); draw(); reveal(); };
  const turn = (to) => () => { if (!busy && step !== to) turnTo(to); };
  const actions = {
    a: giveRest, z: undo, Backspace: undo, Enter: goOn,
    " ": zoomed ? () => $("zoom").close() : openZoom,
    ArrowUp: zoomed ? pan(0, -80) : move(-1), ArrowDown: zoomed ? pan(0, 80) : move(1),
    ArrowLeft: zoomed ? pan(-80, 0) : turn(0), ArrowRight: zoomed ? pan(80, 0) : turn(1),
    "+": zoomed ? () => zoomBy(2) : null, "=": zoomed ? () => zoomBy(2) : null, "-": zoomed ? () => zoomBy(0.5) : null,
  };
  const action = KEYS[key] ? () => give(KEYS[key]) : actions[key];
  if (!action) return;
  event.preventDefault();
  if (!event.repeat || key.startsWith("Arrow")) action();
});

document.addEventListener("click", (event) => {  // a clicked button keeps no focus, so that Enter still means: go on
  if (event.detail && event.target.closest("button")) document.activeElement.blur();
});
$("undo").addEventListener("click", undo);
$("rest").addEventListener("click", giveRest);
$("go-on").addEventListener("click", goOn);
$("notice-undo").addEventListener("click", undo);
$("notice-again").addEventListener("click", () => run(async () => receive(await askUntilAnswered("/api/next", {}))));
$("steps").addEventListener("click", (event) => {
  if (event.target.dataset.step && !busy) turnTo(Number(event.target.dataset.step));
});
$("zoom-open").addEventListener("click", openZoom);
$("zoom-close").addEventListener("click", () => $("zoom").close());
$("zoom-in").addEventListener("click", () => zoomBy(2));
$("zoom-out").addEventListener("click", () => zoomBy(0.5));
for (const button of $("zoom").querySelectorAll("[data-answer]")) {
  button.addEventListener("click", () => give(button.dataset.answer));
}
$("open-help").addEventListener("click", () => $("help").showModal());
$("close-help").addEventListener("click", () => $("help").close());
$("log-out").addEventListener("click", async () => {
  await ask("/api/logout", {});
  session = sheet = null;
  $("bar").hidden = true;
  notice("You are logged out", "Open your login link to come back.", false);
});

enter();
