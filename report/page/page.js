"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Sorting: numbers by value, words by the alphabet, nothing last in either direction.
const compare = (a, b) => {
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
};
for (const table of all("table.sortable")) {
  const headers = all("th", table);
  headers.forEach((header, column) => header.querySelector("button")?.addEventListener("click", () => {
    const up = header.getAttribute("aria-sort") !== "ascending";
    headers.forEach((each) => each.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.key;
    const rows = all("tbody tr", table).sort((a, b) => {
      if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
      return up ? compare(key(a), key(b)) : compare(key(b), key(a));
    });
    table.tBodies[0].append(...rows);
  }));
}

// Which claims are shown: of one verdict, of one source, with some words.
const bar = all(".bar button");
const [source, find, shown] = ["source", "find", "shown"].map((id) => document.getElementById(id));
const claims = all("#claims tbody tr");
const has = (row, words) => row.textContent.toLowerCase().includes(words.trim().toLowerCase());
const choose = () => {
  const verdict = bar.find((each) => each.getAttribute("aria-pressed") === "true")?.dataset.verdict;
  for (const row of claims) {
    row.hidden = Boolean((verdict && row.dataset.verdict !== verdict)
      || (source.value && row.dataset.source !== source.value) || !has(row, find.value));
  }
  const count = claims.filter((row) => !row.hidden).length;
  shown.value = count === claims.length ? `${count} claims` : `${count} of ${claims.length}`;
};
for (const button of bar) {
  button.addEventListener("click", () => {
    const pressed = button.getAttribute("aria-pressed") === "true";
    bar.forEach((each) => each.setAttribute("aria-pressed", String(each === button && !pressed)));
    choose();
    document.getElementById("claims").scrollIntoView({ block: "nearest" });
  });
}
source.addEventListener("change", choose);
find.addEventListener("input", choose);
choose();
for (const field of all("details .find")) {
  field.addEventListener("input", () => {
    for (const row of all("tbody tr", field.closest("details"))) row.hidden = !has(row, field.value);
  });
}

// A figure in the whole window.
const enlarged = document.getElementById("enlarged");
for (const button of all("figure .zoom")) {
  button.addEventListener("click", () => {
    const image = button.querySelector("img");
    enlarged.querySelector("img").src = image.src;
    enlarged.querySelector("img").alt = image.alt;
    enlarged.querySelector("p").textContent = image.alt;
    enlarged.showModal();
  });
}
enlarged.addEventListener("click", () => enlarged.close());

// The section that is read, in the list on the left.
const links = all('nav ul:not(.files) a[href^="#"]');
const read = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) links.forEach((a) => a.classList.toggle("here", a.hash === `#${target.id}`));
  }
}, { rootMargin: "-10% 0px -80% 0px" });
links.forEach((link) => read.observe(document.querySelector(link.hash)));
