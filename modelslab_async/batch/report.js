"use strict";
const cards = [...document.querySelectorAll(".card")];
const buttons = [...document.querySelectorAll(".filters button")];
const search = document.querySelector("#search");
const count = document.querySelector("#count");
const player = document.querySelector("dialog");
const still = matchMedia("(prefers-reduced-motion: reduce)");

function filter() {
  const state = buttons.find((button) => button.getAttribute("aria-pressed") === "true").value;
  const words = search.value.trim().toLowerCase();
  let shown = 0;
  for (const card of cards) {
    card.text ??= card.querySelector(".text").textContent.toLowerCase();
    card.hidden = (state !== "" && card.dataset.state !== state) || !card.text.includes(words);
    shown += !card.hidden;
  }
  count.textContent = `${shown} of ${cards.length} shown`;
}

for (const button of buttons) {
  button.addEventListener("click", () => {
    for (const other of buttons) other.setAttribute("aria-pressed", other === button);
    filter();
  });
}
search.addEventListener("input", filter);

function missing(video) {
  const screen = document.createElement("div");
  screen.className = "screen";
  screen.textContent = "the file is missing";
  video.closest(".screen").replaceWith(screen);
}

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    target.addEventListener("error", () => missing(target));
    target.preload = "metadata";
    target.src = `${target.dataset.src}#t=0.1`;
  }
}, { rootMargin: "300px" });

function open(video) {
  const large = player.querySelector("video");
  large.src = video.dataset.src;
  player.querySelector("p").textContent = video.closest(".card").querySelector(".prompt").textContent;
  player.showModal();
  large.play().catch(() => {});
}

for (const video of document.querySelectorAll(".card video")) {
  seen.observe(video);
  const screen = video.closest("button");
  const play = () => { if (!still.matches && video.src) video.play().catch(() => {}); };
  const pause = () => video.pause();
  screen.addEventListener("pointerenter", play);
  screen.addEventListener("focus", play);
  screen.addEventListener("pointerleave", pause);
  screen.addEventListener("blur", pause);
  screen.addEventListener("click", () => open(video));
}
player.addEventListener("close", () => player.querySelector("video").removeAttribute("src"));
player.querySelector("button").addEventListener("click", () => player.close());

document.querySelector(".wall").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const screens = [...document.querySelectorAll(".card:not([hidden]) button.screen")];
  const at = screens.indexOf(document.activeElement);
  if (!step || at < 0) return;
  event.preventDefault();
  screens[at + step]?.focus();
});
filter();
