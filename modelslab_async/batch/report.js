"use strict";
// The jobs are data. Cards are made in blocks, and only for the blocks near the reader's view. A video element exists
// only while its card is in view. So the page of 20,000 jobs holds about a hundred cards and a handful of videos.

const jobs = JSON.parse(document.querySelector("#jobs").textContent);
const wall = document.querySelector("#wall");
const template = document.querySelector("#card").content.firstElementChild;
const buttons = [...document.querySelectorAll(".filters button")];
const search = document.querySelector("#search");
const player = document.querySelector("dialog");
const still = matchMedia("(prefers-reduced-motion: reduce)");

const BLOCK = 24; // cards: full rows of one to four columns, the most that the page's width allows
const LINE = 24; // characters: a detail that is shorter fits a line of its card
let shown = jobs; // the jobs that the filters let through
let blocks = []; // an element for each BLOCK of them; it is empty while it is far from the view, else it has a list
let rowHeight = 400; // pixels, the mean in the first block
let width = 0; // pixels, of the wall when rowHeight was measured

// --- cards ---

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function textOf(job) {
  const text = template.querySelector(".text").cloneNode(true);
  text.querySelector(".prompt").textContent = job.prompt;
  const state = text.querySelector(".state");
  state.textContent = job.label;
  state.classList.add(job.state);
  if (job.error) text.querySelector(".reason").textContent = job.error;
  else text.querySelector(".reason").remove();
  const resolve = text.querySelector(".resolve");
  if (!job.resolve) resolve.remove();
  else for (const code of resolve.querySelectorAll("[data-step]")) code.textContent = job.resolve[code.dataset.step];
  const list = text.querySelector("dl");
  for (const [name, value] of Object.entries(job.details)) {
    const detail = element("dd", value.length > LINE ? "clamp" : "", value);
    detail.title = value;
    list.append(element("dt", "", name), detail);
  }
  return text;
}

function screenOf(job) {
  if (!job.src) return null;
  if (job.isMissing) return element("div", "screen", "the file is missing");
  const screen = element("button", "screen");
  screen.setAttribute("aria-label", `Play: ${job.prompt}`);
  return screen;
}

function cardOf(job) {
  const card = template.cloneNode(false);
  card.classList.add(job.state);
  card.job = job;
  const screen = screenOf(job);
  if (screen) card.append(screen);
  card.append(textOf(job));
  return card;
}

function isCut(text) {
  return text.scrollHeight > text.clientHeight + 1 || text.scrollWidth > text.clientWidth + 1;
}

// --- blocks of cards ---

function rowsOf(block) {
  const columns = getComputedStyle(blocks[0].firstChild).gridTemplateColumns.split(" ").length;
  return Math.ceil(Math.min(BLOCK, shown.length - block.number * BLOCK) / columns);
}

// Give the blocks that are empty the height that they will have, about: the scrollbar stands for all cards.
function estimate() {
  if (!blocks.length) return;
  fill(blocks[0]);
  width = wall.clientWidth;
  rowHeight = blocks[0].offsetHeight / rowsOf(blocks[0]);
  const [full, last] = [blocks[0], blocks.at(-1)].map((block) => `${rowsOf(block) * rowHeight}px`);
  for (const block of blocks) if (!block.firstChild) block.style.height = block === blocks.at(-1) ? last : full;
}

function fill(block) {
  if (!block || block.firstChild) return;
  const from = block.number * BLOCK;
  const list = element("ul", "block");
  list.setAttribute("aria-label", `Videos from ${from + 1}`);
  list.append(...shown.slice(from, from + BLOCK).map(cardOf));
  block.append(list);
  block.style.height = "";
  const cut = [...list.children].filter((card) => [...card.querySelectorAll(".clamp")].some(isCut));
  for (const card of cut) card.querySelector(".more").hidden = false;
  for (const screen of block.querySelectorAll("button.screen")) inView.observe(screen);
}

function empty(block) {
  if (!block.firstChild || block.contains(document.activeElement)) return;
  block.style.height = `${block.offsetHeight}px`;
  for (const screen of block.querySelectorAll("button.screen")) inView.unobserve(screen);
  block.replaceChildren();
}

