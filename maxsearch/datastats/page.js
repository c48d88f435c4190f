"use strict";
const box = document.getElementById("find");
if (box) {
  const plain = (text) => text.normalize("NFKC").toLowerCase();
  const cards = Array.from(document.querySelectorAll(".card"), (card) => [card, plain(card.textContent)]);
  const found = document.getElementById("found");
  const show = () => {
    const words = plain(box.value).split(/\s+/).filter(Boolean);
    let count = 0;
    for (const [card, text] of cards) {
      card.hidden = !words.every((word) => text.includes(word));
      count += card.hidden ? 0 : 1;
    }
    found.textContent = `${count} of ${cards.length} samples`;
  };
  box.addEventListener("input", show);
  show();
}
