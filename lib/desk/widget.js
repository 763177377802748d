// The browser side of the labelling panel (lib/desk/widget.py): shows a screen, and tells the kernel what is
// pressed. It decides nothing: the kernel's reply says what to show, and until then further presses do not count.

// Per question: what is asked, and its choices as [choice, key, words, sign].
const MARKS = [["good", "g", "Good", "✓"], ["bad", "b", "Bad", "✗"], ["skip", "s", "Skip", "–"]];
const SIDES = [["first", "1", "Set 1", ""], ["tie", "t", "Tie", ""], ["second", "2", "Set 2", ""]];
const ASKED = {
  good: { text: "Does each image show all that the prompt says?", choices: () => MARKS },
  alignment: { text: "Which set shows better what the prompt says?", choices: () => SIDES },
  fidelity: { text: "Which set looks better, whatever the prompt says?", choices: () => SIDES },
  best: {
    text: "Which image is best for the prompt?",
    choices: (images) => [...Array.from({ length: images }, (_, i) => [`${i}`, `${i + 1}`, `Image ${i + 1}`, ""]),
      ["skip", "s", "Skip", ""]],
  },
};
const PATIENCE = 4000; // milliseconds without a reply after which the panel says so
const SILENCE = "No reply from the kernel: it is busy, or was restarted (then run the cell again).";

function make(tag, className, text, attributes = {}) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text; // always as text: a prompt is never read as HTML
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function button(choice, key, words, label) {
  const made = make("button", "", `${words} `, { type: "button", "data-press": choice, "aria-keyshortcuts": key });
  made.append(make("kbd", "", key, { "aria-hidden": "true" }));
  if (label) made.setAttribute("aria-label", label);
  return made;
}