const nearView = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) isIntersecting ? fill(target) : empty(target);
}, { rootMargin: "600px" });

function makeBlocks() {
  nearView.disconnect();
  inView.disconnect();
  blocks = Array.from({ length: Math.ceil(shown.length / BLOCK) }, (_, number) => {
    const block = element("div");
    block.number = number;
    return block;
  });
  wall.replaceChildren(...blocks);
  estimate();
  for (const block of blocks) nearView.observe(block);
}

function cardAt(index) {
  const block = blocks[Math.floor(index / BLOCK)];
  for (const near of [blocks[block.number - 1], block, blocks[block.number + 1]]) fill(near);
  return block.firstChild.children[index % BLOCK];
}

function reveal(job) {
  if (!shown.includes(job)) clear();
  document.querySelector(".card.revealed")?.classList.remove("revealed");
  const card = cardAt(shown.indexOf(job));
  card.classList.add("revealed");
  card.scrollIntoView({ block: "center" });
  card.querySelector("button:not([hidden])")?.focus({ preventScroll: true });
}

new ResizeObserver(() => wall.clientWidth === width || estimate()).observe(wall);
addEventListener("beforeprint", () => blocks.forEach(fill));

// --- videos ---

function play(screen) {
  if (!still.matches) screen.firstChild?.play().catch(() => {});
}

const inView = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) removeVideo(target);
    else if (!target.firstChild) addVideo(target);
  }
});

function addVideo(screen) {
  const { job } = screen.parentElement;
  const video = element("video");
  Object.assign(video, { muted: true, loop: true, playsInline: true, preload: "metadata", src: `${job.src}#t=0.1` });
  video.addEventListener("error", () => {
    if (!screen.contains(video)) return;
    job.isMissing = true;
    inView.unobserve(screen);
    screen.replaceWith(screenOf(job));
  });
  screen.append(video);
}

function removeVideo(screen) {
  const video = screen.firstChild;
  if (!video) return;
  video.remove();
  video.removeAttribute("src");
  video.load(); // the browser frees the decoder
}

function open(job) {
  const view = player.querySelector(".shown");
  view.replaceChildren(textOf(job));
  if (job.src && !job.isMissing) {
    const video = element("video");
    Object.assign(video, { controls: true, loop: true, playsInline: true, src: job.src });
    view.prepend(video);
    video.play().catch(() => {});
  }
  player.showModal();
}

player.addEventListener("close", () => player.querySelector(".shown").replaceChildren());
player.querySelector(".close").addEventListener("click", () => player.close());

for (const [name, act] of [["pointerover", play], ["focusin", play], ["pointerout", pause], ["focusout", pause]]) {
  wall.addEventListener(name, (event) => {
    const screen = event.target.closest("button.screen");
    if (screen && !screen.contains(event.relatedTarget)) act(screen);
  });
}

function pause(screen) {
  screen.firstChild?.pause();
}

wall.addEventListener("click", (event) => {
  if (event.target.closest("button")) open(event.target.closest(".card").job);
});

wall.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const from = event.target.closest(".card");
  if (!step || !from) return;
  event.preventDefault();
  for (let index = shown.indexOf(from.job) + step; shown[index]; index += step) {
    if (!shown[index].src || shown[index].isMissing) continue;
    cardAt(index).querySelector("button.screen").focus();
    return;
  }
});

// --- filters ---

function searchText(job) {
  job.text ??= [job.prompt, job.label, job.error, ...Object.values(job.details)].join("\n").toLowerCase();
  return job.text;
}

function prepareSearch(from = 0) {
  for (const job of jobs.slice(from, from + 1000)) searchText(job);
  if (from < jobs.length) setTimeout(prepareSearch, 0, from + 1000);
}

