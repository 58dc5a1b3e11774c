// Nothing logged yet: which lines to add to a trainer, ready to copy.

import { h, note } from "../dom.js";

const LINES = `import hfc_probe

probe = hfc_probe.attach(model, val_loader, optimizer=optimizer, log_dir="runs/my-run")
for epoch in range(epochs):
    train_one_epoch(...)
    probe.end_epoch()
probe.close()`;

function snippet(text) {
  const button = h(
    "button",
    {
      onclick: async () => {
        try {
          await navigator.clipboard.writeText(text);
          button.textContent = "Copied";
        } catch {
          getSelection().selectAllChildren(code); // no clipboard here: selected, to be copied by hand
          button.textContent = "Selected";
        }
        setTimeout(() => (button.textContent = "Copy"), 1500);
      },
    },
    "Copy",
  );
  const code = h("code", {}, text);
  return h("div", { class: "snippet" }, h("pre", {}, code), button);
}

/** What to do if there is no run with anything of ours. */
export function emptyState(index) {
  return h(
    "section",
    { class: "empty" },
    h("h2", {}, "Which image frequencies does your model rely on?"),
    note(
      index.other_runs
        ? `${index.other_runs} run(s) are here, but hfc_probe has logged nothing in them. Add to your trainer:`
        : "Nothing has been logged here yet. Add to your trainer:",
    ),
    snippet(LINES),
    note("Already using a SummaryWriter? Pass writer=writer instead of log_dir. To see an example run:"),
    snippet("hfc-probe demo --out runs/demo"),
    note("While it trains, switch Live on, above."),
  );
}
