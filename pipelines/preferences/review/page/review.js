// The review page. It moves to the next pair only after the server has confirmed that the vote is on disk. Until then the
// answers stay here, also over a reload. A vote is sent again under the same id, and the server counts it once.

const $ = (id) => document.getElementById(id);
const ANSWERS = ["yes", "no", "unsure"];
const KEYS = { y: "yes", n: "no", u: "unsure", 1: "yes", 2: "no", 3: "unsure" };
const RETRY_SECONDS = [1, 2, 4, 8, 15];
const MESSAGE_MS = 3500;

let session = null;
let item = null;       // the pair on the screen, as the server described it
let answers = null;    // [image][claim]
let shownImage = 0;    // 0 or 1
let cursor = 0;        // the current claim
let seen = null;       // [image] -> the claims that were on the screen completely
let note = "";         // what the annotator writes about the pair
let history = [];      // [image, claim, previous answer], newest last
let voteId = "";
let seconds = 0;       // time that this pair was visible, without the time since visibleSince
let visibleSince = 0;
let busy = false;
let zoomLevel = 1;

async function request(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (session) headers["X-CSRF-Token"] = session.csrf;
  const options = body === undefined ? {} : { method: "POST", headers, body: JSON.stringify(body) };
  const response = await fetch(path, options);
  const content = await response.json().catch(() => ({}));
  if (response.ok) return content;
  const reason = typeof content.detail === "string" ? content.detail : `the server answered ${response.status}`;
  throw Object.assign(new Error(reason), { status: response.status });
}

async function requestUntilAnswered(path, body) {
  for (let attempt = 0; ; attempt++) {
    try {
      return await request(path, body);
    } catch (error) {
      if (error.status && error.status < 500 && error.status !== 408) throw error;  // 408: the line is slow
      const wait = RETRY_SECONDS[Math.min(attempt, RETRY_SECONDS.length - 1)];
      const reason = error.status ? sentence(error.message) : "The server cannot be reached.";
      showMessage(`${reason} Your answers are kept. Next attempt in ${wait} s.`, true);
      await new Promise((resolve) => setTimeout(resolve, wait * 1000));
    }
  }
}

let messageTimer = 0;
function showMessage(text, stay = false) {
  $("message").textContent = text;
  clearTimeout(messageTimer);
  if (!stay && text) messageTimer = setTimeout(() => { $("message").textContent = ""; }, MESSAGE_MS);
}

// ---- login and the next pair

async function start() {
  const token = location.hash.slice(1);
  if (token) window.history.replaceState(null, "", location.pathname);
  try {
    session = token ? await request("/api/login", { token }) : await request("/api/me");
  } catch (error) {
    return showNotice("Log in with your link", token ? sentence(error.message) : "Open the login link that you received.", false);
  }
  $("who").textContent = `${session.annotator} · `;
  $("bar").hidden = false;
  await run(loadNext);
}

async function loadNext() {
  receive(await requestUntilAnswered("/api/next", {}));
}

function showNotice(title, text, withButtons) {
  $("review").hidden = true;
  $("notice").hidden = false;
  $("notice-title").textContent = title;
  $("notice-text").textContent = text;
  $("notice-reload").hidden = $("notice-undo").hidden = !withButtons;
}

function receive(reply) {
  const { done, waiting, decided, pairs, pairs_per_hour } = reply.progress;
  const round = reply.qualification;
  $("bar-progress").value = pairs ? decided / pairs : 0;
  const qualifying = round.done < round.pairs;
  $("bar-text").textContent = qualifying ? `Qualification: pair ${round.done + 1} of ${round.pairs}` : `${done} done · ${waiting} to go`;
  $("pace").textContent = pairs_per_hour ? `${Math.round(pairs_per_hour)} per hour` : "";
  item = reply.item;
  if (round.failed) {
    return showNotice("Qualification not passed", "Too many answers of the first pairs were wrong. Thank you for your time: the person who runs the review will contact you.", false);
  }
  if (!item) {
    const reason = session.stage === "adjudication" ? "There is no disputed pair at the moment." : "Every pair has enough reviews, or is on the screen of another annotator.";
    return showNotice(done ? "All done, thank you" : "Nothing to do yet", `${reason} ${decided} of ${pairs} pairs are decided.`, true);
  }
  showItem();
}

