/* Copyright 2026 samm_ros maintainers
   SPDX-License-Identifier: Apache-2.0
   Keys, and files that are dropped on the page or fetched from it. All else is the server's. */
(() => {
  const call = (name, ...values) => window.trame.trigger(name, values);
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
    download(name) {
      const link = document.createElement("a");
      link.href = "/download/" + encodeURIComponent(name);
      link.download = name;
      link.click();
    },
  };

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