function filter() {
  const state = buttons.find((button) => button.getAttribute("aria-pressed") === "true").value;
  const words = search.value.trim().toLowerCase();
  shown = jobs.filter((job) => (!state || job.state === state) && (!words || searchText(job).includes(words)));
  makeBlocks();
  document.querySelector("#count").textContent = `${shown.length} of ${jobs.length} shown`;
  document.querySelector("#nothing").hidden = shown.length > 0;
}

function press(pressed) {
  for (const button of buttons) button.setAttribute("aria-pressed", button === pressed);
}

function clear() {
  search.value = "";
  press(buttons[0]);
  filter();
}

for (const button of buttons) {
  button.addEventListener("click", () => {
    press(button);
    filter();
  });
}
search.addEventListener("input", filter);
document.querySelector("#clear").addEventListener("click", clear);

// --- timeline ---

function timeline(lanes) {
  const seconds = Number(lanes.dataset.seconds);
  const laneCount = Number(lanes.dataset.lanes);
  const sent = jobs.filter((job) => job.bar).sort((one, other) => one.bar[0] - other.bar[0]);
  const inLane = Array.from({ length: laneCount }, () => []);
  for (const job of sent) inLane[job.bar[2]].push(job);
  const caption = document.querySelector(".caption");
  caption.textContent += ". Point at a bar to see its job, or use the arrow keys.";
  const count = caption.textContent;
  const mark = element("div", "mark");
  mark.hidden = true;
  lanes.append(mark);
  let pointed = -1; // an index of `sent`

  function point(index) {
    pointed = index;
    const job = sent[index];
    mark.hidden = !job;
    caption.textContent = count;
    if (!job) return;
    const [begin, end, lane] = job.bar;
    mark.style.left = `${(100 * begin) / seconds}%`;
    mark.style.width = `${(100 * (end - begin)) / seconds}%`;
    mark.style.top = `${(100 * lane) / laneCount}%`;
    mark.style.height = `${100 / laneCount}%`;
    const text = `Line ${job.line}, ${job.label}, ${job.time}: ${job.prompt}`;
    caption.textContent = text;
    lanes.setAttribute("aria-valuenow", index + 1);
    lanes.setAttribute("aria-valuetext", text);
  }

  function jobAt({ clientX, clientY }) {
    const box = lanes.getBoundingClientRect();
    const at = ((clientX - box.left) / box.width) * seconds;
    const reach = (4 / box.width) * seconds; // a bar may be thinner than a pixel
    const lane = Math.min(Math.max(Math.floor(((clientY - box.top) / box.height) * laneCount), 0), laneCount - 1);
    const distance = (job) => Math.max(job.bar[0] - at, at - job.bar[1], 0);
    let [low, high] = [0, inLane[lane].length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (inLane[lane][middle].bar[0] <= at) low = middle + 1;
      else high = middle;
    }
    const near = inLane[lane].slice(Math.max(low - 1, 0), low + 1).sort((a, b) => distance(a) - distance(b));
    return near.length && distance(near[0]) <= reach ? near[0] : null;
  }

  lanes.addEventListener("pointermove", (event) => point(sent.indexOf(jobAt(event))));
  lanes.addEventListener("click", (event) => {
    const job = jobAt(event);
    point(sent.indexOf(job));
    if (job) reveal(job);
  });
  lanes.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step) point(Math.min(Math.max(pointed + step, 0), sent.length - 1));
    else if (event.key === "Enter" && sent[pointed]) reveal(sent[pointed]);
    else return;
    event.preventDefault();
  });
  lanes.addEventListener("focus", () => pointed < 0 && point(0));
  lanes.addEventListener("pointerleave", () => document.activeElement === lanes || point(-1));
  lanes.tabIndex = 0;
  lanes.setAttribute("role", "slider");
  lanes.setAttribute("aria-label", "Jobs by time. Enter shows the job's card.");
  lanes.setAttribute("aria-valuemin", 1);
  lanes.setAttribute("aria-valuemax", sent.length);
  lanes.setAttribute("aria-valuenow", 1);
}

// --- start ---

document.querySelector(".filters").hidden = false;
filter();
const lanes = document.querySelector(".lanes");
if (lanes) timeline(lanes);
setTimeout(prepareSearch, 200);
