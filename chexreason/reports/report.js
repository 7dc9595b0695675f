// The cases of a report: filters, deep links and keys. It reads the chips of the page; every text it sets is textContent.
"use strict";
const $ = (id) => document.getElementById(id);
const FIELDS = ["arm", "kind", "label", "arms", "set"].filter($);
const KINDS = {
  right: (answer, label, item) => !answer.broken && wrong(answer) === 0 && (!label || item.truth.has(label)),
  missed: (answer, label) => has(answer.missed, label),
  invented: (answer, label) => has(answer.invented, label),
  broken: (answer, label, item) => answer.broken && (!label || item.truth.has(label)),
};
const items = [...document.querySelectorAll(".case")].map(read);
let here = null; // the case one is at

function labelsOf(node, selector) {
  return new Set([...node.querySelectorAll(selector)].map((chip) => chip.dataset.label));
}

function read(node) {
  const answers = new Map([...node.querySelectorAll("[data-arm]")].map((section) => [section.dataset.arm, {
    broken: "broken" in section.dataset,
    right: labelsOf(section, ".hit"), invented: labelsOf(section, ".false"), missed: labelsOf(section, ".missed"),
  }]));
  return { node, name: node.dataset.case, set: node.dataset.set, truth: labelsOf(node, ".truth [data-label]"), answers };
}

// --- what is shown -----------------------------------------------------------------------------------------------

function has(labels, label) { return label ? labels.has(label) : labels.size > 0; }

function wrong(answer, label) {
  if (label) return Number(answer.missed.has(label) || answer.invented.has(label));
  return answer.missed.size + answer.invented.size + Number(answer.broken);
}

function said(answer, label) {
  const named = [...answer.right, ...answer.invented].sort();
  return label ? named.includes(label) : `${answer.broken} ${named}`;
}

function split(item, wanted) {
  if (!wanted.arms) return true;
  const { better, worse } = $("arms").selectedOptions[0].dataset;
  if (better) return wrong(item.answers.get(better), wanted.label) < wrong(item.answers.get(worse), wanted.label);
  const differ = new Set([...item.answers.values()].map((answer) => said(answer, wanted.label))).size > 1;
  return differ === (wanted.arms === "differ");
}

function fits(item, wanted) {
  const answers = wanted.arm ? [item.answers.get(wanted.arm)] : [...item.answers.values()];
  const named = !wanted.label || item.truth.has(wanted.label) || answers.some((a) => a.invented.has(wanted.label));
  const kind = !wanted.kind || answers.some((answer) => KINDS[wanted.kind](answer, wanted.label, item));
  return (!wanted.set || item.set === wanted.set) && named && kind && split(item, wanted);
}

function filters() { return Object.fromEntries(FIELDS.map((field) => [field, $(field).value])); }
function shown() { return items.filter((item) => !item.node.hidden); }

function show(notes = []) {
  const wanted = filters();
  for (const item of items) item.node.hidden = !fits(item, wanted);
  for (const chip of document.querySelectorAll(".case [data-label]")) {
    chip.classList.toggle("asked", chip.dataset.label === wanted.label);
  }
  const words = FIELDS.filter((field) => wanted[field]).map((field) => $(field).selectedOptions[0].text);
  const count = `${shown().length} of ${items.length} cases${words.length ? `: ${words.join(" · ")}` : ""}`;
  $("count").textContent = [count, ...notes].join(". ");
  $("clear").disabled = !words.length;
}

// --- where one is ------------------------------------------------------------------------------------------------

function remember() {
  const kept = Object.entries({ case: here?.node.hidden ? "" : here?.name, ...filters() }).filter(([, value]) => value);
  history.replaceState(null, "", `#${new URLSearchParams(kept)}`);
}

function mark(item) {
  here?.node.removeAttribute("aria-current");
  here = item;
  here?.node.setAttribute("aria-current", "true");
}

function go(item) {
  if (!item) return;
  mark(item);
  item.node.focus({ preventScroll: true });
  item.node.scrollIntoView({ block: "start" });
  remember();
}

function step(by) {
  const list = shown(), at = list.indexOf(here);
  go(at < 0 ? list[0] : list[at + by]);
}

// Sets the filters and the case that the address asks for, and says what of it is not on this page.
function follow() {
  const asked = new URLSearchParams(location.hash.slice(1)), notes = [];
  for (const field of FIELDS) {
    const value = asked.get(field) ?? "";
    $(field).value = value;
    if ($(field).selectedIndex >= 0) continue;
    $(field).value = "";
    notes.push(`No ${field} “${value}” on this page`);
  }
  const name = asked.get("case"), found = items.find((item) => item.name === name) ?? null;
  mark(found);
  show();
  if (name && !found) notes.push(`No case “${name}” on this page`);
  if (found?.node.hidden) notes.push(`Case ${name} does not fit these filters`);
  if (notes.length) show(notes);
  if (found && !found.node.hidden) go(found);
  else if (notes.length || FIELDS.some((field) => asked.has(field))) $("cases").scrollIntoView();
}

// --- keys --------------------------------------------------------------------------------------------------------

function help() { $("help").showModal(); }
const KEYS = { j: () => step(1), k: () => step(-1), f: () => $(FIELDS[0]).focus(), "?": help };

function onKey(event) {
  if ($("help").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const filtering = event.target.matches("select");
  if (filtering && event.key === "Escape") return event.target.blur();
  if (filtering || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
}

// --- start -------------------------------------------------------------------------------------------------------

function clear() {
  for (const field of FIELDS) $(field).value = "";
  show();
  remember();
}

// A label of the tables that some case has becomes a link to those cases.
function linkLabels() {
  const known = new Set([...$("label").options].map((option) => option.value));
  for (const cell of document.querySelectorAll(".by-label tbody th")) {
    const label = cell.textContent, set = cell.closest(".by-label").dataset.set;
    if (!known.has(label) || !items.some((item) => item.set === set)) continue;
    const link = document.createElement("a");
    const asked = { label, ...($("set") ? { set } : {}) };
    Object.assign(link, { textContent: label, href: `#${new URLSearchParams(asked)}`, title: `Cases with ${label}` });
    cell.replaceChildren(link);
  }
}

$("filters").hidden = false;
$("filters").addEventListener("change", () => { show(); remember(); });
$("clear").addEventListener("click", clear);
$("keys").addEventListener("click", help);
document.addEventListener("keydown", onKey);
document.addEventListener("click", (event) => {
  const link = event.target.closest(".case header a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault(); // the address keeps the filters as well
  go(items.find((item) => item.node.contains(link)));
});
window.addEventListener("hashchange", follow);
linkLabels();
follow();
