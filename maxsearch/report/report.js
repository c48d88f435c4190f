"use strict";
// On paper nothing can be unfolded: the queries' pictures stand open, long lists of numbers stay folded.
const folded = () => document.querySelectorAll("details.query:not([open])");
let opened = [];
addEventListener("beforeprint", () => {
  opened = Array.from(folded());
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of opened) one.open = false;
});
