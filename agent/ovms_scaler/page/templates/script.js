// SPDX-License-Identifier: Apache-2.0
// Puts the present state in place of the one that is shown. Without it the page is what it was when loaded.
"use strict";
(() => {
  const PERIOD_MS = 2000;
  // Of an agent that has not answered for so long it is said that it does not.
  const PATIENCE_MS = 5000;

  const live = document.getElementById("live");
  const pulse = document.getElementById("pulse");
  const silence = document.getElementById("silence");
  const icon = document.getElementById("icon");
  let timer = 0;
  let asking = false;

  function isSelected(node) {
    const selection = document.getSelection();
    return selection !== null && !selection.isCollapsed && selection.containsNode(node, true);
  }

  function keyOf(node) {
    return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") || node.id : "";
  }

  function areAlike(one, other) {
    return one.nodeName === other.nodeName && keyOf(one) === keyOf(other);
  }

  // Changes what differs and nothing else: what has the focus, is selected or scrolled stays the same node.
  function update(shown, wanted) {
    if (shown.nodeType !== Node.ELEMENT_NODE) {
      if (shown.data !== wanted.data && !isSelected(shown)) shown.data = wanted.data;
      return;
    }
    for (const { name, value } of wanted.attributes) {
      if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
    }
    for (const { name } of [...shown.attributes]) {
      // Who has opened what is folded wants to go on reading.
      const isTheirs = name === "open" && shown.nodeName === "DETAILS";
      if (!wanted.hasAttribute(name) && !isTheirs) shown.removeAttribute(name);
    }
    updateChildren(shown, [...wanted.childNodes]);
  }

  function updateChildren(shown, wanted) {
    const left = [...wanted];
    for (const child of [...shown.childNodes]) {
      const index = left.findIndex((other) => areAlike(child, other));
      if (index >= 0) left.splice(index, 1);
      else if (!isSelected(child)) child.remove();
    }
    let next = shown.firstChild;
    for (const other of wanted) {
      let found = next;
      while (found !== null && !areAlike(found, other)) found = found.nextSibling;
      if (found === null) {
        shown.insertBefore(document.adoptNode(other), next);
        continue;
      }
      if (found !== next) shown.insertBefore(found, next);
      update(found, other);
      next = found.nextSibling;
    }
  }

  function show(text) {
    const wanted = new DOMParser().parseFromString(text, "text/html").getElementById("live");
    if (wanted === null) throw new Error("this is not the page");
    if (wanted.dataset.edition !== live.dataset.edition) {
      location.reload();
      return;
    }
    const focused = live.contains(document.activeElement) ? document.activeElement : null;
    update(live, wanted);
    // What had the focus is gone: who uses the keyboard goes on from here, not from the top.
    if (focused !== null && !focused.isConnected) live.focus({ preventScroll: true });
  }

  function mark(answers) {
    if (!answers && silence.hidden) silence.querySelector("time").textContent = live.dataset.at;
    silence.hidden = answers;
    pulse.hidden = !answers;
    const title = answers ? live.dataset.title : `No answer \u2013 ${live.dataset.title}`;
    if (document.title !== title) document.title = title;
    const image = icon.dataset[answers ? live.dataset.level : "unknown"];
    if (icon.getAttribute("href") !== image) icon.setAttribute("href", image);
  }

  // The agent's answer, or null when there is none.
  async function ask() {
    try {
      const response = await fetch("fragment", {
        cache: "no-store",
        credentials: "omit",
        redirect: "error",
        signal: AbortSignal.timeout(PATIENCE_MS),
      });
      return response.ok ? await response.text() : null;
    } catch {
      return null;
    }
  }

  async function turn() {
    clearTimeout(timer);
    if (document.hidden || asking) return;
    asking = true;
    const text = await ask();
    try {
      if (text !== null) show(text);
      mark(text !== null);
    } finally {
      asking = false;
      timer = setTimeout(turn, PERIOD_MS);
    }
  }

  async function copy(button) {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.firstChild.data = "Copied";
  }

  if (navigator.clipboard) {
    document.documentElement.classList.add("can-copy");
    document.addEventListener("click", (event) => {
      const button = event.target.closest("button.copy");
      if (button !== null) copy(button).catch(() => undefined);
    });
  }
  document.addEventListener("visibilitychange", turn);
  pulse.hidden = false;
  timer = setTimeout(turn, PERIOD_MS);
})();
