// TensorBoard around us: its theme, and its word that data were reloaded.

/** Call back with true or false whenever TensorBoard turns dark or light; now, too. */
export function onTheme(callback) {
  let body = null;
  try {
    if (window.parent !== window) body = window.parent.document.body;
  } catch {
    body = null;
  }
  if (body === null) {
    const query = matchMedia("(prefers-color-scheme: dark)");
    query.addEventListener("change", () => callback(query.matches));
    callback(query.matches);
    return;
  }
  const tell = () => callback(body.classList.contains("dark-mode"));
  new MutationObserver(tell).observe(body, { attributes: true, attributeFilter: ["class"] });
  tell();
}

/** Call back when TensorBoard says that it has reloaded its data. */
export function onReload(callback) {
  if (window.parent === window) return;
  const channel = new MessageChannel();
  const port = channel.port1;
  port.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.isReply) return;
    if (message.type === "experimental.DataReloaded") callback();
    const { type, id } = message;
    port.postMessage(JSON.stringify({ type, id, payload: null, error: null, isReply: true }));
  };
  window.parent.postMessage("experimental.bootstrap", window.location.origin, [channel.port2]);
}
