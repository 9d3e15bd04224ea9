// Tooltips in the page's own style.
(() => {
  const tip = document.getElementById("tip");
  // Native titles serve pages without scripts; here they would show twice.
  for (const title of document.querySelectorAll("svg.chart g > title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.remove();
  }
  const place = (x, y) => {
    const box = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, x + 14), document.documentElement.clientWidth - box.width - 8);
    const top = y + 18 + box.height > window.innerHeight ? y - box.height - 12 : y + 18;
    tip.style.left = left + "px";
    tip.style.top = Math.max(4, top) + "px";
  };
  document.addEventListener("pointermove", (event) => {
    const owner = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
    tip.hidden = !owner;
    if (owner) {
      tip.textContent = owner.dataset.tip;
      place(event.clientX, event.clientY);
    }
  });
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
})();