function render({ model, el }) {
  const root = make("section", "labelling", undefined, {
    tabindex: "0", "aria-label": "Labelling panel", "data-lm-suppress-shortcuts": "true" });
  const prompt = make("p", "prompt"), asked = make("p", "asked"), stage = make("div", "stage");
  const undo = button("undo", "u", "Undo", "Undo the last answer");
  const bar = make("progress", "", undefined, { "aria-hidden": "true" });
  const facts = make("p", "facts"), foot = make("div", "foot");
  const last = make("p", "last"), said = make("span", "said"), aloud = make("span", "aloud", "", { role: "status" });
  last.append(said, make("span", "hint", " Keys work in here: click the panel, or press Tab until it is framed."), aloud);
  foot.append(undo, bar, facts);
  root.append(prompt, asked, stage, foot, last);
  el.append(root);

  let state = null; // the kernel's last word
  let place = 0; // the question on the screen that a key answers
  let since = 0; // when the screen last changed
  let timer = null; // runs while a reply is awaited

  // ---- to the kernel ----

  function send(message) {
    if (timer !== null) return; // no press counts for what is not on the screen yet
    timer = setTimeout(() => say(SILENCE), PATIENCE);
    model.send({ ticket: state?.ticket ?? null, ...message });
  }

  function press(choice, at = place) {
    if (choice === "undo") send({ kind: "undo" });
    else if (state?.screen) {
      send({ kind: "answer", place: at, choice, seconds: Math.round(performance.now() - since) / 1000 });
    }
  }

  function received(message) {
    const waited = timer !== null;
    clearTimeout(timer);
    timer = null;
    if (!waited && message.ticket === state?.ticket) return; // another view of this panel was opened
    state = message;
    show();
  }

  // ---- on the screen ----

  function say(text, next = "") {
    said.textContent = text;
    aloud.textContent = `${text} ${next}`; // for screen readers: what is asked next, too
  }

  function choices() {
    const { question, groups } = state.screen;
    return ASKED[question].choices(groups.length);
  }

  function show() {
    const active = root.getRootNode().activeElement;
    const held = root.contains(active) ? active : null; // redrawing must not lose the keyboard's place
    const was = { press: held?.dataset.press, inStage: stage.contains(held) };
    prompt.textContent = state.screen ? state.screen.prompt : "All is answered. Thank you.";
    asked.textContent = state.screen ? ASKED[state.screen.question].text : "";
    stage.replaceChildren(...(state.screen ? drawn() : []));
    bar.max = state.of;
    bar.value = state.answered;
    const done = `${state.answered} of ${state.of} answered by ${state.rater}`;
    facts.textContent = [done, state.left, state.agreement].filter(Boolean).join("; ");
    undo.setAttribute("aria-disabled", `${state.answered === 0}`);
    if (state.screen) turnTo(state.screen.open);
    say(state.said, announced());
    if (was.inStage) {
      const same = stage.querySelectorAll(`[data-press="${was.press}"]`);
      (same[state.screen?.question === "good" ? place : 0] ?? root).focus({ preventScroll: true });
    }
    since = performance.now();
  }

  function announced() {
    if (!state.screen) return "All is answered.";
    const { question, prompt, groups } = state.screen;
    return `${question === "good" ? `Image ${place + 1} of ${groups.length}:` : asked.textContent} ${prompt}.`;
  }

  function drawn() {
    const { question, groups, given } = state.screen;
    const box = make("div", `groups ${question}`);
    groups.forEach((sources, i) => box.append(group(question, sources, i, given[i])));
    if (question === "good") return [box];
    const row = make("div", "choices");
    row.append(...choices().map(([choice, key, words]) => button(choice, key, words)));
    return [box, row];
  }

  function group(question, sources, i, given) {
    const name = sources.length > 1 ? `Set ${i + 1}` : `Image ${i + 1}`;
    const mark = question === "good" && MARKS.find(([choice]) => choice === given);
    const caption = make("p", "caption", mark ? `${name}: ${mark[3]} ${mark[2].toLowerCase()}` : name);
    const made = make("div", "group", undefined, { role: "group", "aria-label": caption.textContent });
    const images = make("div", "images");
    for (const [j, source] of sources.entries()) {
      const image = make("img", "", undefined, {
        src: source, draggable: "false", alt: sources.length > 1 ? `${name}, image ${j + 1}` : name });
      const { side } = state.screen;
      const times = (wide) => `${Math.max(1, Math.floor(wide / side)) * side}px`; // each pixel as large as the next
      for (const [name, wide] of [["wide", 256], ["middle", 192], ["narrow", 128]]) {
        image.style.setProperty(`--${name}`, times(wide));
      }
      images.append(image);
    }
    made.append(caption, images);
    if (question === "good") {
      const row = make("div", "choices");
      for (const [choice, key, words, sign] of MARKS) {
        const made = button(choice, key, `${sign} ${words}`, `${words}, image ${i + 1}`);
        made.setAttribute("aria-pressed", `${choice === given}`);
        row.append(made);
      }
      made.append(row);
    }
    return made;
  }

  function turnTo(next) {
    place = next;
    if (state.screen.question !== "good") return;
    [...stage.querySelectorAll(".group")].forEach((one, i) => {
      one.classList.toggle("current", i === place);
      if (i === place) one.setAttribute("aria-current", "true");
      else one.removeAttribute("aria-current");
    });
  }

  // ---- mouse and keys ----

  function clicked(event) {
    const pressed = event.target.closest("[data-press]");
    if (!pressed || pressed.getAttribute("aria-disabled") === "true") return;
    const groups = [...stage.querySelectorAll(".group")];
    const at = groups.findIndex((one) => one.contains(pressed));
    press(pressed.dataset.press, at < 0 ? place : at);
  }

  function keyed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab" || event.key === "Escape") return;
    event.stopPropagation(); // else JupyterLab would take b for a new cell, and d d would delete one
    const key = event.key.toLowerCase();
    const step = { arrowleft: -1, arrowright: 1 }[key];
    if (step && state?.screen?.question === "good") {
      event.preventDefault();
      turnTo(Math.min(Math.max(place + step, 0), state.screen.groups.length - 1));
      say("", announced());
      return;
    }
    const found = key === "u" ? ["undo"] : state?.screen && choices().find((choice) => choice[1] === key);
    if (!found) return;
    event.preventDefault();
    if (!event.repeat) press(found[0]); // a key that is held down is one press
  }

  root.addEventListener("click", clicked);
  root.addEventListener("keydown", keyed);
  model.on("msg:custom", received);
  send({ kind: "ready" });
  return () => {
    clearTimeout(timer);
    model.off("msg:custom", received);
  };
}

export default { render };