function showItem() {
  const draft = item.answers ? null : JSON.parse(localStorage.getItem(draftName()) || "null");
  const empty = [0, 1].map(() => item.claims.map(() => ""));
  answers = item.answers ? item.answers.map((given) => [...given]) : draft ? draft.answers : empty;
  voteId = draft ? draft.voteId : crypto.randomUUID ? crypto.randomUUID() : randomId();
  seconds = draft ? draft.seconds : 0;
  visibleSince = performance.now();
  history = [];
  seen = [new Set(), new Set()];
  note = draft ? draft.note || "" : "";
  $("notice").hidden = true;
  $("review").hidden = false;
  for (const button of $("tabs").querySelectorAll("button")) button.parentElement.hidden = !item.asked[button.dataset.image].length;
  $("notes").replaceChildren(...item.notes.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  $("notes").hidden = !item.notes.length;
  const first = [0, 1].find((image) => item.asked[image].length && !isComplete(image));
  showImage(item.answers || first === undefined ? (item.asked[1].length ? 1 : 0) : first);
  loadAhead();
}

async function loadAhead() {  // the second image, then those of the next pair
  new Image().src = item.images[1];
  const reply = await request("/api/ahead", {}).catch(() => ({ images: [] }));
  for (const source of reply.images) new Image().src = source;
}

function isComplete(image) { return item.asked[image].every((claim) => answers[image][claim]); }

function firstOpen(image) { return item.asked[image].find((claim) => !answers[image][claim]); }

function randomId() {  // browsers have no randomUUID on a page that comes over plain HTTP from another machine
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function draftName() { return `draft|${session.annotator}|${item.pair_id}`; }

function saveDraft() {
  localStorage.setItem(draftName(), JSON.stringify({ answers, voteId, note, seconds: secondsVisible() }));
}

function secondsVisible() {
  return seconds + (document.hidden ? 0 : (performance.now() - visibleSince) / 1000);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) seconds += (performance.now() - visibleSince) / 1000;
  else visibleSince = performance.now();
});

// ---- rendering

function showImage(image) {
  shownImage = image;
  cursor = firstOpen(image) ?? item.asked[image][0];
  const name = image ? "second" : "first";
  $("image").src = item.images[image];
  $("image").alt = $("zoom-image").alt = `The ${name} image`;
  $("question").textContent = session.stage === "adjudication" ? `The annotators disagree about the ${name} image.` : `Does the ${name} image show this?`;
  renderClaims();
  render();
  if (matchMedia("(max-width: 860px)").matches) window.scrollTo(0, 0);
}

function renderClaim(claim, element) {
  element.replaceChildren();
  if (claim.length === 1) return element.append(claim[0]);
  const relation = document.createElement("em");
  relation.textContent = claim[1];
  element.append(`${claim[0]} `, relation, ` ${claim[2]}`);
}

function recordSeen() {  // the claims between the header, or on a phone the image, and the buttons
  if (!item || $("review").hidden) return;
  const image = document.querySelector("#review .image").getBoundingClientRect();
  const actions = document.querySelector("#review .actions").getBoundingClientRect();
  const top = image.width > innerWidth / 2 ? image.bottom : 0;
  for (const row of claimRows()) {
    const box = row.getBoundingClientRect();
    if (box.top >= top - 2 && box.bottom <= actions.top + 2) seen[shownImage].add(Number(row.dataset.claim));
  }
}

function renderClaims() {
  const asked = item.asked[shownImage];
  const isObject = (claim) => item.claims[claim].length === 1;
  const groups = [
    ["Is each object there, as the prompt describes it and as often?", asked.filter(isObject)],
    ["Does each relation hold?", asked.filter((claim) => !isObject(claim))],
  ].filter(([, claims]) => claims.length);
  $("claims").classList.toggle("dense", asked.length > 8);
  $("claims").replaceChildren(...groups.map(([title, claims]) => {
    const group = document.createElement("section");
    const heading = document.createElement("h2");
    heading.textContent = title;
    const list = document.createElement("ol");
    list.className = item.claims[claims[0]].length === 1 ? "objects" : "relations";
    list.append(...claims.map(claimRow));
    group.append(heading, list);
    return group;
  }));
}

