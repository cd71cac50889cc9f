/** Elements without markup: text is only ever put into text nodes. */

/** An element by its id. */
export const byId = (id) => document.getElementById(id);

/** An element. Attributes that are null or false are left out; `onclick` and the like are listeners. */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(2).filter((child) => child != null && child !== false));
  return node;
}

/** Show a note for a few seconds, for eyes and for screen readers. */
let hideToast;
export function toast(text) {
  const node = byId("toast");
  node.textContent = text;
  clearTimeout(hideToast);
  hideToast = setTimeout(() => { node.textContent = ""; }, 4000);
}

/** Do the work of a button, once at a time. Unlike a disabled button, it keeps the focus. */
export async function working(button, work) {
  if (button.hasAttribute("aria-disabled")) return;
  button.setAttribute("aria-disabled", "true");
  try { await work(); } finally { button.removeAttribute("aria-disabled"); }
}

/** Let the dialog that `fill` fills open, and wait until it closes. Returns its return value. */
export function ask(dialog, ...children) {
  dialog.returnValue = "";
  dialog.replaceChildren(...children);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}
