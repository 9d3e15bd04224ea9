// First of all scripts: says that scripts run, and leaves a trace of any error on the root element.
"use strict";
document.documentElement.classList.add("js");
window.addEventListener("error", (event) => {
  const root = document.documentElement;
  root.dataset.errors = String(Number(root.dataset.errors || 0) + 1);
  root.dataset.lastError = String(event.message);
});
