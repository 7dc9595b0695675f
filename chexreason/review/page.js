// The review page: one trace at a time, one decision each. All text of data is set with textContent, never as HTML.
import { Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const WORDS = { accept: "Accepted", edit: "Edited", reject: "Rejected" };
const TAG = /(<\/?(?:think|solution|answer)>)/;

let state = { cases: [], reasons: [], other: "" };
let here = 0;
let mode = ""; // "edit" or "reject" while the form is open
let seen = false; // the image of this trace is on the screen
let saving = false;
const drafts = new Map(); // position -> { mode, text, reason, comment, typed, left }: not yet saved; left: its form is closed
const viewer = new Viewer((visible) => { seen = visible; drawActions(); });

function put(parent, tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  parent.append(node);
  return node;
}

function say(text, bad = false) {
  $("message").textContent = text;
  $("message").classList.toggle("bad", bad);
}

function current() { return state.cases[here]; }
// How far on the next trace without a decision is, -1 where all have one; from the one after this, which comes last.
function openEnded() {
  const n = state.cases.length;
  const step = state.cases.findIndex((_, i) => !state.cases[(here + 1 + i) % n].decision);
  return step < 0 ? -1 : step + 1;
}

// --- drawing -----------------------------------------------------------------------------------------------------

function draw() {
  const item = current();
  $("position").textContent = `${here + 1} of ${state.cases.length}`;
  $("source").textContent = `${item.dataset} · ${item.study_id} · ${item.prompt}`;
  $("labels").replaceChildren();
  for (const label of item.labels) put($("labels"), "span", label, "chip");
  if (!item.labels.length) put($("labels"), "span", "none positive", "chip none");
  drawTrace(item);
  drawVerdict(item.decision);
  drawProgress();
  drawForm();
  drawActions();
  viewer.show(here);
  for (const near of [here + 1, here - 1]) if (state.cases[near]) viewer.prepare(near);
  history.replaceState(null, "", `#${here + 1}`);
}

function drawTrace(item) {
  const text = item.decision?.verdict === "edit" ? item.decision.text : item.text;
  const box = $("trace");
  box.replaceChildren();
  box.scrollTop = 0;
  let inside = "";
  for (const part of text.split(TAG)) {
    if (!part) continue;
    const isTag = TAG.test(part);
    put(box, "span", part, isTag ? "tag" : inside === "<solution>" || inside === "<answer>" ? "answer" : "");
    if (isTag) inside = part;
  }
}

function drawVerdict(decision) {
  $("verdict").className = decision?.verdict ?? "";
  if (!decision) return void ($("verdict").textContent = "");
  const why = [decision.reason, decision.comment].filter(Boolean).join(" · ");
  $("verdict").textContent = WORDS[decision.verdict] + (why ? `: ${why}` : "");
}

function drawProgress() {
  const verdicts = state.cases.map((item) => item.decision?.verdict);
  const n = (verdict) => verdicts.filter((one) => one === verdict).length;
  const done = verdicts.filter(Boolean).length;
  $("counts").replaceChildren();
  put($("counts"), "b", `${done} of ${verdicts.length} decided`);
  $("counts").append(` · ${n("accept")} accepted · ${n("edit")} edited · ${n("reject")} rejected`);
  [...$("map").children].forEach((cell, i) => {
    cell.className = verdicts[i] ?? "";
    cell.title = `${i + 1}: ${WORDS[verdicts[i]]?.toLowerCase() ?? "open"}`;
    cell.setAttribute("aria-label", cell.title);
    if (i === here) cell.setAttribute("aria-current", "true");
    else cell.removeAttribute("aria-current");
  });
}

function drawActions() {
  const open = Boolean(mode);
  $("actions").hidden = open;
  // Nobody can vouch for reasoning about an image he does not see.
  $("accept").disabled = $("edit").disabled = saving || !seen;
  $("reject").disabled = saving;
  $("withdraw").disabled = saving;
  $("withdraw").hidden = !current()?.decision;
  $("save").disabled = saving;
  $("previous").disabled = here === 0;
  $("next").disabled = here === state.cases.length - 1;
}

function drawForm() {
  const kept = drafts.get(here), draft = kept?.left ? undefined : kept;
  mode = draft?.mode ?? "";
  $("form").hidden = !draft;
  $("form").className = mode;
  $("trace").hidden = mode === "edit";
  $("faults").replaceChildren();
  if (!draft) return;
  $("form-title").textContent = mode === "edit" ? "Edit the trace" : "Reject the trace";
  $("text-row").hidden = mode !== "edit";
  $("save").textContent = mode === "edit" ? "Save the edit " : "Reject ";
  put($("save"), "kbd", mode === "edit" ? "Ctrl Enter" : "Enter");
  $("text").value = draft.text;
  $("comment").value = draft.comment;
  for (const radio of document.querySelectorAll("#reasons input")) radio.checked = radio.value === draft.reason;
  drawCommentNote();
}

function drawCommentNote() {
  $("comment-note").textContent = drafts.get(here)?.reason === state.other ? "needed for this reason" : "optional";
}

// --- doing -------------------------------------------------------------------------------------------------------

function go(position) {
  if (position < 0 || position >= state.cases.length || saving) return;
  here = position;
  say("");
  draw();
}

function goToOpen() {
  const step = openEnded();
  if (step < 0) {
    draw();
    return say("Every trace has a decision. You can close this page, or go back to any of them.");
  }
  go((here + step) % state.cases.length);
}

function open(kind) {
  if (kind === "edit" && !seen) return say("The image is not there: an edit has to be checked against it.", true);
  const { decision, text } = current();
  const again = decision?.verdict === kind ? decision : undefined;
  const fresh = { mode: kind, text: again?.text || text, reason: again?.reason ?? "", comment: again?.comment ?? "" };
  drafts.set(here, { ...fresh, ...drafts.get(here), mode: kind, left: false });
  say("");
  drawForm();
  drawActions();
  if (kind === "edit") {
    $("text").focus();
    $("text").setSelectionRange(0, 0);
    $("text").scrollTop = 0;
  } else document.querySelector("#reasons input").focus();
}

// Esc leaves the form and keeps what was typed; Cancel throws it away.
function close(keep) {
  const draft = drafts.get(here);
  if (keep && draft.typed) draft.left = true;
  else drafts.delete(here);
  drawForm();
  drawActions();
  $("trace").focus({ preventScroll: true });
}

// Keeps one decision; the page goes on only once the server has said that it is on the disk.
async function decide(verdict, rest = {}) {
  if (saving) return;
  const position = here, item = current();
  saving = true;
  drawActions();
  let faults = [], kept;
  try {
    const reply = await fetch(`decision/${position}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ verdict, text_sha256: item.text_sha256, ...rest }),
    });
    const said = await reply.json();
    if (reply.ok) kept = said;
    else faults = said.faults;
  } catch {
    faults = ["Not saved: the server cannot be reached. What you typed is still here; try again."];
  }
  saving = false;
  if (!kept) return void showFaults(faults);
  item.decision = kept.decision;
  drafts.delete(position);
  const words = verdict === "withdrawn" ? "taken back" : WORDS[verdict].toLowerCase();
  if (verdict === "withdrawn") draw();
  else goToOpen();
  // The browser takes the focus from a hidden field only with its next frame; a key before that would be typed into it.
  $("trace").focus({ preventScroll: true });
  if (openEnded() >= 0) say(`Trace ${position + 1} ${words}.`);
}

function showFaults(faults) {
  drawActions();
  if (!mode) return say(faults.join("; "), true);
  $("faults").replaceChildren();
  for (const fault of faults) put($("faults"), "li", fault);
  $("faults").scrollIntoView({ block: "nearest" });
}

function accept() {
  if (!seen) return say("The image is not there: reject the trace, or go on.", true);
  decide("accept");
}

function save() {
  const { mode: verdict, text, reason, comment } = drafts.get(here);
  decide(verdict, { reason, comment, text: verdict === "edit" ? text : "" });
}

function choose(number) {
  const radio = document.querySelectorAll("#reasons input")[number - 1];
  if (!radio) return;
  radio.checked = true;
  radio.focus();
  radio.dispatchEvent(new Event("change", { bubbles: true }));
}

// --- keys --------------------------------------------------------------------------------------------------------

const KEYS = {
  a: accept, e: () => open("edit"), r: () => open("reject"),
  u: () => { if (current().decision) decide("withdrawn"); },
  j: () => go(here + 1), k: () => go(here - 1), ArrowRight: () => go(here + 1), ArrowLeft: () => go(here - 1),
  n: goToOpen, "+": () => viewer.zoom(1.25), "=": () => viewer.zoom(1.25), "-": () => viewer.zoom(0.8),
  i: () => viewer.invert(), 0: () => viewer.reset(), "/": () => $("help").showModal(), "?": () => $("help").showModal(),
};

function onKey(event) {
  if ($("help").open || event.isComposing || !state.cases.length) return;
  const typing = event.target.matches("textarea, #comment");
  if (mode) {
    if (event.key === "Escape") close(true);
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
    else if (mode === "reject" && event.key === "Enter" && event.target.type !== "button") save();
    else if (!typing && /^[1-9]$/.test(event.key)) choose(Number(event.key));
    else return;
    return event.preventDefault();
  }
  if (event.ctrlKey || event.metaKey || event.altKey || typing || event.repeat && !/^[jk+-]$/.test(event.key)) return;
  if (event.target.type === "range" && event.key.startsWith("Arrow")) return;
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function listen() {
  document.addEventListener("keydown", onKey);
  $("accept").addEventListener("click", accept);
  $("edit").addEventListener("click", () => open("edit"));
  $("reject").addEventListener("click", () => open("reject"));
  $("withdraw").addEventListener("click", KEYS.u);
  $("cancel").addEventListener("click", () => close(false));
  $("previous").addEventListener("click", KEYS.k);
  $("next").addEventListener("click", KEYS.j);
  $("open-help").addEventListener("click", KEYS["/"]);
  $("form").addEventListener("submit", (event) => { event.preventDefault(); save(); });
  const type = (field, value) => Object.assign(drafts.get(here), { [field]: value, typed: true });
  $("text").addEventListener("input", () => type("text", $("text").value));
  $("comment").addEventListener("input", () => type("comment", $("comment").value));
  $("reasons").addEventListener("change", (event) => { type("reason", event.target.value); drawCommentNote(); });
  window.addEventListener("beforeunload", (event) => { if (drafts.size) event.preventDefault(); });
}

async function start() {
  let reply;
  try {
    reply = await fetch("state");
    state = await reply.json();
  } catch {
    return say("The server cannot be reached: load the page again once it runs.", true);
  }
  if (!reply.ok) return say(state.faults.join("; "), true);
  $("reader").textContent = state.reviewer;
  document.title = `Trace review: ${state.reviewer}`;
  state.reasons.forEach((reason, i) => {
    const label = put($("reasons"), "label"), radio = put(label, "input");
    Object.assign(radio, { type: "radio", name: "reason", value: reason });
    put(label, "kbd", String(i + 1));
    put(label, "span", reason);
  });
  state.cases.forEach((_, i) => Object.assign(put($("map"), "button"), { type: "button", tabIndex: -1 }).addEventListener("click", () => go(i)));
  listen();
  const asked = Number(location.hash.slice(1)) - 1;
  here = state.cases[asked] ? asked : Math.max(0, state.cases.findIndex((item) => !item.decision));
  draw();
}

start();
