// What this browser remembers between visits: a few short texts. Storage may be switched off or
// full; then nothing is remembered and nothing fails.

/** The text under a key, or null. */
export function recall(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

/** Keeps a text under a key. */
export function remember(key, value) {
  try {
    localStorage.setItem(key, String(value));
  } catch {
    // See above.
  }
}

/** Drops what is kept under a key. */
export function forget(key) {
  try {
    localStorage.removeItem(key);
  } catch {
    // See above.
  }
}
