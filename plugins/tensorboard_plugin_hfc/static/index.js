// Where TensorBoard enters: it imports this module into a frame of ours and calls render().

import { App } from "./app.js";
import { h } from "./dom.js";

export function render() {
  document.title = "HFC";
  document.documentElement.lang = "en";
  const style = h("link", { rel: "stylesheet", href: "static/style.css" });
  const begin = () => new App(document.body).start();
  // Sizes are measured when drawing, so the style comes first; without it we draw all the same.
  style.addEventListener("load", begin, { once: true });
  style.addEventListener("error", begin, { once: true });
  document.head.append(style);
}