function claimRows() { return [...$("claims").querySelectorAll("li")]; }

function claimRow(index) {
  const row = document.createElement("li");
  row.dataset.claim = index;
  const text = document.createElement("p");
  text.id = `claim-${index}`;
  renderClaim(item.claims[index], text);
  const choice = document.createElement("div");
  choice.className = "choice";
  choice.role = "group";
  choice.setAttribute("aria-labelledby", text.id);
  choice.append(...ANSWERS.map((answer) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.answer = answer;
    const rest = document.createElement("span");
    rest.textContent = answer.slice(1);
    button.append(answer[0].toUpperCase(), rest);
    button.addEventListener("click", () => { cursor = index; giveAnswer(answer); });
    return button;
  }));
  row.append(text, choice);
  row.addEventListener("click", (event) => {
    if (event.target.closest("button")) return;
    cursor = index;
    render();
  });
  return row;
}

function render() {
  for (const row of claimRows()) {
    const index = Number(row.dataset.claim);
    setCurrent(row, index === cursor);
    for (const button of row.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.answer === answers[shownImage][index]));
    }
  }
  for (const button of $("tabs").querySelectorAll("button")) {
    const image = Number(button.dataset.image);
    setCurrent(button, image === shownImage);
    button.classList.toggle("done", isComplete(image));
  }
  const complete = isComplete(shownImage);
  $("continue").disabled = busy || !complete;
  $("rest").disabled = busy || complete;
  $("undo").disabled = $("open-note").disabled = busy;
  $("open-note").classList.toggle("done", Boolean(note));
  $("continue-text").textContent = complete && isComplete(1 - shownImage) ? "Save and continue" : "Next image";
  renderClaim(item.claims[cursor], $("zoom-claim"));
  renderPrompt();
}

// ---- the prompt, with the words of the current claim marked

function renderPrompt() {
  const marks = wordsOf(item.claims[cursor], item.prompt);
  const parts = [];
  let position = 0;
  for (const [start, end, kind] of marks) {
    const mark = document.createElement("mark");
    mark.className = kind;
    mark.textContent = item.prompt.slice(start, end);
    parts.push(item.prompt.slice(position, start), mark);
    position = end;
  }
  const box = $("prompt");
  box.replaceChildren(...parts, item.prompt.slice(position));
  const first = box.querySelector("mark");  // on a phone a long prompt scrolls in its box
  if (first && box.scrollHeight > box.clientHeight) box.scrollTop = first.offsetTop - box.clientHeight / 3;
}

function wordsOf(claim, prompt) {  // -> [start, end, "name" or "relation"], in order, without overlaps
  const names = claim.length === 1 ? [claim[0]] : [claim[0], claim[2]];
  const sentences = [...prompt.matchAll(/[^.!?;]+[.!?;]*/g)].map((match) => [match.index, match.index + match[0].length]);
  const holding = sentences.find(([start, end]) => names.every((name) => occurrences(name, prompt, start, end).length));
  const [start, end] = claim.length > 1 && holding ? holding : [0, prompt.length];
  const found = names.flatMap((name) => places(name, prompt, start, end).map((place) => [...place, "name"]));
  if (claim.length > 1) found.push(...places(claim[1], prompt, start, end).map((place) => [...place, "relation"]));
  found.sort((one, other) => one[0] - other[0] || other[1] - one[1]);
  return found.filter((place, index) => !found.slice(0, index).some((earlier) => earlier[1] > place[0]));
}

function places(phrase, prompt, start, end) {  // the whole phrase, else each of its words that says something
  const whole = occurrences(phrase, prompt, start, end);
  if (whole.length) return whole;
  return phrase.split(/\s+/).filter((word) => word.length > 2).flatMap((word) => occurrences(word, prompt, start, end));
}

function occurrences(phrase, prompt, start, end) {
  const pattern = phrase.replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replace(/\s+/g, "\\s+");
  const matches = [...prompt.slice(start, end).matchAll(new RegExp(`(?<![\\p{L}\\p{N}])${pattern}(?![\\p{L}\\p{N}])`, "giu"))];
  return matches.map((match) => [start + match.index, start + match.index + match[0].length]);
}

