// Keeps one event stream to Portero open for as long as the page is: reconnects with growing
// pauses, and says when the caller must fetch the timeline anew because something may be missing.

const PAUSE_MS_MIN = 1_000;
const PAUSE_MS_MAX = 30_000;
/** Hidden for longer than this, a phone has probably cut the connection without telling us. */
const HIDDEN_MS_MAX = 30_000;

/**
 * Starts the stream. `on` has: item(data), status(data), phones(data), hello(data), opened() after
 * every connect, lost() when it breaks, denied() when the session is over. Returns stop().
 */
export function openStream(on, { url = "/api/stream", probe }) {
  let source = null;
  let timer = 0;
  let pause = PAUSE_MS_MIN;
  let hiddenAt = 0;
  let stopped = false;

  function connect() {
    clearTimeout(timer);
    source?.close();
    source = new EventSource(url);
    source.onopen = () => {
      pause = PAUSE_MS_MIN;
      on.opened();
    };
    source.onerror = retry;
    for (const name of ["item", "status", "phones", "hello"]) {
      source.addEventListener(name, (event) => on[name](parse(event.data)));
    }
  }

  // The browser's own reconnection gives up on some answers and hammers on others; ours does not.
  function retry() {
    source.close();
    if (stopped) return;
    on.lost();
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const state = await probe();
      if (stopped) return;
      if (state === "denied") return on.denied();
      if (state === "ok") return connect();
      retry();
    }, pause * (0.8 + Math.random() * 0.4));
    pause = Math.min(pause * 2, PAUSE_MS_MAX);
  }

  function onVisible() {
    if (document.hidden) {
      hiddenAt = Date.now();
    } else if (hiddenAt && Date.now() - hiddenAt > HIDDEN_MS_MAX) {
      connect();
    }
  }

  function onOnline() {
    pause = PAUSE_MS_MIN;
    connect();
  }

  document.addEventListener("visibilitychange", onVisible);
  addEventListener("online", onOnline);
  connect();
  return function stop() {
    stopped = true;
    clearTimeout(timer);
    source?.close();
    document.removeEventListener("visibilitychange", onVisible);
    removeEventListener("online", onOnline);
  };
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
