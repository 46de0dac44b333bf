// The page of `spatialt2i play`. It sends a prompt and a seed, and reads lines of JSON while the server works.

const $ = (id) => document.getElementById(id);
const SIDES = { base: "Base", tuned: "Tuned" };
const KEPT = 30;  // results on the page
const SMALL = 256;  // an image of fewer pixels a side is enlarged without smoothing

let about = null;
let work = null;       // AbortController of the request that runs
const totals = { tries: 0, base: 0, tuned: 0 };
let zoomed = null;     // { result, side }

function token() {  // in the address after #, and kept for this tab only
  const given = location.hash.slice(1);
  if (given) {
    sessionStorage.setItem("token", decodeURIComponent(given));
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token");
}

function headers() {
  const given = token();
  return { "Content-Type": "application/json", ...(given ? { Authorization: `Bearer ${given}` } : {}) };
}

async function refusal(response) {
  if (response.status === 401) return "This page needs a token: add # and the token to its address, then load it again.";
  const content = await response.json().catch(() => ({}));
  return sentence(typeof content.detail === "string" ? content.detail : `the server answered ${response.status}`);
}

function sentence(text) { return `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`; }

function showProblem(text) { $("problem").textContent = text; }

function say(text) { $("status").textContent = text; }

// ---- what is compared

async function start() {
  try {
    const response = await fetch("/api/about", { headers: headers() });
    if (!response.ok) return showProblem(await refusal(response));
    about = await response.json();
  } catch {
    return showProblem("The server cannot be reached. Load the page again once it runs.");
  }
  const version = about.version === null ? "" : `, policy version ${about.version}`;
  $("about").textContent = `run ${about.run}${version} against its base, ${about.base}`;
  $("examples").hidden = !about.examples.length;
  $("examples").replaceChildren(...about.examples.map((text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", () => { $("prompt").value = text; submit(); });
    return button;
  }));
}

// ---- one prompt

function submit() {
  if (work) return;
  if ($("form").reportValidity()) run($("prompt").value, Number($("seed").value));
}

async function run(prompt, seed) {
  work = new AbortController();
  setBusy(true);
  showProblem("");
  showProgress({ state: "sampling", done: 0 });
  say("Making the images.");
  try {
    const body = JSON.stringify({ prompt, seed });
    const response = await fetch("/api/images", { method: "POST", headers: headers(), body, signal: work.signal });
    if (!response.ok) return showProblem(await refusal(response));
    let last = null;
    for await (const event of lines(response.body)) {
      last = event;
      if (event.state === "done") showResult(event);
      else if (event.state === "failed") showProblem(sentence(event.reason));
      else showProgress(event);
    }
    if (!last || !["done", "failed"].includes(last.state)) showProblem("The connection ended before the images were there. Send the prompt again.");
  } catch (error) {
    if (error.name === "AbortError") say("Cancelled.");
    else showProblem("The server cannot be reached. Your prompt is kept: send it again once the server runs.");
  } finally {
    work = null;
    setBusy(false);
  }
}

async function* lines(stream) {
  const reader = stream.getReader(), decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

function setBusy(busy) {
  $("go").disabled = busy;
  $("next").disabled = busy || !totals.tries;
  $("progress").hidden = !busy;
  for (const button of $("examples").children) button.disabled = busy;
}

function showProgress(event) {
  if (event.state === "waiting") {
    $("progress-text").textContent = event.ahead === 1 ? "1 prompt is served before yours" : `${event.ahead} prompts are served before yours`;
    if ($("status").textContent !== "Waiting for others.") say("Waiting for others.");
    $("bar-progress").removeAttribute("value");
    return;
  }
  $("bar-progress").value = event.state === "scoring" ? 1 : event.done;
  $("progress-text").textContent = event.state === "scoring" ? "scoring the images" : event.done < 0.5 ? "base image" : "tuned image";
}

// ---- a result

function showResult(event) {
  const result = $("result").content.cloneNode(true).firstElementChild;
  result.querySelector("h2").textContent = event.prompt;
  result.querySelector(".facts").textContent = `seed ${event.seed}, ${event.seconds.toFixed(1)} s`;
  result.dataset.prompt = event.prompt;
  for (const side of Object.keys(SIDES)) {
    const image = result.querySelector(`[data-side=${side}] img`);
    image.src = URL.createObjectURL(new Blob([bytes(event[side].png)], { type: "image/png" }));
    image.alt = `${SIDES[side]} image of “${event.prompt}”. ${summary(event[side])}`;
    image.width = about.width;
    image.height = about.height;
    image.classList.toggle("small", about.width < SMALL);
    result.querySelector(`[data-side=${side}]`).setAttribute("aria-label", `Enlarge: ${image.alt}`);
    result.querySelector(`[data-side=${side}]`).addEventListener("click", () => openZoom(result, side));
  }
  result.querySelector("tbody").append(...rows(event));
  if (!result.querySelector("tbody").children.length) result.querySelector("table").remove();
  $("results").prepend(result);
  result.scrollIntoView({ block: "nearest" });  // on a phone it is below the form
  for (const old of [...$("results").children].slice(KEPT)) {
    for (const image of old.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    old.remove();
  }
  count(event);
  say(`Done. Base: ${summary(event.base)} Tuned: ${summary(event.tuned)}`);
}

function bytes(base64) { return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)); }

function summary(side) {
  const scores = Object.entries(side.scores).map(([name, score]) => `${name} ${number(score)}.`);
  if (side.verdict) {
    const right = side.verdict.relations.filter((relation) => relation.holds).length;
    scores.unshift(`${right} of ${side.verdict.relations.length} relations right.`);
  }
  return scores.join(" ");
}

function number(score) { return score === null ? "no score" : `${score < 0 ? "−" : "+"}${Math.abs(score).toFixed(2)}`; }

function* rows(event) {
  for (const name of Object.keys(event.base.scores)) {
    const [base, tuned] = [event.base.scores[name], event.tuned.scores[name]];
    const known = base !== null && tuned !== null;
    yield row(name, [number(base), known && base > tuned ? "better" : ""], [number(tuned), known && tuned > base ? "better" : ""]);
  }
  if (!event.base.verdict) return;
  const sides = [event.base.verdict, event.tuned.verdict];
  for (const [index, relation] of sides[0].relations.entries()) {
    yield row(relation.text, ...sides.map((side) => verdict(side.relations[index].holds, side.relations[index].instead)));
  }
  yield row("all objects there", ...sides.map((side) => verdict(!side.missing.length, `without ${side.missing.join(", ")}`)));
  yield row("nothing else", ...sides.map((side) => verdict(!side.unrequested.length, `also ${side.unrequested.join(", ")}`)));
}

function verdict(holds, instead) { return holds ? ["✓ right", "right"] : [`✗ ${instead}`, "wrong"]; }

function row(name, ...cells) {
  const element = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  element.append(head, ...cells.map(([text, kind]) => {
    const cell = document.createElement("td");
    cell.textContent = text;
    cell.className = kind;
    return cell;
  }));
  return element;
}

function count(event) {
  totals.tries++;
  if (!event.base.verdict) return;
  for (const side of Object.keys(SIDES)) totals[side] += event[side].verdict.perfect;
  $("totals").hidden = totals.tries < 2;
  $("totals").textContent = `${totals.tries} tries on this page: everything right in ${totals.base} base images and in ${totals.tuned} tuned ones.`;
}

// ---- an enlarged image

function openZoom(result, side) {
  zoomed = { result, side };
  const image = result.querySelector(`[data-side=${side}] img`);
  $("zoom-name").textContent = SIDES[side];
  $("zoom-image").src = image.src;
  $("zoom-image").alt = image.alt;
  $("zoom-image").className = image.className;
  $("zoom-prompt").textContent = result.dataset.prompt;
  if (!$("zoom").open) $("zoom").showModal();
}

function showOther() { openZoom(zoomed.result, zoomed.side === "base" ? "tuned" : "base"); }

// ---- events

$("form").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
$("next").addEventListener("click", () => {
  $("seed").value = (Number($("seed").value) + 1) % 2 ** 32;
  submit();
});
$("cancel").addEventListener("click", () => work?.abort());
$("zoom-close").addEventListener("click", () => $("zoom").close());
$("zoom-other").addEventListener("click", showOther);
$("zoom").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") showOther();
});

start();
