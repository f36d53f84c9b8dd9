/* Copyright 2026 samm_ros maintainers
   SPDX-License-Identifier: Apache-2.0
   Keys, fingers, and files that are dropped on the page or fetched from it. All else is the server's. */
(() => {
  const call = (name, ...values) => window.trame.trigger(name, values);

  /* The views ask the server for so many pixels. A tablet's own number would be four times the work, and show nothing more. */
  const MAX_RATIO = 1.5;
  const ratio = Object.getOwnPropertyDescriptor(window, "devicePixelRatio");
  Object.defineProperty(window, "devicePixelRatio", { ...ratio, get: () => Math.min(ratio.get.call(window), MAX_RATIO) });

  const tools = { p: "positive", n: "negative", x: "box", r: "roi", w: "window" };
  const actions = {
    s: "prompt", l: "live", m: "marks_follow", e: "freeze", a: "new_segment", c: "clear", delete: "remove_mark", backspace: "remove_mark",
    z: "undo", y: "redo", g: "propagate", b: "segment_roi", d: "show_3d", f: "fit",
  };

  window.addEventListener("keydown", (event) => {
    if (event.target.matches("input:not([type=range]), select, textarea")) return;
    if (event.altKey || event.metaKey || (event.ctrlKey && !"zy".includes(event.key))) return;
    const key = event.key.toLowerCase();
    const state = window.trame.state.state;
    if (key === "escape") call(...(state.dialog ? ["dialog", ""] : ["act", "stop"]));
    else if (key === "?") call("dialog", "help");
    else if (key === "o") call("dialog", "open");
    else if (tools[key]) call("choose_tool", tools[key]);
    else if (actions[key]) call("act", actions[key]);
    else if (key === "arrowup" || key === "arrowdown") {
      call("show_slice", state.view, state[`${state.view}_index`] + (key === "arrowup" ? 1 : -1));
    } else return;
    event.preventDefault();
  });

  const send = (file, name) => new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/upload/" + name.split("/").map(encodeURIComponent).join("/"));
    request.upload.onprogress = (event) => {
      window.trame.state.set("busy", `Sending ${file.name}: ${Math.round((100 * event.loaded) / event.total)} %`);
    };
    request.onload = () => (request.status < 300 ? done() : failed(new Error(request.responseText)));
    request.onerror = () => failed(new Error(`${file.name} could not be sent; is the viewer still there?`));
    request.send(file);
  });

  window.samm = {
    /* Names this tab, among those of a shared session. */
    tab: Math.random().toString(36).slice(2),
    async upload(files) {
      const list = [...files];
      if (!list.length) return;
      /* Several files are one series: they go into one folder. */
      const folder = list.length > 1 ? `series-${Date.now()}` : "";
      const names = list.map((file) => (file.webkitRelativePath || file.name).replaceAll("/", "_").slice(-180));
      /* A header says which file beside it holds the voxels. */
      const header = names.find((name) => /\.(mhd|nhdr)$/i.test(name));
      try {
        for (const [n, file] of list.entries()) await send(file, folder ? `${folder}/${names[n]}` : names[n]);
        call("open_uploaded", folder && header ? `${folder}/${header}` : folder || names[0]);
      } catch (error) {
        call("tell", error.message);
      }
    },
    download([tab, name]) {
      if (tab !== window.samm.tab) return;
      const link = document.createElement("a");
      link.href = "/download/" + encodeURIComponent(name);
      link.download = name;
      link.click();
    },
  };

  /* One finger is the left button, as soon as it is clear that no second one comes. Two move and zoom the picture. The views
     take touches too, but they place a mark with each finger. */
  const HOLD_MS = 90, SLIP_PX = 8;
  const fingers = new Map();
  let held = null; /* the first finger's press, which the view has not seen yet */
  let pinch = null;

  const overlay = (target) => !target.closest(".over") &&
    [...document.querySelectorAll(".grid .over")].find((over) => over.parentElement.contains(target));
  const pass = (type, { target, pointerId, clientX, clientY, button, buttons }) => target.dispatchEvent(new PointerEvent(type, {
    pointerType: "mouse", bubbles: true, cancelable: true, pointerId, clientX, clientY, button, buttons,
  }));
  const letGo = () => {
    if (!held) return;
    clearTimeout(held.timer);
    const { event } = held;
    held = null;
    pass("pointerdown", event);
  };
  const spread = () => {
    const [one, other] = [...fingers.values()];
    return {
      x: (one.clientX + other.clientX) / 2, y: (one.clientY + other.clientY) / 2,
      apart: Math.max(1, Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY)),
    };
  };
  /* Others than before may be the two that move: what they do counts from here. */
  const restart = () => {
    if (fingers.size === 2) pinch.now = pinch.shown = spread();
  };
  /* One step is on its way at a time; the next one is what the fingers have done since. */
  const follow = async (own) => {
    const { over, now, shown } = own;
    if (own.isBusy || now === shown) return;
    own.isBusy = true;
    own.shown = now;
    const box = over.parentElement.getBoundingClientRect();
    const moved = [(now.x - shown.x) / box.width, (now.y - shown.y) / box.height];
    await call("pinch", over.dataset.view, now.apart / shown.apart, ...moved);
    own.isBusy = false;
    follow(own);
  };

  const touch = {
    pointerdown(event) {
      const over = overlay(event.target);
      fingers.set(event.pointerId, event);
      if (fingers.size === 1) {
        /* The view is drawn more often while the mouse is in it. */
        over.parentElement.dispatchEvent(new MouseEvent("mouseenter"));
        held = { event, timer: setTimeout(letGo, HOLD_MS) };
      } else if (pinch) {
        restart();
      } else if (fingers.size === 2) {
        if (held) clearTimeout(held.timer);
        else pass("pointercancel", fingers.values().next().value);
        held = null;
        pinch = { over, isBusy: false };
        restart();
      }
    },
    pointermove(event) {
      fingers.set(event.pointerId, event);
      if (pinch) {
        if (fingers.size !== 2) return;
        pinch.now = spread();
        follow(pinch);
        return;
      }
      if (held) {
        const { clientX, clientY } = held.event;
        if (Math.hypot(event.clientX - clientX, event.clientY - clientY) <= SLIP_PX) return;
        letGo();
      }
      pass("pointermove", event);
    },
    pointerup(event) {
      fingers.delete(event.pointerId);
      letGo();
      if (!pinch) pass(event.type, event);
      else if (fingers.size) restart();
      else pinch = null;
    },
  };
  touch.pointercancel = touch.pointerup;
  for (const [type, act] of Object.entries(touch)) {
    window.addEventListener(type, (event) => {
      if (event.pointerType !== "touch") return;
      if (type === "pointerdown" ? !overlay(event.target) : !fingers.has(event.pointerId)) return;
      event.stopImmediatePropagation();
      act(event);
    }, { capture: true });
  }

  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    window.samm.upload(event.dataTransfer.files);
  });
  /* The right button zooms. */
  window.addEventListener("contextmenu", (event) => {
    if (event.target.closest(".grid")) event.preventDefault();
  });
})();
