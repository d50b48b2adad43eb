// What HTML and htmx do not: the dialog, a lost connection, choosing all rows, and messages that go away.
"use strict";

const said = document.getElementById("said");
const MESSAGE_MILLISECONDS = 8000;
let going = 0;

document.addEventListener("htmx:after:swap", () => {
  const dialog = document.querySelector("#dialog dialog:not([open])");
  if (dialog && !dialog.dataset.closed) {
    dialog.showModal();
    dialog.addEventListener("close", () => { dialog.dataset.closed = "yes"; dialog.remove(); });
    dialog.addEventListener("submit", () => setTimeout(() => dialog.close()));
  }
  showChosen();
});

new MutationObserver(() => {
  clearTimeout(going);
  going = setTimeout(() => said.replaceChildren(), MESSAGE_MILLISECONDS);
}).observe(said, { childList: true });

// The page asks again every second by itself; here it only says that nobody answers.
const lost = (is) => { document.getElementById("lost").hidden = !is; };
document.addEventListener("htmx:error", () => lost(true));
document.addEventListener("htmx:response:error", (event) => {
  if ((event.detail.ctx?.response?.status ?? 0) >= 500) lost(true);
});
document.addEventListener("htmx:after:request", (event) => {
  if ((event.detail.ctx?.response?.status ?? 500) < 500) lost(false);
});

const rows = () => [...document.querySelectorAll("input[form=chosen][name=ids]")];
document.addEventListener("change", (event) => {
  if (event.target.matches(".choose-all")) rows().forEach((row) => { row.checked = event.target.checked; });
  if (event.target.matches(".choose-all, input[form=chosen]")) showChosen();
});

function showChosen() {
  const button = document.getElementById("reexport-chosen");
  if (!button) return;
  const count = rows().filter((row) => row.checked).length;
  button.textContent = count ? `Re-export chosen (${count})` : "Re-export chosen";
  document.querySelectorAll(".choose-all").forEach((all) => { all.checked = count > 0 && count === rows().length; });
}
