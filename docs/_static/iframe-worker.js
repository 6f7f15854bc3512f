// A page that is read from a disk may start no worker: the search runs in a hidden frame there.
// The theme looks for the name IFrameWorker, as the package iframe-worker gives it.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      const inside = this.frame.contentWindow, page = this.frame.contentDocument;
      const load = (source) => new Promise((loaded, failed) => {
        const script = page.createElement("script");
        Object.assign(script, { src: source, onload: loaded, onerror: failed });
        page.body.appendChild(script);
      });
      page.open();
      page.write("<html><body></body></html>");
      page.close();
      inside.importScripts = (...sources) => sources.reduce((done, x) => done.then(() => load(x)), Promise.resolve());
      inside.postMessage = (data) => this.tell(this, MessageEvent, data);
      this.ready = load(new URL(url, document.baseURI).href);
    }
    postMessage(data) {
      this.ready.then(() => this.tell(this.frame.contentWindow, this.frame.contentWindow.MessageEvent, data));
    }
    tell(target, kind, data) {
      const event = new kind("message", { data });
      target.dispatchEvent(event);
      if (target === this && this.onmessage) this.onmessage(event);
    }
    terminate() {
      this.frame.remove();
    }
  };
  window.Worker = window.IFrameWorker;
}