function setCurrent(element, current) {
  if (current) element.setAttribute("aria-current", "true");
  else element.removeAttribute("aria-current");
}

function scrollToCursor() {
  claimRows().find((row) => Number(row.dataset.claim) === cursor)?.scrollIntoView({ block: "nearest" });
}

// ---- answers

function giveAnswer(answer) {
  if (busy) return;
  const given = answers[shownImage];
  history.push([shownImage, cursor, given[cursor]]);
  given[cursor] = answer;
  showMessage("");
  const asked = item.asked[shownImage];  // in the order of the page
  cursor = asked.slice(asked.indexOf(cursor) + 1).find((claim) => !given[claim]) ?? firstOpen(shownImage) ?? cursor;
  saveDraft();
  render();
  scrollToCursor();
}

function answerRest() {  // never claims that the annotator cannot have read
  if (busy) return;
  recordSeen();
  const open = item.asked[shownImage].filter((claim) => !answers[shownImage][claim]);
  for (const claim of open.filter((claim) => seen[shownImage].has(claim))) {
    history.push([shownImage, claim, ""]);
    answers[shownImage][claim] = "yes";
  }
  const left = firstOpen(shownImage);
  if (left !== undefined) {
    cursor = left;
    const count = item.asked[shownImage].filter((claim) => !answers[shownImage][claim]).length;
    showMessage(count === 1 ? "One claim was not on the screen yet." : `${count} claims were not on the screen yet.`);
  }
  saveDraft();
  render();
  scrollToCursor();
}

function continueReview() {
  if (busy) return;
  const open = firstOpen(shownImage);
  if (open !== undefined) {
    cursor = open;
    render();
    scrollToCursor();
    return showMessage("Every claim needs an answer. Unsure is an answer, too.");
  }
  if (isComplete(1 - shownImage)) return save();
  showImage(1 - shownImage);
}

async function run(work) {
  busy = true;
  if (item) render();
  try {
    await work();
  } finally {
    busy = false;
    if (item) render();
  }
}

async function save(badPrompt = false) {
  const vote = {
    vote_id: voteId, pair_id: item.pair_id, first: answers[0], second: answers[1], seconds: secondsVisible(),
    bad_prompt: badPrompt, note,
  };
  await run(async () => {
    try {
      const reply = await requestUntilAnswered("/api/vote", vote);
      localStorage.removeItem(draftName());
      showMessage("Saved.");
      receive(reply);
    } catch (error) {
      if (error.status !== 409) return showError(error);
      localStorage.removeItem(draftName());
      showMessage("Not saved: this pair was answered in another window, or decided in the meantime.");
      await loadNext();
    }
  });
}

async function undo() {
  if (busy) return;
  const last = history.pop();
  if (last) {
    const [image, claim, previous] = last;
    answers[image][claim] = previous;
    if (image !== shownImage) showImage(image);
    cursor = claim;
    saveDraft();
    render();
    return scrollToCursor();
  }
  await run(async () => {
    try {
      const reply = await requestUntilAnswered("/api/undo", {});
      if (item) localStorage.removeItem(draftName());
      receive(reply);
      showMessage("The last pair is open again. Change it and save it.");
    } catch (error) {
      if (error.status === 409) showMessage(error.message);
      else showError(error);
    }
  });
}

function showError(error) {
  if (error.status === 401 || error.status === 403) {
    return showNotice("You are logged out", "Open your login link again. The answers on this screen are kept.", false);
  }
  showMessage(sentence(error.message), true);
}

function sentence(text) { return `${text[0].toUpperCase()}${text.slice(1)}.`; }

// ---- notes and bad prompts

function openNote() {
  if (busy) return;
  $("note-text").value = note;
  $("note").showModal();
}

$("note").addEventListener("close", () => {
  note = $("note-text").value.trim();
  saveDraft();
  if ($("note").returnValue === "bad-prompt") save(true);
  else render();
});
$("open-note").addEventListener("click", openNote);

// ---- the enlarged image

function openZoom() {
  zoomLevel = 1;
  $("zoom-image").src = `${item.images[shownImage]}&full=true`;
  $("zoom").showModal();
  sizeZoom();
}

function sizeZoom() {
  const image = $("zoom-image"), pane = $("zoom-pane");
  const fit = Math.min(pane.clientWidth / image.naturalWidth, pane.clientHeight / image.naturalHeight);
  image.width = Math.round(image.naturalWidth * fit * zoomLevel);
  image.classList.toggle("small", fit * zoomLevel > 3);
}

function zoomBy(factor, x = 0.5, y = 0.5) {
  zoomLevel = Math.min(8, Math.max(1, zoomLevel * factor));
  sizeZoom();
  const pane = $("zoom-pane");
  pane.scrollTo((pane.scrollWidth - pane.clientWidth) * x, (pane.scrollHeight - pane.clientHeight) * y);
}

$("zoom-image").addEventListener("load", () => { if ($("zoom").open) sizeZoom(); });
$("image").addEventListener("load", () => {
  $("zoom-open").classList.toggle("small", $("image").naturalWidth < 200);
});
$("zoom-pane").addEventListener("click", (event) => {
  const box = $("zoom-image").getBoundingClientRect();
  const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  if (zoomLevel >= 4) zoomBy(0);
  else zoomBy(2, x, y);
});

// ---- events

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if ((event.key === "Enter" || event.key === " ") && event.target.closest("button, a")) return;  // the focused control gets the key
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if ($("note").open) return;
  if ($("help").open) return key === "?" ? $("help").close() : undefined;
  if (key === "?") return $("help").showModal();
  if ($("review").hidden) {
    if ((key === "z" || key === "Backspace") && !$("notice-undo").hidden) undo();
    return;
  }
  const zoomed = $("zoom").open;
  const scroll = (x, y) => () => $("zoom-pane").scrollBy(x, y);
  const moveCursor = (by) => () => {
    const asked = item.asked[shownImage];
    cursor = asked[Math.min(asked.length - 1, Math.max(0, asked.indexOf(cursor) + by))];
    render();
    scrollToCursor();
  };
  const switchImage = (to) => () => { if (!busy && shownImage !== to && item.asked[to].length) showImage(to); };
  const actions = {
    a: answerRest, c: openNote, z: undo, Backspace: undo, Enter: continueReview,
    " ": zoomed ? () => $("zoom").close() : openZoom,
    ArrowUp: zoomed ? scroll(0, -80) : moveCursor(-1), ArrowDown: zoomed ? scroll(0, 80) : moveCursor(1),
    ArrowLeft: zoomed ? scroll(-80, 0) : switchImage(0), ArrowRight: zoomed ? scroll(80, 0) : switchImage(1),
    "+": zoomed ? () => zoomBy(2) : null, "=": zoomed ? () => zoomBy(2) : null, "-": zoomed ? () => zoomBy(0.5) : null,
  };
  const action = KEYS[key] ? () => giveAnswer(KEYS[key]) : actions[key];
  if (!action) return;
  event.preventDefault();
  if (!event.repeat || key.startsWith("Arrow")) action();
});

document.addEventListener("scroll", recordSeen, { passive: true });
document.addEventListener("click", (event) => {  // a clicked button loses focus, so that Enter still means "continue"
  if (event.detail && event.target.closest("button")) document.activeElement.blur();
});
$("undo").addEventListener("click", undo);
$("rest").addEventListener("click", answerRest);
$("continue").addEventListener("click", continueReview);
$("notice-undo").addEventListener("click", undo);
$("notice-reload").addEventListener("click", () => run(loadNext));
$("tabs").addEventListener("click", (event) => {
  if (event.target.dataset.image && !busy) showImage(Number(event.target.dataset.image));
});
$("zoom-open").addEventListener("click", openZoom);
$("zoom-close").addEventListener("click", () => $("zoom").close());
$("zoom-in").addEventListener("click", () => zoomBy(2));
$("zoom-out").addEventListener("click", () => zoomBy(0.5));
for (const button of $("zoom").querySelectorAll("[data-answer]")) {
  button.addEventListener("click", () => giveAnswer(button.dataset.answer));
}
$("open-help").addEventListener("click", () => $("help").showModal());
$("close-help").addEventListener("click", () => $("help").close());
$("log-out").addEventListener("click", async () => {
  await request("/api/logout", {});
  session = item = null;
  $("bar").hidden = true;
  showNotice("You are logged out", "Open your login link to come back.", false);
});

start();
